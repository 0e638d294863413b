use super::*;
use crate::client::{ClientError, Connection};
use crate::codec::Request;
use std::time::Duration;
use sys::seqpacket;
use tokio::task::JoinHandle;

/// A list of pods that a test changes.
#[derive(Clone, Default)]
struct List(Arc<Mutex<Vec<Pod>>>);
impl Pods for List {
    fn snapshot(&self) -> Vec<Pod> {
        self.0.lock().unwrap().clone()
    }
}

struct Node {
    handle: Handle,
    list: List,
    path: PathBuf,
    served: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn pod(uid: &str) -> Pod {
    let info = PodInfo {
        name: uid.into(),
        namespace: "ns".into(),
        service_account: "sa".into(),
    };
    Pod {
        uid: uid.into(),
        info,
        netns: Some(Netns::current().unwrap()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's own tasks end with its runtime"
)]
fn background<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

fn node() -> Node {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/ztunnel.sock");
    let list = List::default();
    let (handle, serving) = serve(Listener::bind(&path).unwrap(), Arc::new(list.clone()));
    let served = background(async move { drop(serving.await) });
    Node {
        handle,
        list,
        path,
        served,
        _dir: dir,
    }
}

/// Takes one request, answers it, and says what it was.
async fn take(client: &mut Connection, answer: Result<(), String>) -> String {
    let text = match client.next().await.unwrap() {
        Request::Add { uid, netns, .. } => {
            assert_eq!(
                Netns::from_fd(netns).unwrap().id(),
                Netns::current().unwrap().id()
            );
            format!("add {uid}")
        }
        Request::Keep { uid } => format!("keep {uid}"),
        Request::Del { uid } => format!("del {uid}"),
        Request::SnapshotSent => "snapshot".into(),
    };
    client.ack(answer).await.unwrap();
    text
}

/// A connected ztunnel that has taken an empty snapshot.
async fn ztunnel(node: &Node) -> Connection {
    let before = *node.handle.connected().borrow();
    let mut client = Connection::connect(&node.path).await.unwrap();
    assert_eq!(take(&mut client, Ok(())).await, "snapshot");
    node.handle
        .connected()
        .wait_for(|now| *now > before)
        .await
        .unwrap();
    client
}

#[tokio::test]
async fn a_new_connection_gets_every_pod_then_snapshot_sent() {
    let node = node();
    let lost = Pod {
        netns: None,
        ..pod("b")
    };
    *node.list.0.lock().unwrap() = vec![pod("a"), lost, pod("c")];
    let mut client = Connection::connect(&node.path).await.unwrap();
    let mut got = vec![take(&mut client, Ok(())).await];
    // A refused pod does not hide the others.
    got.push(take(&mut client, Err("no such pod".into())).await);
    got.push(take(&mut client, Ok(())).await);
    got.push(take(&mut client, Ok(())).await);
    assert_eq!(got, ["add a", "keep b", "add c", "snapshot"]);
}

#[tokio::test]
async fn adds_go_to_the_newest_and_deletes_to_all() {
    let node = node();
    let mut old = ztunnel(&node).await;
    let mut new = ztunnel(&node).await;
    let pod = pod("a");
    let (added, seen) = tokio::join!(node.handle.add(&pod), take(&mut new, Ok(())));
    added.unwrap();
    assert_eq!(seen, "add a");
    let (deleted, in_new, in_old) = tokio::join!(
        node.handle.del("a"),
        take(&mut new, Ok(())),
        take(&mut old, Ok(()))
    );
    deleted.unwrap();
    assert_eq!((in_new.as_str(), in_old.as_str()), ("del a", "del a"));
}

#[tokio::test]
async fn a_refusal_comes_back_with_its_text_and_the_connection_goes_on() {
    let node = node();
    let mut client = ztunnel(&node).await;
    let pod = pod("a");
    let refuse = take(&mut client, Err("cannot bind".into()));
    let (added, _) = tokio::join!(node.handle.add(&pod), refuse);
    assert_eq!(
        added.unwrap_err().to_string(),
        "ztunnel refused: cannot bind"
    );
    let (added, _) = tokio::join!(node.handle.add(&pod), take(&mut client, Ok(())));
    added.unwrap();
}

#[tokio::test]
async fn answers_of_many_requests_do_not_mix() {
    let node = node();
    let mut client = ztunnel(&node).await;
    let asked: Vec<_> = (0..20)
        .map(|i| {
            let handle = node.handle.clone();
            background(async move { handle.add(&pod(&format!("p{i}"))).await })
        })
        .collect();
    for _ in 0..20 {
        let Request::Add { uid, .. } = client.next().await.unwrap() else {
            panic!("not an add")
        };
        client.ack(Err(format!("refused {uid}"))).await.unwrap();
    }
    for (i, asked) in asked.into_iter().enumerate() {
        let text = asked.await.unwrap().unwrap_err().to_string();
        assert_eq!(text, format!("ztunnel refused: refused p{i}"));
    }
}

#[tokio::test]
async fn without_ztunnel_an_add_fails_and_a_delete_succeeds() {
    let node = node();
    assert!(matches!(
        node.handle.add(&pod("a")).await,
        Err(ServerError::NoZtunnel)
    ));
    node.handle.del("a").await.unwrap();
}

#[tokio::test]
async fn an_add_whose_ztunnel_dies_goes_to_the_next_newest() {
    let node = node();
    let mut old = ztunnel(&node).await;
    let mut new = ztunnel(&node).await;
    let pod = pod("a");
    let dies = async move {
        new.next().await.unwrap();
        drop(new);
    };
    let (added, (), seen) = tokio::join!(node.handle.add(&pod), dies, take(&mut old, Ok(())));
    added.unwrap();
    assert_eq!(seen, "add a");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_fails_after_5_s_and_closes_the_connection() {
    let node = node();
    let mut client = ztunnel(&node).await;
    let started = tokio::time::Instant::now();
    let error = node.handle.add(&pod("a")).await.unwrap_err();
    assert_eq!(error.to_string(), "ztunnel did not answer within 5 s");
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    assert!(matches!(client.next().await, Ok(Request::Add { .. })));
    assert!(matches!(client.next().await, Err(ClientError::Closed)));
}

#[tokio::test]
async fn an_unasked_packet_ends_the_connection() {
    let node = node();
    let mut client = ztunnel(&node).await;
    client.ack(Ok(())).await.unwrap();
    assert!(matches!(client.next().await, Err(ClientError::Closed)));
    node.handle
        .connected()
        .wait_for(|now| *now == 0)
        .await
        .unwrap();
}

#[tokio::test]
async fn hostile_first_packets_end_only_their_connection() {
    let node = node();
    let null = std::fs::File::open("/dev/null").unwrap();
    for bytes in [&[0x08, 0x07][..], &[0xff; 900], &[7; 2_000], &[]] {
        let peer = seqpacket::Connection::connect(&node.path).unwrap();
        use std::os::fd::AsFd;
        peer.send(bytes, Some(null.as_fd())).unwrap();
    }
    ztunnel(&node).await;
    assert_eq!(*node.handle.connected().borrow(), 1);
}

#[tokio::test]
async fn a_live_socket_is_refused_by_name_and_a_stale_one_taken_over() {
    let node = node();
    let refused = Listener::bind(&node.path).unwrap_err().to_string();
    let pid = std::process::id();
    let path = node.path.display();
    assert_eq!(
        refused,
        format!("another process (pid {pid}) already serves {path}")
    );
    node.served.abort();
    let _ = node.served.await;
    assert!(
        !node.path.exists(),
        "an orderly end removes the socket file"
    );
    // A process that was killed leaves the file behind.
    drop(seqpacket::Listener::bind(&node.path).unwrap());
    assert!(node.path.exists());
    let _taken = Listener::bind(&node.path).unwrap();
    Connection::connect(&node.path).await.unwrap();
}

#[tokio::test]
async fn a_server_that_knows_no_lock_is_respected_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("z.sock");
    let _theirs = seqpacket::Listener::bind(&path).unwrap();
    let refused = Listener::bind(&path).unwrap_err();
    assert!(
        matches!(refused, BindError::Taken { pid: None, .. }),
        "{refused}"
    );
}
