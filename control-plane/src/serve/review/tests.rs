//! What is asked of an API server that the test plays, and what its answers mean.

use k8s_openapi::api::authentication::v1::UserInfo;

use super::*;

fn status(username: &str, audience: &str) -> TokenReviewStatus {
    let node = (NODE.to_owned(), vec!["node1".to_owned()]);
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec![audience.into()]),
        error: None,
        user: Some(UserInfo {
            username: Some(username.into()),
            extra: Some([node].into()),
            ..UserInfo::default()
        }),
    }
}

fn said(status: TokenReviewStatus) -> Result<Caller, String> {
    read(status, &["istio-ca".to_owned()], "td")
}

#[test]
fn a_token_stands_for_its_account_on_its_node() {
    let caller = said(status(
        "system:serviceaccount:istio-system:ztunnel",
        "istio-ca",
    ))
    .unwrap();
    assert_eq!(
        caller.identity.to_string(),
        "spiffe://td/ns/istio-system/sa/ztunnel"
    );
    assert_eq!(caller.node.as_deref(), Some("node1"));
    let mut without = status("system:serviceaccount:a:b", "istio-ca");
    without.user.as_mut().unwrap().extra = None;
    assert_eq!(said(without).unwrap().node, None);
}

/// A question, and where its answer goes.
type Question = tokio::sync::oneshot::Sender<serde_json::Value>;

/// A review whose API server is played by the test.
fn played() -> (Review, tokio::sync::mpsc::UnboundedReceiver<Question>) {
    let (asks, questions) = tokio::sync::mpsc::unbounded_channel();
    let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
        let (answer, answered) = tokio::sync::oneshot::channel::<serde_json::Value>();
        asks.send(answer).expect("the test listens");
        async move {
            let answer = answered.await.map_err(|_| std::io::Error::other("away"))?;
            let body = kube::client::Body::from(answer.to_string().into_bytes());
            Ok::<_, std::io::Error>(http::Response::new(body))
        }
    });
    let client = Client::new(service, "default");
    (
        Review::new(client, vec!["istio-ca".into()], "td"),
        questions,
    )
}

fn shaped(subject: &str) -> String {
    token::saying(&serde_json::json!({"aud": "istio-ca", "sub": subject}))
}

fn no() -> serde_json::Value {
    serde_json::json!({"metadata": {}, "spec": {}, "status": {"error": "no"}})
}

#[tokio::test(start_paused = true)]
async fn one_address_cannot_have_the_server_asked_without_end() {
    let (review, mut questions) = played();
    let (here, there) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let ask = |number: usize, peer: IpAddr| {
        let review = review.clone();
        async move {
            review
                .caller(&shaped(&number.to_string()), Some(peer))
                .await
        }
    };
    let many = futures_util::future::join_all((0..50).map(|number| ask(number, here)));
    let mut asked = Vec::new();
    let play = async {
        for _ in 0..MOST_QUESTIONS_OF_ONE {
            asked.push(questions.recv().await.expect("a question"));
        }
        tokio::task::yield_now().await;
        assert!(questions.try_recv().is_err(), "more at once");
        // Another is not kept waiting by that.
        let (other, ()) = tokio::join!(ask(1000, there), async {
            let question = questions.recv().await.expect("a question");
            question.send(no()).expect("waits");
        });
        assert_eq!(other.unwrap_err().code(), tonic::Code::Unauthenticated);
        // Each answer makes room for one; who waits too long is sent away.
        asked.pop().expect("one").send(no()).expect("waits");
        asked.push(questions.recv().await.expect("a question"));
    };
    let (answers, ()) = tokio::join!(many, play);
    assert!(answers.iter().all(Result::is_err));
    assert!(
        review.shares.0.lock().unwrap().is_empty(),
        "nothing is left"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_or_was_refused_just_now_is_not_asked_for() {
    let (review, mut questions) = played();
    for bad in [
        "nonsense".to_owned(),
        token::saying(&serde_json::json!({"aud": "x"})),
    ] {
        let refused = review.caller(&bad, None).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    }
    let token = shaped("system:serviceaccount:a:b");
    let (first, ()) = tokio::join!(review.caller(&token, None), async {
        let question = questions.recv().await.expect("a question");
        question.send(no()).expect("waits");
    });
    let again = review.caller(&token, None).await;
    assert_eq!(first.unwrap_err().message(), again.unwrap_err().message());
    assert!(questions.try_recv().is_err(), "asked again");
}

#[test]
fn what_is_no_proof_is_refused_with_the_reason() {
    let unknown = TokenReviewStatus {
        authenticated: None,
        error: Some("expired".into()),
        ..status("system:serviceaccount:a:b", "istio-ca")
    };
    let anybody = TokenReviewStatus {
        audiences: None,
        ..status("system:serviceaccount:a:b", "istio-ca")
    };
    let table = [
        (unknown, "the API server does not accept the token: expired"),
        (
            TokenReviewStatus::default(),
            "the API server does not accept the token: it is not known",
        ),
        (anybody, "the token is not for audience istio-ca"),
        (
            status("system:serviceaccount:a:b", "other"),
            "the token is not for audience istio-ca",
        ),
        (
            status("admin", "istio-ca"),
            "the token is of \"admin\", which is no service account",
        ),
        (
            status("system:serviceaccount:a", "istio-ca"),
            "the token is of \"system:serviceaccount:a\", which is no service account",
        ),
    ];
    for (status, why) in table {
        assert_eq!(said(status).unwrap_err(), why);
    }
    assert!(said(status("system:serviceaccount:a:b:c", "istio-ca")).is_err());
    assert!(said(status("system:serviceaccount:a:b/c", "istio-ca")).is_err());
}
