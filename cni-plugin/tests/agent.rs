//! The real binaries, with the test as container runtime and as ztunnel.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the failure report"
)]

mod node;

use nix::sys::signal::Signal;
use node::{Node, Pod, Ztunnel, added, root, until, within};

#[tokio::test]
async fn a_pod_of_the_mesh_is_captured_served_checked_and_let_go() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "", "n1");
    node.start(&[]).await;
    let (mut ztunnel, snapshot) = Ztunnel::connect(&node).await;
    assert!(snapshot.is_empty());
    let pod = Pod::new("web");
    assert_eq!(node.add(&pod, &mut ztunnel).await, added(&pod));
    assert!(pod.is_captured());
    assert!(node.cni("CHECK", &pod).await.ok);
    assert!(node.cni("STATUS", &pod).await.ok);
    let (del, heard) = tokio::join!(node.cni("DEL", &pod), ztunnel.take(Ok(())));
    assert!(del.ok, "{del:?}");
    assert_eq!(heard, "del uid-web");
    assert_eq!(pod.rules(), "");
    assert!(node.cni("DEL", &pod).await.ok, "DEL twice");
    assert_eq!(node.cni("CHECK", &pod).await.error().0, 100);
}

#[tokio::test]
async fn a_pod_outside_the_mesh_starts_without_ztunnel_and_untouched() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("free", "istio.io/dataplane-mode: none", "n1");
    node.start(&[]).await;
    let pod = Pod::new("free");
    assert!(node.cni("ADD", &pod).await.ok);
    assert_eq!(pod.rules(), "");
    assert!(node.cni("CHECK", &pod).await.ok);
}

#[tokio::test]
async fn without_an_agent_only_exempt_namespaces_start() {
    if !root() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new("web");
    let (code, msg, details) = node.cni("ADD", &pod).await.error();
    assert_eq!(
        (code, msg.as_str()),
        (11, "the node agent of the mesh cannot be reached")
    );
    assert!(details.contains("agent.sock: "), "{details}");
    let status = node.cni("STATUS", &pod).await;
    assert!(
        status.ok,
        "a node whose network is not ready starts no agent: {status:?}"
    );
    assert!(node.cni("DEL", &pod).await.ok);
    let conf = r#"{"cniVersion":"1.0.0","name":"n","agentSocket":"/nowhere","excludeNamespaces":["kube-system"]}"#;
    let args = "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns";
    assert!(node.plugin("ADD", &pod, args, conf.into()).await.ok);
    let foreign = node.plugin("ADD", &pod, "", conf.into()).await;
    assert!(foreign.ok, "a container that is no pod: {foreign:?}");
}

#[tokio::test]
async fn an_add_waits_for_its_pod_and_its_ztunnel() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.start(&[]).await;
    let pod = Pod::new("late");
    let arrives = async {
        node.pod("late", "", "n1");
        let (ztunnel, named) = Ztunnel::connect(&node).await;
        assert!(named.is_empty(), "{named:?}");
        let mut ztunnel = ztunnel;
        ztunnel.take(Ok(())).await
    };
    let (add, heard) = tokio::join!(node.cni("ADD", &pod), arrives);
    assert!(add.ok, "{add:?}");
    assert_eq!(heard, added(&pod));
}

#[tokio::test]
async fn a_pod_that_stays_unknown_or_unserved_does_not_start() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "", "n1");
    node.pod("far", "", "n2");
    node.start(&[("OBJECT_WAIT", "20ms"), ("ZTUNNEL_WAIT", "20ms")])
        .await;
    // Known objects are found at once, so wait until they are known.
    let (nobody, far) = (Pod::new("nobody"), Pod::new("far"));
    let known = async { while node.cni("ADD", &far).await.error().0 == 11 {} };
    within("a pod of another node is known", known).await;
    let unknown = node.cni("ADD", &nobody).await.error();
    assert_eq!(
        (unknown.0, unknown.1.as_str()),
        (11, "pod shop/nobody is not known")
    );
    assert!(unknown.2.starts_with("waited 20ms for it"), "{unknown:?}");
    let far = node.cni("ADD", &far).await.error();
    assert_eq!(
        (far.0, far.1.as_str()),
        (100, "pod shop/far is not of this node")
    );
    let pod = Pod::new("web");
    let unserved = node.cni("ADD", &pod).await.error();
    assert_eq!(
        (unserved.0, unserved.1.as_str()),
        (11, "no ztunnel is connected on node n1")
    );
    assert_eq!(pod.rules(), "");
}

