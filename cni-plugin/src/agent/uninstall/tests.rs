//! The end of the mesh on a node, as a pod and its ztunnel see it.
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use zds::Request;
use zds::client::Connection;

use super::*;
use crate::agent::membership::tests::node;
use crate::agent::pods::arrived;
use crate::rules::{Switches, render_eased};

/// Nobody answers there.
fn cluster() -> Cluster {
    let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
    Cluster::new(kube::Client::try_from(config).unwrap(), None)
}

#[tokio::test]
async fn what_is_open_keeps_its_rules_until_ztunnel_has_let_go() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a network namespace needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (members, serving) = node(dir.path(), false);
    let members = Arc::new(members);
    let shutdown = members.shutdown.clone();
    shutdown.spawn_aside(serving);
    let pod = Netns::create().unwrap();
    let mut up = Command::new("ip");
    let up = pod.enter(|| up.args(["link", "set", "lo", "up"]).status());
    assert!(up.unwrap().unwrap().success());
    let connection = pod.enter(|| {
        let listener = TcpListener::bind("127.0.0.1:15001").unwrap();
        let client = TcpStream::connect("127.0.0.1:15001").unwrap();
        (client, listener.accept().unwrap())
    });
    apply::install(&pod, &members.rules(&Switches::default())).unwrap();
    let key = ("shop".to_owned(), "web".to_owned());
    let mut entry = arrived(key, "u-1".into(), pod.clone(), "/nowhere".into());
    entry.enrolled = true;
    members.pods.put(entry);
    let mut ztunnel = Connection::connect(&dir.path().join("zds.sock"))
        .await
        .unwrap();
    let named = ztunnel.next().await.unwrap();
    assert!(matches!(named, Request::Add { .. }), "{named:?}");
    ztunnel.ack(Ok(())).await.unwrap();
    let sent = ztunnel.next().await.unwrap();
    assert!(matches!(sent, Request::SnapshotSent), "{sent:?}");
    ztunnel.ack(Ok(())).await.unwrap();

    let removal = shutdown.spawn(async move {
        let open = Duration::from_millis(100);
        remove(&members, &cluster(), None, open).await
    });
    let told = ztunnel.next().await.unwrap();
    assert!(
        matches!(told, Request::Del { ref uid } if uid == "u-1"),
        "{told:?}"
    );
    let eased = render_eased(crate::rules::Options {
        dns: true,
        ipv6: true,
    });
    apply::check(&pod, &eased).unwrap();
    ztunnel.ack(Ok(())).await.unwrap();
    assert_eq!(removal.await.unwrap(), Some(Vec::new()));
    apply::check_removed(&pod, crate::rules::Writer::Nftables).unwrap();
    drop(connection);
}

#[tokio::test]
async fn an_agent_that_is_to_leave_its_node_asks_nobody_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let leaves = Arc::new(node(dir.path(), true).0);
    at_end(Arc::clone(&leaves), cluster(), None).await;
    assert!(leaves.shutdown.is_draining() && leaves.is_uninstalling());
    // Another one stays until it is asked to end.
    let dir = tempfile::tempdir().unwrap();
    let stays = Arc::new(node(dir.path(), false).0);
    let mut end = std::pin::pin!(at_end(stays, cluster(), None));
    tokio::select! {
        biased;
        () = &mut end => panic!("nobody asked it to end"),
        () = std::future::ready(()) => {}
    }
}
