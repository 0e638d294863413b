//! The requests as the API server sees them; it is played by a small HTTP server.
use std::sync::{Arc, Mutex};

use http::StatusCode;
use runtime::Shutdown;
use runtime::admin::{Request, Router, Server, response};

use super::*;

type Log = Arc<Mutex<Vec<String>>>;

const POD: &str = "/api/v1/namespaces/shop/pods/web/status";
const SET: &str = "/apis/apps/v1/namespaces/mesh/daemonsets/agent";

struct Fake {
    cluster: Cluster,
    log: Log,
    shutdown: Shutdown,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shutdown.force();
    }
}

/// Answers both paths with this status and body.
async fn fake(status: StatusCode, body: &'static str) -> Fake {
    let (log, shutdown) = (Log::default(), Shutdown::new());
    let answer = |log: Log| {
        move |request: Request| {
            let (parts, body_of) = request.into_parts();
            let kind = parts
                .headers
                .get("content-type")
                .map(|v| v.to_str().unwrap().to_owned());
            let text = String::from_utf8(body_of.to_vec()).unwrap();
            let line = format!("{} {} {text}", parts.method, kind.unwrap_or_default());
            log.lock().unwrap().push(line);
            std::future::ready({
                let mut answer = response(status, "application/json", body);
                *answer.status_mut() = status;
                answer
            })
        }
    };
    let router = Router::new()
        .route(POD, answer(Arc::clone(&log)))
        .route(SET, answer(Arc::clone(&log)));
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", server.address().unwrap());
    server.serve(router, &shutdown);
    let config = kube::Config::new(url.parse().unwrap());
    let own = OwnPod {
        namespace: "mesh".into(),
        name: "agent-x7k2p".into(),
    };
    Fake {
        cluster: Cluster::new(Client::try_from(config).unwrap(), Some(own)),
        log,
        shutdown,
    }
}

fn key() -> PodKey {
    ("shop".into(), "web".into())
}

const DENIED: &str =
    r#"{"kind":"Status","status":"Failure","message":"no","reason":"Forbidden","code":403}"#;
const GONE: &str =
    r#"{"kind":"Status","status":"Failure","message":"gone","reason":"NotFound","code":404}"#;

#[tokio::test]
async fn a_mark_is_a_merge_patch_of_the_status_of_exactly_that_pod() {
    let fake = fake(StatusCode::OK, r#"{"metadata":{"name":"web"}}"#).await;
    fake.cluster
        .mark(&key(), "u-1", Some("enabled"))
        .await
        .unwrap();
    fake.cluster.mark(&key(), "u-1", None).await.unwrap();
    let patch = |value: &str| {
        format!(
            r#"PATCH application/merge-patch+json {{"metadata":{{"annotations":{{"ambient.istio.io/redirection":{value}}},"uid":"u-1"}}}}"#
        )
    };
    assert_eq!(
        *fake.log.lock().unwrap(),
        [patch("\"enabled\""), patch("null")]
    );
}

#[tokio::test]
async fn a_pod_that_is_gone_needs_no_mark_and_a_refusal_is_told_in_the_servers_words() {
    let gone = fake(StatusCode::NOT_FOUND, GONE).await;
    gone.cluster.mark(&key(), "u-1", None).await.unwrap();
    let denied = fake(StatusCode::FORBIDDEN, DENIED).await;
    let error = denied.cluster.mark(&key(), "u-1", None).await.unwrap_err();
    assert_eq!(error.to_string(), "the API server says: no (403)");
}

#[tokio::test]
async fn the_own_daemonset_is_asked_for_by_the_pods_name() {
    let there = fake(StatusCode::OK, r#"{"metadata":{"name":"agent"}}"#).await;
    there.cluster.may_read_own().await.unwrap();
    assert!(matches!(there.cluster.fate().await, Fate::Stays(_)));
    assert_eq!(there.log.lock().unwrap()[0], "GET  ");
    let gone = fake(StatusCode::NOT_FOUND, GONE).await;
    assert_eq!(
        gone.cluster.fate().await,
        Fate::Goes("DaemonSet agent is gone".into())
    );
    let refused = fake(StatusCode::FORBIDDEN, DENIED).await;
    assert_eq!(
        refused.cluster.fate().await,
        Fate::Stays("DaemonSet agent cannot be asked for: the API server says: no (403)".into())
    );
}

#[test]
fn only_what_proves_an_uninstall_is_one() {
    let refused = |code| {
        Err(ClusterError::Refused {
            code,
            message: "m".into(),
        })
    };
    for (answer, goes) in [
        (Ok(false), false),
        (Ok(true), true),
        (refused(404), true),
        (refused(401), false),
        (refused(403), false),
        (refused(500), false),
        (Err(ClusterError::Away("refused".into())), false),
    ] {
        let fate = fate_of("agent", answer);
        assert_eq!(matches!(fate, Fate::Goes(_)), goes, "{fate:?}");
    }
}