#[tokio::test]
async fn what_ztunnel_refuses_is_undone() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "", "n1");
    node.start(&[]).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    let pod = Pod::new("web");
    let refusing = async {
        let add = ztunnel.take(Err("port 15001 is taken")).await;
        let del = ztunnel.take(Ok(())).await;
        (add, del)
    };
    let (called, heard) = tokio::join!(node.cni("ADD", &pod), refusing);
    assert_eq!(heard, (added(&pod), "del uid-web".into()));
    let (code, msg, details) = called.error();
    assert_eq!(
        (code, msg.as_str()),
        (11, "pod shop/web could not be put into the mesh")
    );
    assert_eq!(details, "ztunnel refused: port 15001 is taken");
    assert_eq!(pod.rules(), "");
}

#[tokio::test]
async fn labels_move_a_running_pod_in_and_out() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.label(None);
    node.pod("web", "", "n1");
    node.start(&[]).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    let pod = Pod::new("web");
    assert!(node.cni("ADD", &pod).await.ok);
    assert!(!pod.is_captured());
    for _ in 0..2 {
        node.label(Some("ambient"));
        assert_eq!(ztunnel.take(Ok(())).await, added(&pod));
        until(|| pod.is_captured()).await;
        node.pod("web", "istio.io/dataplane-mode: none", "n1");
        assert_eq!(ztunnel.hear().await, "del uid-web");
        assert!(pod.is_eased(), "ztunnel has not let go: {}", pod.rules());
        ztunnel.answer(Ok(())).await;
        until(|| pod.rules().is_empty()).await;
        node.pod("web", "istio.io/dataplane-mode: ambient", "n1");
        assert_eq!(ztunnel.take(Ok(())).await, added(&pod));
        until(|| pod.is_captured()).await;
        node.label(None);
        node.pod("web", "", "n1");
        assert_eq!(ztunnel.take(Ok(())).await, "del uid-web");
        until(|| pod.rules().is_empty()).await;
    }
}

#[tokio::test]
async fn a_pod_that_leaves_the_cluster_is_let_go_but_stays_closed() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "", "n1");
    node.start(&[]).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    let pod = Pod::new("web");
    node.add(&pod, &mut ztunnel).await;
    std::fs::remove_file(node.path("manifests/pod-web.yaml")).unwrap();
    assert_eq!(ztunnel.take(Ok(())).await, "del uid-web");
    assert!(
        pod.is_captured(),
        "nothing may speak in the clear from there"
    );
}

#[tokio::test]
async fn a_killed_agent_finds_its_pods_again_and_repairs_their_rules() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "", "n1");
    node.start(&[]).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    let pod = Pod::new("web");
    node.add(&pod, &mut ztunnel).await;
    node.signal(Signal::SIGKILL);
    assert_eq!(node.ended().await, None);
    assert!(pod.is_captured());
    cni_plugin::apply::remove(&pod.netns).unwrap();
    node.start(&[]).await;
    let (_ztunnel, named) = Ztunnel::connect(&node).await;
    assert_eq!(named, [added(&pod)]);
    until(|| pod.is_captured()).await;
}

#[tokio::test]
async fn a_pod_whose_end_nobody_told_is_forgotten_after_a_restart() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "", "n1");
    node.start(&[]).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    let pod = Pod::new("web");
    node.add(&pod, &mut ztunnel).await;
    let kept = std::fs::read_to_string(node.path("state/pods.json")).unwrap();
    assert!(kept.contains("uid-web"), "{kept}");
    node.signal(Signal::SIGKILL);
    node.ended().await;
    drop(pod);
    std::fs::remove_file(node.path("manifests/pod-web.yaml")).unwrap();
    node.start(&[]).await;
    until(|| std::fs::read_to_string(node.path("state/pods.json")).unwrap() == "[]").await;
}

