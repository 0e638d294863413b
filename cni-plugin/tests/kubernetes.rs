//! What the agent does for a node of a cluster: it finds pods that run already, follows their annotations, installs the
//! plugin, and keeps the rule for probes. The node's /proc and its directories are made by the test.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the failure report"
)]

#[allow(dead_code, reason = "the other test uses the rest")]
mod node;

use std::os::fd::AsRawFd;
use std::process::Command;

use nix::sys::signal::Signal;
use node::{Node, Pod, Ztunnel, root, until};
use sys::Netns;

const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";

/// A manifest of a running pod with this address.
fn running(node: &Node, annotations: &str, labels: &str) {
    running_as(UID, node, annotations, labels);
}

fn running_as(uid: &str, node: &Node, annotations: &str, labels: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: web, namespace: shop, uid: {uid}, labels: {{{labels}}}, annotations: {{{annotations}}}}}\n\
         spec: {{nodeName: n1, serviceAccountName: sa-web}}\n\
         status: {{phase: Running, podIP: 10.7.0.9, podIPs: [{{ip: 10.7.0.9}}]}}\n"
    );
    node.write("pod-web.yaml", &text);
}

/// A process of the pod in the /proc that the agent is shown, and one of the node.
fn process(node: &Node, pod: &Pod, host: &Netns) {
    process_of(UID, node, pod, host);
}

fn process_of(uid: &str, node: &Node, pod: &Pod, host: &Netns) {
    let mut ip = Command::new("ip");
    ip.args(["addr", "add", "10.7.0.9/32", "dev", "lo"]);
    assert!(pod.netns.enter(|| ip.status()).unwrap().unwrap().success());
    for (pid, netns) in [("1", host), ("77", &pod.netns)] {
        let process = node.path("host/proc").join(pid);
        std::fs::create_dir_all(process.join("ns")).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        std::os::unix::fs::symlink(path, process.join("ns/net")).unwrap();
        std::fs::write(
            process.join("cgroup"),
            format!("0::/kubepods/burstable/pod{uid}/c1"),
        )
        .unwrap();
        let fields = ["0"; 18].join(" ");
        std::fs::write(process.join("stat"), format!("{pid} (x) S {fields} 9 0")).unwrap();
    }
}

/// Both ends of a connection at one of ztunnel's ports.
fn open_through_ztunnel(pod: &Pod) -> [std::net::TcpStream; 2] {
    let both = pod.netns.enter(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:15001").unwrap();
        let client = std::net::TcpStream::connect("127.0.0.1:15001").unwrap();
        [listener.accept().unwrap().0, client]
    });
    both.unwrap()
}

fn heard(pod: &Pod) -> String {
    heard_as(UID, pod)
}

fn heard_as(uid: &str, pod: &Pod) -> String {
    format!("add {uid} shop/web sa-web {}", pod.netns.id().ino)
}

#[tokio::test]
async fn a_pod_that_started_while_nobody_was_there_is_found_and_follows_its_labels() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    let (pod, host) = (Pod::new("web"), Netns::create().unwrap());
    process(&node, &pod, &host);
    let mounts = node.path("host").display().to_string();
    node.start(&[("HOST_MOUNTS", &mounts)]).await;
    let (mut ztunnel, named) = Ztunnel::connect(&node).await;
    assert!(named.is_empty(), "{named:?}");
    running(&node, "", "");
    assert_eq!(ztunnel.take(Ok(())).await, heard(&pod));
    until(|| pod.is_captured()).await;
    assert!(pod.rules().contains("15053") && pod.rules().contains("15006"));
    // Its own switches, while it runs.
    running(
        &node,
        "ambient.istio.io/dns-capture: 'false', ambient.istio.io/bypass-inbound-capture: 'true'",
        "",
    );
    until(|| !pod.rules().contains("15053")).await;
    assert!(pod.is_captured() && !pod.rules().contains("15006"));
    running(&node, "", "istio.io/dataplane-mode: none");
    assert_eq!(ztunnel.take(Ok(())).await, format!("del {UID}"));
    until(|| pod.rules().is_empty()).await;
    running(&node, "", "");
    assert_eq!(ztunnel.take(Ok(())).await, heard(&pod));
    until(|| pod.is_captured()).await;
    // The list is lost, the agent killed: it finds the pod again.
    node.signal(Signal::SIGKILL);
    node.ended().await;
    std::fs::remove_dir_all(node.path("state")).unwrap();
    node.start(&[("HOST_MOUNTS", &mounts)]).await;
    let (mut ztunnel, mut named) = Ztunnel::connect(&node).await;
    // Found before a ztunnel was there, it may be taken back once and tried again.
    while named.last() != Some(&heard(&pod)) {
        named.push(ztunnel.take(Ok(())).await);
    }
}

