use std::fs::File;
use std::os::fd::OwnedFd;

use mesh::state::State;
use runtime::Settings;
use runtime::metrics::Registry;

use super::*;
use crate::config::Config;
use crate::control::ca;
use crate::pods::Pods;
use crate::worker;

/// A session with real workers, in whatever namespace the test has.
fn session() -> Session {
    let pairs = [
        ("CA_ADDRESS", "http://127.0.0.1:1"),
        ("INPOD_UDS", "/nonexistent"),
    ];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::read(Settings::from_pairs(pairs)).unwrap();
    let (workers, _notices) =
        worker::start(config.worker.clone(), 1, State::new().snapshot()).unwrap();
    let (certificates, _tasks) = ca::certificates(config.ca.clone()).unwrap();
    let own = (&config.own, config.listeners, None);
    let pods = Pods::new(config.own.cluster.clone());
    let enrolment = Enrolment::new(
        pods,
        Arc::new(workers),
        certificates,
        own,
        &Registry::default(),
    );
    let readiness = Readiness::new();
    let pending = readiness.register(TASK);
    Session::new(config.zds.clone(), enrolment, readiness, pending)
}

fn keep() -> Request {
    Request::Keep {
        uid: "u".to_owned(),
    }
}

fn add(info: Option<PodInfo>) -> Request {
    let netns: OwnedFd = File::open("/dev/null").unwrap().into();
    Request::Add {
        uid: "u".to_owned(),
        info,
        netns,
    }
}

#[tokio::test]
async fn ready_after_the_snapshot_and_not_before() {
    let (mut session, mut stream) = (session(), Stream::default());
    assert_eq!(session.take(&mut stream, keep()).await.unwrap(), Ok(()));
    session.look_ready(&stream);
    assert_eq!(session.readiness.pending(), [TASK]);
    assert_eq!(
        session
            .take(&mut stream, Request::SnapshotSent)
            .await
            .unwrap(),
        Ok(())
    );
    session.look_ready(&stream);
    assert!(session.readiness.is_ready());
}

#[tokio::test]
async fn a_keep_or_a_snapshot_after_the_snapshot_ends_the_session() {
    for late in [keep(), Request::SnapshotSent] {
        let (mut session, mut stream) = (session(), Stream::default());
        session
            .take(&mut stream, Request::SnapshotSent)
            .await
            .unwrap()
            .unwrap();
        let error = session.take(&mut stream, late).await.unwrap_err();
        assert!(error.to_string().contains("broke the protocol"), "{error}");
    }
}

#[tokio::test]
async fn a_pod_without_a_name_or_with_a_descriptor_of_another_kind_is_refused() {
    let (mut session, mut stream) = (session(), Stream::default());
    let refused = session
        .take(&mut stream, add(None))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(refused, "the pod u came without its name and account");
    let refused = session
        .take(&mut stream, add(Some(PodInfo::default())))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        refused,
        "the pod u came with a bad descriptor: not a network namespace"
    );
    assert!(!session.enrolment.pending());
}

#[tokio::test]
async fn a_del_of_an_unknown_pod_is_done() {
    let (mut session, mut stream) = (session(), Stream::default());
    let gone = Request::Del {
        uid: "u".to_owned(),
    };
    assert_eq!(session.take(&mut stream, gone).await.unwrap(), Ok(()));
}
