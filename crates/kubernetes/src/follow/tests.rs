//! One kind against a server that the test plays, word by word; time is paused.

use std::pin::pin;

use bytes::Bytes;
use http::{Request as HttpRequest, Response};
use http_body::Frame;
use http_body_util::{StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::*;

type Answer = Result<Response<UnsyncBoxBody<Bytes, std::io::Error>>, std::io::Error>;

/// One question to the server.
struct Ask {
    text: String,
    answer: oneshot::Sender<Answer>,
}

/// The lines of a watch.
struct Lines(mpsc::UnboundedSender<Bytes>);

struct Server(mpsc::UnboundedReceiver<Ask>);

/// A follower of pods and its server.
fn start(kind: Kind) -> (impl Stream<Item = (Kind, Report)> + Send, Server) {
    let (asks, receiver) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: HttpRequest<Body>| {
        let (answer, answered) = oneshot::channel();
        let text = request.uri().to_string();
        asks.send(Ask { text, answer }).expect("the test listens");
        async move {
            answered
                .await
                .unwrap_or_else(|_| Err(std::io::Error::other("the server is away")))
        }
    });
    (
        follow(Client::new(service, "default"), kind, None),
        Server(receiver),
    )
}

impl Server {
    async fn ask(&mut self) -> Ask {
        self.0.recv().await.expect("a question")
    }

    async fn asked(&mut self, expected: &str) -> Ask {
        let ask = self.ask().await;
        assert!(
            ask.text.contains(expected),
            "{} instead of {expected}",
            ask.text
        );
        ask
    }
}

impl Ask {
    fn answer(self, code: u16, body: &serde_json::Value) {
        let lines = self.lines(code);
        lines.0.send(Bytes::from(body.to_string())).unwrap();
    }

    fn refuse(self, code: u16) {
        let body = json!({"kind": "Status", "status": "Failure", "message": "no", "code": code});
        self.answer(code, &body);
    }

    fn lines(self, code: u16) -> Lines {
        let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let bytes = receiver.recv().await?;
            Some((Ok::<_, std::io::Error>(Frame::data(bytes)), receiver))
        });
        let body = UnsyncBoxBody::new(StreamBody::new(frames));
        let response = Response::builder().status(code).body(body).unwrap();
        assert!(self.answer.send(Ok(response)).is_ok(), "somebody waits");
        Lines(sender)
    }
}

impl Lines {
    fn say(&self, kind: &str, object: serde_json::Value) {
        let line = json!({"type": kind, "object": object}).to_string() + "\n";
        self.0.send(line.into()).expect("somebody reads");
    }

    fn added(&self, name: &str, version: u32) {
        self.say("ADDED", object(name, version));
    }

    fn list_ends(&self, version: u32) {
        let metadata =
            json!({"resourceVersion": version.to_string(), "annotations": {LIST_ENDS: "true"}});
        self.say(
            "BOOKMARK",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}),
        );
    }
}

fn object(name: &str, version: u32) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": version.to_string()}})
}

fn page(version: u32, next: &str, names: &[&str]) -> serde_json::Value {
    let items: Vec<_> = names.iter().map(|name| object(name, 1)).collect();
    json!({"metadata": {"resourceVersion": version.to_string(), "continue": next}, "items": items})
}

fn text((_, report): (Kind, Report)) -> String {
    match report {
        Report::Listing => "listing".into(),
        Report::Listed => "listed".into(),
        Report::Seen(_, namespace, name) => format!("+{namespace}/{name}"),
        Report::Gone(namespace, name) => format!("-{namespace}/{name}"),
        Report::Absent => "absent".into(),
        Report::Away(why) => format!("away: {why}"),
        Report::Back => "back".into(),
    }
}

/// The next `count` reports, while the server (`play`) is played.
async fn heard<S: Stream<Item = (Kind, Report)> + Unpin>(
    reports: &mut S,
    count: usize,
    play: impl Future<Output = ()>,
) -> Vec<String> {
    let hear = async {
        let mut heard = Vec::new();
        while heard.len() < count {
            heard.push(text(reports.next().await.expect("follows for ever")));
        }
        heard
    };
    // Both must end: what the server expects to be asked is asked.
    tokio::join!(hear, play).0
}

const STREAM: &str = "sendInitialEvents=true";
const AWAY: &str = "away: the API server cannot be reached: the server is away";

/// Brings the follower to where a watch runs, everything known as of 10.
async fn listed<S: Stream<Item = (Kind, Report)> + Unpin>(
    reports: &mut S,
    server: &mut Server,
) -> Lines {
    let mut lines = None;
    let play = async {
        let stream = server.asked(STREAM).await.lines(200);
        stream.added("a", 3);
        stream.list_ends(10);
        lines = Some(stream);
    };
    assert_eq!(heard(reports, 3, play).await, ["listing", "+n/a", "listed"]);
    lines.expect("a watch")
}