#[tokio::test]
async fn when_the_list_is_lost_the_first_ztunnel_hears_of_who_was_captured() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    let (pod, host) = (Pod::new("web"), Netns::create().unwrap());
    process(&node, &pod, &host);
    let mounts = node.path("host").display().to_string();
    running(&node, "ambient.istio.io/redirection: enabled", "");
    // The cluster does not answer yet when ztunnel comes.
    let (there, away) = (node.path("manifests"), node.path("away"));
    std::fs::rename(&there, &away).unwrap();
    node.start(&[("HOST_MOUNTS", &mounts)]).await;
    let answers = async { std::fs::rename(&away, &there).unwrap() };
    let ((_ztunnel, named), ()) = tokio::join!(Ztunnel::connect(&node), answers);
    // Who is not named there is cut off.
    assert_eq!(named, [heard(&pod)]);
    until(|| pod.is_captured()).await;
}

#[tokio::test]
async fn a_pod_from_a_file_is_found_by_its_hash_and_stays_in_when_its_object_is_made_anew() {
    if !root() {
        return;
    }
    const HASH: &str = "0123456789abcdef0123456789abcdef";
    let mut node = Node::new();
    let (pod, host) = (Pod::new("web"), Netns::create().unwrap());
    process_of(HASH, &node, &pod, &host);
    let mounts = node.path("host").display().to_string();
    node.start(&[("HOST_MOUNTS", &mounts)]).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    let hash = format!("kubernetes.io/config.hash: '{HASH}'");
    running_as("u-mirror", &node, &hash, "");
    assert_eq!(ztunnel.take(Ok(())).await, heard_as(HASH, &pod));
    until(|| pod.is_captured()).await;
    // Somebody deletes the object, and the kubelet makes another; the other annotation shows that it was looked at.
    let looked = format!("{hash}, ambient.istio.io/bypass-inbound-capture: 'true'");
    running_as("u-anew", &node, &looked, "");
    until(|| !pod.rules().contains("15006")).await;
    assert!(pod.is_captured());
    running_as("u-anew", &node, &looked, "istio.io/dataplane-mode: none");
    assert_eq!(ztunnel.take(Ok(())).await, format!("del {HASH}"));
}

#[tokio::test]
async fn ztunnel_lets_go_of_the_pod_that_another_of_its_name_replaced() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    let (older, host) = (Pod::new("web"), Netns::create().unwrap());
    let mounts = node.path("host").display().to_string();
    node.pod("web", "", "n1");
    node.start(&[("HOST_MOUNTS", &mounts)]).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    node.add(&older, &mut ztunnel).await;
    // A StatefulSet's next one started while nobody was there to be asked, and no DEL of the older one came.
    let pod = Pod::new("web");
    process(&node, &pod, &host);
    running(&node, "", "");
    assert_eq!(ztunnel.take(Ok(())).await, "del uid-web");
    assert_eq!(ztunnel.take(Ok(())).await, heard(&pod));
}

#[tokio::test]
async fn a_pod_that_is_taken_out_is_served_on_for_a_while_and_may_come_back() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "", "n1");
    node.start(&[("WITHDRAW_WAIT", "600s")]).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    let pod = Pod::new("web");
    node.add(&pod, &mut ztunnel).await;
    node.pod("web", "istio.io/dataplane-mode: none", "n1");
    until(|| !pod.is_captured()).await;
    assert!(pod.is_eased(), "{}", pod.rules());
    node.pod("web", "", "n1");
    // Not told of an end before, and not of one when it does not take it at once: what is open goes on.
    assert_eq!(ztunnel.take(Err("not now")).await, node::added(&pod));
    assert_eq!(ztunnel.take(Ok(())).await, node::added(&pod));
    until(|| pod.is_captured()).await;
    node.pod("web", "istio.io/dataplane-mode: none", "n1");
    until(|| !pod.is_captured()).await;
    let (del, heard) = tokio::join!(node.cni("DEL", &pod), ztunnel.take(Ok(())));
    assert!(del.ok, "{del:?}");
    assert_eq!(heard, "del uid-web", "it is gone: nothing to wait for");
}

#[tokio::test]
async fn a_pod_that_was_taken_out_is_let_go_when_its_time_is_over() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "", "n1");
    node.start(&[("WITHDRAW_WAIT", "100ms")]).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    let pod = Pod::new("web");
    node.add(&pod, &mut ztunnel).await;
    node.pod("web", "istio.io/dataplane-mode: none", "n1");
    assert_eq!(ztunnel.take(Ok(())).await, "del uid-web");
    until(|| pod.rules().is_empty()).await;
}

#[tokio::test]
async fn the_next_agent_serves_who_leaves_and_ends_it() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "", "n1");
    let long = [("WITHDRAW_WAIT", "600s")];
    node.start(&long).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    let pod = Pod::new("web");
    node.add(&pod, &mut ztunnel).await;
    node.pod("web", "istio.io/dataplane-mode: none", "n1");
    let list = || std::fs::read_to_string(node.path("state/pods.json")).unwrap();
    until(|| !list().contains("\"leaving_since\": null")).await;
    node.signal(Signal::SIGKILL);
    assert_eq!(node.ended().await, None);
    // A ztunnel that is not told of it again would cut what is open.
    node.start(&long).await;
    let (ztunnel, named) = Ztunnel::connect(&node).await;
    assert_eq!(named, [node::added(&pod)]);
    assert!(pod.is_eased(), "{}", pod.rules());
    drop(ztunnel);
    node.signal(Signal::SIGKILL);
    assert_eq!(node.ended().await, None);
    node.start(&[]).await;
    until(|| pod.rules().is_empty()).await;
}