#[tokio::test]
async fn a_second_agent_is_refused_while_the_first_lives_and_takes_over_when_it_stops() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "", "n1");
    node.start(&[]).await;
    let (mut ztunnel, _) = Ztunnel::connect(&node).await;
    let pod = Pod::new("web");
    node.add(&pod, &mut ztunnel).await;
    let mut refused = node.agent_command();
    let refused = within("a refusal", refused.env("TAKEOVER_WAIT", "0s").output())
        .await
        .unwrap();
    assert_eq!(refused.status.code(), Some(3));
    let text = String::from_utf8(refused.stderr).unwrap();
    let socket = node.path("ztunnel.sock");
    assert!(
        text.contains(&format!("already serves {}", socket.display())),
        "{text}"
    );
    assert!(node.cni("CHECK", &pod).await.ok);

    let second = node
        .agent_command()
        .env("TAKEOVER_WAIT", "600s")
        .spawn()
        .unwrap();
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await, Some(0));
    assert!(pod.is_captured(), "rules stay while the agents change");
    node.adopt(second);
    node.until_served().await;
    let (_ztunnel, named) = Ztunnel::connect(&node).await;
    assert_eq!(named, [added(&pod)]);
    assert!(node.cni("CHECK", &pod).await.ok);
}

#[tokio::test]
async fn hostile_questions_are_answered_or_dropped_and_the_agent_goes_on() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    node.pod("web", "istio.io/dataplane-mode: none", "n1");
    node.start(&[]).await;
    let null = std::fs::File::open("/dev/null").unwrap();
    use std::os::fd::AsFd;
    for bytes in [
        &b"{"[..],
        b"{\"verb\":\"add\"}",
        b"[]",
        &[0xff; 20_000],
        b"{\"verb\":\"status\"}",
    ] {
        let peer = sys::seqpacket::Connection::connect(&node.path("agent.sock")).unwrap();
        peer.send_many(bytes, &[null.as_fd(), null.as_fd()])
            .unwrap();
    }
    assert!(node.cni("ADD", &Pod::new("web")).await.ok);
}

#[tokio::test]
async fn who_reaches_the_node_may_see_the_agent_but_not_end_it() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let free = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut node = Node::new();
    let address = format!("0.0.0.0:{port}");
    node.start(&[("ADMIN_ADDRESS", &address)]).await;
    let ask = async |request: &str| {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    assert!(ask("GET /metrics").await.starts_with("HTTP/1.1 200"));
    for request in ["POST /quitquitquit", "POST /logging?level=debug"] {
        let text = ask(request).await;
        assert!(text.starts_with("HTTP/1.1 404"), "{request}: {text}");
    }
}

#[tokio::test]
async fn wrong_settings_are_named_together() {
    let node = Node::new();
    let mut command = node.agent_command();
    command
        .env("NODE_NAME", "")
        .env("OBJECT_WAIT", "soon")
        .env("AMBIENT_IPV6", "yes");
    let out = within("its words", command.output()).await.unwrap();
    assert_eq!(out.status.code(), Some(2));
    let text = String::from_utf8(out.stderr).unwrap();
    for name in [
        "3 settings are wrong",
        "NODE_NAME=\"\"",
        "OBJECT_WAIT=\"soon\"",
        "AMBIENT_IPV6=\"yes\"",
    ] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn a_person_who_calls_the_binaries_is_told_what_they_are() {
    use std::process::Command;
    let agent = env!("CARGO_BIN_EXE_cni-agent");
    let plugin = env!("CARGO_BIN_EXE_causeway-cni");
    let answer = |binary: &str, argument: &str| {
        let out = Command::new(binary).arg(argument).output().unwrap();
        let text = [out.stdout, out.stderr].concat();
        (out.status.code(), String::from_utf8(text).unwrap())
    };
    for (binary, argument, code, expected) in [
        (agent, "--help", 0, "usage: cni-agent"),
        (agent, "--settings", 0, "| `NODE_NAME` |"),
        (agent, "--version", 0, "cni-agent 0."),
        (agent, "--hlep", 2, "unknown argument \"--hlep\""),
        (plugin, "--help", 0, "usage: causeway-cni"),
        (plugin, "--version", 0, "causeway-cni 0."),
        (plugin, "--hlep", 2, "unknown argument \"--hlep\""),
    ] {
        let (got, text) = answer(binary, argument);
        assert_eq!(got, Some(code), "{binary} {argument}: {text}");
        assert!(text.contains(expected), "{binary} {argument}: {text}");
    }
}