#[tokio::test(start_paused = true)]
async fn a_list_is_the_beginning_of_a_watch() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    let lines = listed(&mut reports, &mut server).await;
    lines.added("b", 11);
    lines.say("MODIFIED", object("b", 12));
    lines.say("DELETED", object("a", 13));
    let heard = heard(&mut reports, 3, async {}).await;
    assert_eq!(heard, ["+n/b", "+n/b", "-n/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_stream_lists_is_asked_for_pages() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    let play = async {
        server.asked(STREAM).await.refuse(422);
        server
            .asked("/pods?&limit=500")
            .await
            .answer(200, &page(7, "more", &["a"]));
        server
            .asked("continue=more")
            .await
            .answer(200, &page(7, "", &["b"]));
        let ask = server.asked("resourceVersion=7").await;
        assert!(!ask.text.contains(STREAM), "{}", ask.text);
        ask.lines(200).added("c", 8);
    };
    let heard = heard(&mut reports, 5, play).await;
    assert_eq!(heard, ["listing", "+n/a", "+n/b", "listed", "+n/c"]);
}

#[tokio::test(start_paused = true)]
async fn an_old_server_that_never_ends_the_list_is_asked_for_pages() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    let play = async {
        let _silent = server.asked(STREAM).await.lines(200);
        server
            .asked("limit=500")
            .await
            .answer(200, &page(7, "", &[]));
    };
    assert_eq!(
        heard(&mut reports, 3, play).await,
        ["listing", "listing", "listed"]
    );
}

