//! What only shows when a change comes in the middle of a CNI call.
use std::pin::pin;

use objects::{Event, Object};
use sys::Netns;
use zds::server::Listener;

use super::*;
use crate::spec::PodRef;

/// The namespace `shop` with this mode and its pod `web` on our node.
fn cluster(mode: &str) -> Event {
    let text = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{istio.io/dataplane-mode: {mode}}}}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: shop, uid: u-1}}, spec: {{nodeName: n1}}}}\n"
    );
    let objects: Vec<Object> = objects::parse(&text)
        .results
        .into_iter()
        .map(Result::unwrap)
        .collect();
    Event::Snapshot {
        objects,
        faults: Arc::new([]),
    }
}

/// A node, and what serves its ztunnels. Everything that it writes is in the directory.
pub(in crate::agent) fn node(
    dir: &std::path::Path,
    leaves: bool,
) -> (
    Membership,
    impl Future<Output = std::io::Error> + Send + 'static,
) {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut settings = runtime::Settings::from_pairs([
        ("NODE_NAME".to_owned(), "n1".to_owned()),
        ("AGENT_SOCKET".to_owned(), path("agent.sock")),
        ("ZTUNNEL_UDS_ADDRESS".to_owned(), path("zds.sock")),
        ("INSTALL_PLUGIN".to_owned(), "false".to_owned()),
        ("LEAVE_NODE".to_owned(), leaves.to_string()),
        ("HOST_MOUNTS".to_owned(), path("host")),
    ]);
    let config = Config::read(&mut settings);
    let pods = Arc::new(Store::open(&dir.join("pods.json"), &config.places).unwrap());
    let listener = Listener::bind(&dir.join("zds.sock")).unwrap();
    let (ztunnel, serving) = zds::server::serve(listener, Arc::clone(&pods) as _);
    let members = Membership {
        world: Arc::new(World::new("n1", Default::default())),
        pods,
        ztunnel,
        config,
        shutdown: Shutdown::new(),
        turn: Arc::default(),
        found_once: watch::Sender::new(true),
        through_once: watch::Sender::new(true),
        uninstalling: AtomicBool::new(false),
    };
    (members, serving)
}

/// Until the pod is in the list a change of labels finds nobody that it could apply to: an ADD that decided before
/// and wrote after would leave the pod uncaptured.
#[tokio::test]
async fn labels_that_change_while_an_add_waits_for_its_turn_count() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a network namespace needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (members, _nobody) = node(dir.path(), false);
    members.world.apply(cluster("none"));
    let netns = Netns::create().unwrap();
    let arrival = Arrival {
        container_id: "c-1".into(),
        pod: PodRef {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u-1".into(),
        },
        netns,
        netns_path: "/nowhere".into(),
        ips: Vec::new(),
    };
    let others = members.turn.lock().await;
    let mut add = pin!(members.add(arrival));
    tokio::select! {
        biased;
        early = &mut add => panic!("it is not its turn: {early:?}"),
        () = std::future::ready(()) => {}
    }
    members.world.apply(cluster("ambient"));
    drop(others);
    // It is of the mesh now, and no ztunnel is there to serve it.
    let refused = add.await.unwrap_err();
    assert_eq!(refused.msg, "pod shop/web could not be put into the mesh");
    assert!(members.pods.all().is_empty());
}
