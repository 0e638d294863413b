//! Tables for the header parsers: what upstream sends, what is tolerated, what is refused.

use causeway_hbone::headers::{
    Authority, AuthorityError, Baggage, Forwarded, IstioSource, OtherHeaders, Traceparent,
    WorkloadKind,
};

#[test]
fn authorities() {
    let table = [
        ("10.0.0.1:80", Ok("10.0.0.1:80")),
        ("[2001:db8::1]:8080", Ok("[2001:db8::1]:8080")),
        ("[::ffff:1.2.3.4]:1", Ok("[::ffff:1.2.3.4]:1")),
        (
            "Reviews.Default.svc.cluster.local:9080",
            Ok("reviews.default.svc.cluster.local:9080"),
        ),
        ("*.example.com:443", Ok("*.example.com:443")),
        ("10.0.0.1", Err(AuthorityError::Port)),
        ("10.0.0.1:0", Err(AuthorityError::Port)),
        ("10.0.0.1:65536", Err(AuthorityError::Port)),
        ("10.0.0.1:+80", Err(AuthorityError::Port)),
        ("10.0.0.1:", Err(AuthorityError::Port)),
        ("", Err(AuthorityError::Port)),
        (":80", Err(AuthorityError::Host)),
        ("2001:db8::1:80", Err(AuthorityError::Host)),
        ("[fe80::1%eth0]:80", Err(AuthorityError::Host)),
        ("[10.0.0.1]:80", Err(AuthorityError::Host)),
        ("user@host:80", Err(AuthorityError::Host)),
        ("http://host:80", Err(AuthorityError::Host)),
        ("ho st:80", Err(AuthorityError::Host)),
    ];
    for (text, expected) in table {
        let parsed = text
            .parse::<Authority>()
            .map(|authority| authority.to_string());
        assert_eq!(parsed, expected.map(str::to_string), "{text}");
    }
    assert!(
        format!("{}:80", "a".repeat(254))
            .parse::<Authority>()
            .is_err()
    );
    let address = "10.0.0.1:80".parse::<Authority>().expect("an authority");
    assert_eq!(address.socket_addr(), "10.0.0.1:80".parse().ok());
}

#[test]
fn baggage_is_written_in_upstreams_order_and_read_tolerantly() {
    let text = "k8s.cluster.name=c,k8s.namespace.name=ns,k8s.deployment.name=d,service.name=s,service.version=v,cloud.region=r,cloud.availability_zone=z";
    assert_eq!(Baggage::parse(text).to_string(), text);
    let odd = Baggage::parse(
        " k8s.pod.name = p , junk, =x, service.name=, service.version=a=b, cloud.region=r;p=1",
    );
    assert_eq!(
        (odd.workload_kind, odd.workload.as_deref()),
        (WorkloadKind::Pod, Some("p"))
    );
    assert_eq!(
        (odd.service, odd.version.as_deref(), odd.region.as_deref()),
        (None, Some("a"), Some("r"))
    );
    let hostile = Baggage {
        service: Some("a,k8s.namespace.name=admin\r\n".into()),
        ..Baggage::default()
    };
    assert_eq!(
        hostile.to_string(),
        "service.name=a%2Ck8s.namespace.name%3Dadmin%0D%0A"
    );
    assert!(Baggage::parse(&"x".repeat(9000)).is_empty());
}

#[test]
fn forwarded_reads_upstreams_form() {
    let table = [
        (
            "for=\"10.0.0.1:80\";host=a.b",
            Some("10.0.0.1:80"),
            Some("a.b"),
        ),
        ("for=\"[::1]:80\"", Some("[::1]:80"), None),
        ("HOST=\"a.b\"", None, Some("a.b")),
        ("for=unknown;host=", None, None),
        ("host=a, host=b", None, Some("a")),
        ("host=\u{e4}", None, None),
        (";;=;", None, None),
    ];
    for (text, source, host) in table {
        let parsed = Forwarded::parse(text);
        let expected = Forwarded {
            source: source.and_then(|s| s.parse().ok()),
            host: host.map(Into::into),
        };
        assert_eq!(parsed, expected, "{text}");
    }
}

#[test]
fn traceparents_are_55_characters_or_none() {
    let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(
        text.parse::<Traceparent>()
            .expect("a traceparent")
            .to_string(),
        text
    );
    let zero_trace = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
    let zero_span = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
    let version = "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let multibyte = format!("{}\u{e4}", &text[..53]);
    for broken in [
        "",
        &text[1..],
        zero_trace,
        zero_span,
        version,
        &text.replace('-', "+"),
        &multibyte,
    ] {
        assert!(broken.parse::<Traceparent>().is_err(), "{broken}");
    }
}

#[test]
fn unknown_headers_are_bounded_and_sources_known() {
    let mut others = OtherHeaders::default();
    assert!(
        !others.push("Upper", "x")
            && !others.push("a", "b\nc")
            && !others.push("a", &"x".repeat(5000))
    );
    let kept = (0..100).filter(|_| others.push("x-a", "1")).count();
    assert_eq!(
        (kept, others.value("x-a"), others.value("x-b")),
        (16, Some("1"), None)
    );
    assert_eq!(IstioSource::parse("gateway"), Some(IstioSource::Gateway));
    assert_eq!(IstioSource::parse("GATEWAY"), None);
}