#[tokio::test]
async fn rules_without_a_pod_in_the_mesh_go_only_after_ztunnel_has_heard_of_it() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    let (pod, host) = (Pod::new("web"), Netns::create().unwrap());
    process(&node, &pod, &host);
    let mounts = node.path("host").display().to_string();
    running(&node, "", "istio.io/dataplane-mode: none");
    node.start(&[("HOST_MOUNTS", &mounts)]).await;
    assert!(node.cni("ADD", &pod).await.ok);
    node.signal(Signal::SIGKILL);
    assert_eq!(node.ended().await, None);
    // As if the agent had ended just before it took them away, with a connection open through ztunnel.
    let rules = cni_plugin::rules::render(cni_plugin::rules::Options {
        dns: true,
        ipv6: true,
    });
    cni_plugin::apply::install(&pod.netns, &rules).unwrap();
    let connection = open_through_ztunnel(&pod);
    node.start(&[("HOST_MOUNTS", &mounts)]).await;
    until(|| pod.is_eased()).await;
    let (mut ztunnel, named) = Ztunnel::connect(&node).await;
    assert_eq!(named, [heard(&pod)]);
    assert_eq!(ztunnel.hear().await, format!("del {UID}"));
    assert!(pod.is_eased(), "{}", pod.rules());
    ztunnel.answer(Ok(())).await;
    until(|| pod.rules().is_empty()).await;
    drop(connection);
}

#[tokio::test]
async fn what_an_agent_before_us_left_in_a_pod_that_is_out_is_taken_out() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    let (pod, host) = (Pod::new("web"), Netns::create().unwrap());
    process(&node, &pod, &host);
    let rules = cni_plugin::rules::render(cni_plugin::rules::Options {
        dns: true,
        ipv6: true,
    });
    cni_plugin::apply::install(&pod.netns, &rules).unwrap();
    running(
        &node,
        "ambient.istio.io/redirection: enabled",
        "istio.io/dataplane-mode: none",
    );
    let mounts = node.path("host").display().to_string();
    node.start(&[("HOST_MOUNTS", &mounts)]).await;
    until(|| pod.rules().is_empty()).await;
}

#[tokio::test]
async fn the_node_gets_the_plugin_and_the_rule_for_probes_of_captured_pods() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    let (pod, host) = (Pod::new("web"), Netns::create().unwrap());
    process(&node, &pod, &host);
    node.pod("web", "", "n1");
    for name in ["net.d", "bin"] {
        std::fs::create_dir(node.path(name)).unwrap();
    }
    let conf = node.path("net.d/10-net.conflist");
    std::fs::write(
        &conf,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"}]}"#,
    )
    .unwrap();
    let show = |name: &str| node.path(name).display().to_string();
    let (mounts, net, bin) = (show("host"), show("net.d"), show("bin"));
    node.start(&[
        ("HOST_MOUNTS", &mounts),
        ("INSTALL_PLUGIN", "true"),
        ("MOUNTED_CNI_NET_DIR", &net),
        ("MOUNTED_CNI_BIN_DIR", &bin),
        ("HOST_PROBES", "true"),
        ("ALLOW_SWITCH_TO_HOST_NS", "true"),
        ("POD_NAMESPACE", "mesh"),
        ("POD_NAME", "agent-x7k2p"),
    ])
    .await;
    until(|| {
        std::fs::read_to_string(&conf)
            .unwrap()
            .contains("causeway-cni")
    })
    .await;
    let text = std::fs::read_to_string(&conf).unwrap();
    assert!(
        text.contains(&node.path("agent.sock").display().to_string()),
        "{text}"
    );
    assert!(text.contains("\"daemonSet\": \"agent\""), "{text}");
    assert!(node.path("bin/causeway-cni").exists());
    let on_host = || {
        let mut nft = Command::new("nft");
        let out = host
            .enter(|| nft.args(["list", "ruleset"]).output())
            .unwrap()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    node.add(&pod, &mut ztunnel).await;
    // The address that the plugins before ours gave.
    until(|| on_host().contains("10.0.0.2")).await;
    // Somebody reloads the node's firewall.
    let mut flush = Command::new("nft");
    assert!(
        host.enter(|| flush.args(["flush", "ruleset"]).status())
            .unwrap()
            .unwrap()
            .success()
    );
    until(|| on_host().contains("snat ip to 169.254.7.127")).await;
    let (del, _) = tokio::join!(node.cni("DEL", &pod), ztunnel.take(Ok(())));
    assert!(del.ok, "{del:?}");
    until(|| !on_host().contains("10.0.0.2")).await;
}