/// A field that nests deeper than a JSON text may.
fn deep() -> String {
    format!("{}1{}", r#"{"a":"#.repeat(300), "}".repeat(300))
}

#[tokio::test(start_paused = true)]
async fn one_object_that_is_nested_too_deep_keeps_no_other_from_being_read() {
    let text = |name: &str| {
        let spec = format!(
            r#"{{"selector":{{"matchLabels":{{"l":"x"}}}},"odd":{}}}"#,
            deep()
        );
        format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","resourceVersion":"3"}},"spec":{spec}}}"#
        )
    };
    let (reports, mut server) = start(Kind::AuthorizationPolicy);
    let mut reports = pin!(reports);
    let mut lines = None;
    let play = async {
        let stream = server.asked(STREAM).await.lines(200);
        for name in ["deep", "other"] {
            let line = format!(r#"{{"type":"ADDED","object":{}}}"#, text(name)) + "\n";
            stream.0.send(line.into()).unwrap();
        }
        stream.list_ends(10);
        lines = Some(stream);
    };
    let hear = async {
        let mut heard = Vec::new();
        while heard.len() < 4 {
            heard.push(reports.next().await.expect("follows for ever").1);
        }
        heard
    };
    let (heard, ()) = tokio::join!(hear, play);
    let Report::Seen(parsed, ..) = &heard[1] else {
        panic!("{heard:?}")
    };
    // It denies what it selects, as every policy that cannot be read.
    let Err(fault) = &parsed.results[0] else {
        panic!("{parsed:?}")
    };
    assert_eq!(fault.field.as_deref(), Some("spec.odd"));
    let Some(objects::Object::AuthorizationPolicy(stand_in)) = &fault.stand_in else {
        panic!("{fault:?}")
    };
    assert!(stand_in.invalid.is_some() && stand_in.spec.selector.is_some());
    assert!(matches!(heard[3], Report::Listed), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ended_goes_on_from_where_it_was() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    let lines = listed(&mut reports, &mut server).await;
    lines.say(
        "BOOKMARK",
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": "20"}}),
    );
    drop(lines);
    let play = async {
        server
            .asked("limit=1")
            .await
            .answer(200, &page(25, "x", &["a"]));
        server
            .asked("resourceVersion=20")
            .await
            .lines(200)
            .added("b", 21);
    };
    assert_eq!(heard(&mut reports, 1, play).await, ["+n/b"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_begun_again() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    let _silent = listed(&mut reports, &mut server).await;
    let play = async {
        server
            .asked("limit=1")
            .await
            .answer(200, &page(10, "", &["a"]));
        server
            .asked("resourceVersion=10")
            .await
            .lines(200)
            .added("b", 11);
    };
    assert_eq!(heard(&mut reports, 1, play).await, ["+n/b"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_knows_less_than_before_is_listed_anew() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    drop(listed(&mut reports, &mut server).await);
    let play = async {
        server.asked("limit=1").await.answer(200, &page(9, "", &[]));
        server.asked(STREAM).await.lines(200).list_ends(9);
    };
    assert_eq!(heard(&mut reports, 2, play).await, ["listing", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_history_is_listed_anew() {
    for in_line in [true, false] {
        let (reports, mut server) = start(Kind::Pod);
        let mut reports = pin!(reports);
        drop(listed(&mut reports, &mut server).await);
        let play = async {
            server
                .asked("limit=1")
                .await
                .answer(200, &page(30, "", &["a"]));
            let ask = server.asked("resourceVersion=10").await;
            if in_line {
                let status = json!({"kind": "Status", "status": "Failure", "message": "too old", "code": 410});
                ask.lines(200).say("ERROR", status);
            } else {
                ask.refuse(410);
            }
            server.asked(STREAM).await.lines(200).list_ends(30);
        };
        assert_eq!(heard(&mut reports, 2, play).await, ["listing", "listed"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_away_is_listed_anew() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    drop(listed(&mut reports, &mut server).await);
    let play = async {
        // The question falls into the void, twice.
        drop(server.asked("limit=1").await);
        drop(server.asked(STREAM).await);
        server.asked(STREAM).await.lines(200).list_ends(40);
    };
    let heard = heard(&mut reports, 5, play).await;
    assert_eq!(heard, [AWAY, AWAY, "listing", "back", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_away() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    let play = async {
        let _held = server.asked(STREAM).await;
        tokio::time::sleep(ANSWER + PROOF).await;
    };
    let heard = heard(&mut reports, 1, play).await;
    assert_eq!(
        heard,
        ["away: the API server cannot be reached: no answer within 30 s"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_asked_again_until_it_ends() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    let play = async {
        for _ in 0..3 {
            server.asked(STREAM).await.refuse(403);
        }
        server.asked(STREAM).await.lines(200).list_ends(40);
    };
    let no = "away: the API server did not allow it: no";
    let heard = heard(&mut reports, 6, play).await;
    assert_eq!(heard, [no, no, no, "listing", "back", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_news_ends_the_fault_too() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    let lines = listed(&mut reports, &mut server).await;
    lines.say(
        "ERROR",
        json!({"kind": "Status", "status": "Failure", "message": "no", "code": 500}),
    );
    let mut held = None;
    let play = async {
        server
            .asked("limit=1")
            .await
            .answer(200, &page(10, "", &["a"]));
        held = Some(server.asked("resourceVersion=10").await.lines(200));
    };
    let heard = heard(&mut reports, 2, play).await;
    assert_eq!(heard, ["away: the API server answered 500: no", "back"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_without_definition_is_looked_for_in_both_versions_until_it_comes() {
    let (reports, mut server) = start(Kind::Gateway);
    let mut reports = pin!(reports);
    let play = async {
        for _ in 0..2 {
            server
                .asked("/gateway.networking.k8s.io/v1/gateways?")
                .await
                .refuse(404);
            server
                .asked("/gateway.networking.k8s.io/v1beta1/gateways?")
                .await
                .refuse(404);
        }
        server.asked("/v1/gateways?").await.refuse(404);
        server
            .asked("/v1beta1/gateways?")
            .await
            .lines(200)
            .list_ends(4);
    };
    let heard = heard(&mut reports, 3, play).await;
    assert_eq!(heard, ["absent", "listing", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_was_there_is_let_go_only_when_it_is_missing_twice() {
    let (reports, mut server) = start(Kind::Gateway);
    let mut reports = pin!(reports);
    let lines = listed(&mut reports, &mut server).await;
    drop(lines);
    let play = async {
        server.asked("limit=1").await.refuse(404);
        server.asked("/v1beta1/gateways?").await.refuse(404);
        server.asked("/v1/gateways?").await.lines(200).list_ends(50);
    };
    let heard = heard(&mut reports, 2, play).await;
    assert_eq!(heard, ["listing", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn a_core_kind_is_never_absent() {
    let (reports, mut server) = start(Kind::Pod);
    let mut reports = pin!(reports);
    let play = async {
        // A proxy before the server may say so while it starts. There was never another version to look in.
        for _ in 0..2 {
            server.asked("/api/v1/pods?").await.refuse(404);
        }
        server.asked("/api/v1/pods?").await.lines(200).list_ends(4);
    };
    let no = "away: the API server answered 404: no";
    let heard = heard(&mut reports, 5, play).await;
    assert_eq!(heard, [no, no, "listing", "back", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_plain_text_counts_by_its_status() {
    let (reports, mut server) = start(Kind::Gateway);
    let mut reports = pin!(reports);
    let play = async {
        for version in ["/v1/", "/v1beta1/", "/v1/", "/v1beta1/"] {
            let lines = server.asked(version).await.lines(404);
            lines.0.send("404 page not found\n".into()).unwrap();
        }
    };
    assert_eq!(heard(&mut reports, 1, play).await, ["absent"]);
}

#[test]
fn versions_are_compared_as_numbers() {
    assert!(is_older("9", "10"));
    assert!(!is_older("10", "10") && !is_older("11", "10"));
    assert!(!is_older("x", "10") && !is_older("9", ""));
}
