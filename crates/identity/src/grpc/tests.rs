//! Settings of the channel: addresses, tokens, headers, roots. (Connections: `tests/ca_client.rs`.)

use super::*;

fn config(address: &str) -> GrpcConfig {
    GrpcConfig {
        address: address.to_owned(),
        root: RootSource::System,
        alt_hostname: None,
        token: Token::None,
        cluster_id: String::new(),
        headers: Vec::new(),
        mark: None,
    }
}

fn headers(config: &GrpcConfig) -> Result<tonic::metadata::MetadataMap, Status> {
    let mut credentials = Credentials::new(config).unwrap();
    Ok(credentials.call(Request::new(()))?.metadata().clone())
}

#[tokio::test]
async fn an_address_must_be_http_or_https_with_a_host() {
    for good in [
        "https://istiod.istio-system.svc:15012",
        "http://127.0.0.1:1",
        "https://[::1]:5",
    ] {
        channel(config(good)).map(|_| ()).unwrap();
    }
    for bad in [
        "istiod:15012",
        "unix:///x",
        "",
        "https://",
        "/x",
        "ftp://x:1",
    ] {
        let error = channel(config(bad)).map(|_| ()).unwrap_err().to_string();
        let want = format!("address {bad:?}: want https://host:port (or http:// for plaintext)");
        assert_eq!(error, want);
    }
}

#[test]
fn the_token_file_is_read_at_each_request() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let config = GrpcConfig {
        token: Token::File(path.clone()),
        ..config("https://x:1")
    };
    let missing = headers(&config).unwrap_err();
    assert!(
        missing.message().starts_with("cannot read token "),
        "{}",
        missing.message()
    );
    for text in ["one", "two\n"] {
        std::fs::write(&path, text).unwrap();
        let sent = headers(&config).unwrap();
        assert_eq!(
            sent.get("authorization").unwrap(),
            &format!("Bearer {}", text.trim())
        );
        assert!(sent.get("authorization").unwrap().is_sensitive());
    }
    std::fs::write(&path, "a\nb").unwrap();
    assert!(
        headers(&config)
            .unwrap_err()
            .message()
            .contains("no header can carry")
    );
}

#[test]
fn cluster_and_extra_headers_are_sent() {
    let config = GrpcConfig {
        cluster_id: "Kubernetes".to_owned(),
        headers: vec![("X-Extra".to_owned(), "1".to_owned())],
        token: Token::Literal("t".to_owned()),
        ..config("https://x:1")
    };
    let sent = headers(&config).unwrap();
    assert_eq!(sent.get("clusterid").unwrap(), "Kubernetes");
    assert_eq!(sent.get("x-extra").unwrap(), "1");
    assert_eq!(sent.get("authorization").unwrap(), "Bearer t");
    assert_eq!(format!("{:?}", config.token), "Literal(hidden)");
    let bad = GrpcConfig {
        headers: vec![("a b".to_owned(), String::new())],
        ..config
    };
    assert_eq!(
        Credentials::new(&bad).unwrap_err().to_string(),
        "header \"a b\" cannot be sent"
    );
}

#[test]
fn roots_come_from_a_file_the_system_or_the_setting_itself() {
    assert_eq!(RootSource::parse("SYSTEM"), RootSource::System);
    assert_eq!(
        RootSource::parse("./x.pem"),
        RootSource::File("./x.pem".into())
    );
    let inline = "-----BEGIN CERTIFICATE-----\n";
    assert_eq!(
        RootSource::parse(inline),
        RootSource::Pem(inline.to_owned())
    );
    let load = |source: RootSource| source.load().unwrap_err().to_string();
    let missing = load(RootSource::File("/nowhere/x.pem".into()));
    assert!(
        missing.starts_with("roots from file /nowhere/x.pem: No such file"),
        "{missing}"
    );
    let empty = load(RootSource::Pem(String::new()));
    assert_eq!(
        empty,
        "roots from inline PEM: certificate chain: no certificate in PEM"
    );
}
