use super::*;
use proptest::prelude::*;

const CONF: &str = r#"{"cniVersion":"1.0.0","name":"net","type":"causeway-cni",
    "prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}],"x":{"kept":true}}}"#;

fn call(env: &[(&str, &str)], stdin: &str) -> Result<(Verb, Conf), CniError> {
    let lookup = |name: &str| {
        env.iter()
            .rev()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    };
    parse(&lookup, stdin.as_bytes())
}

const ADD: [(&str, &str); 5] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "abc123"),
    ("CNI_NETNS", "/run/netns/x"),
    ("CNI_IFNAME", "eth0"),
    (
        "CNI_ARGS",
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u-1",
    ),
];

fn with<'a>(env: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [env, more].concat()
}

#[test]
fn a_timeout_beyond_all_measure_is_an_hour() {
    let conf = CONF.replacen('{', r#"{"timeoutSeconds":18446744073709551615,"#, 1);
    let (_, conf) = call(&ADD, &conf).unwrap();
    assert_eq!(conf.timeout(), Duration::from_secs(3600));
}

#[test]
fn an_add_names_the_pod_and_passes_the_previous_result_through() {
    let (verb, conf) = call(&ADD, CONF).unwrap();
    let pod = PodRef {
        namespace: "shop".into(),
        name: "web-1".into(),
        uid: "u-1".into(),
    };
    assert_eq!(
        verb,
        Verb::Add(Attachment {
            container_id: "abc123".into(),
            netns: Some("/run/netns/x".into()),
            interface: "eth0".into(),
            pod: Some(pod),
        })
    );
    let sent: Value = serde_json::from_str(CONF).unwrap();
    assert_eq!(conf.result(), sent["prevResult"]);
    assert_eq!(conf.socket(), PathBuf::from(AGENT_SOCKET));
}

#[test]
fn without_a_previous_result_the_result_is_empty_but_versioned() {
    let (_, conf) = call(&ADD, r#"{"cniVersion":"0.4.0","name":"n"}"#).unwrap();
    assert_eq!(conf.result(), json!({"cniVersion": "0.4.0"}));
}

#[test]
fn what_a_verb_needs_is_checked_with_the_codes_of_the_specification() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, u32, &'a str);
    let table: [Case<'_>; 12] = [
        (&[("CNI_COMMAND", "")], CONF, 4, "CNI_COMMAND is not set"),
        (
            &[("CNI_COMMAND", "MOVE")],
            CONF,
            4,
            "CNI_COMMAND=\"MOVE\" is not a command of the specification",
        ),
        (
            &[("CNI_CONTAINERID", "")],
            CONF,
            4,
            "CNI_CONTAINERID is not set",
        ),
        (
            &[("CNI_CONTAINERID", "../x")],
            CONF,
            4,
            "CNI_CONTAINERID=\"../x\" has characters that it may not have",
        ),
        (&[("CNI_NETNS", "")], CONF, 4, "CNI_NETNS is not set"),
        (
            &[("CNI_IFNAME", "a/b")],
            CONF,
            4,
            "CNI_IFNAME=\"a/b\" is not an interface name",
        ),
        (
            &[("CNI_IFNAME", "sixteen-letters-")],
            CONF,
            4,
            "CNI_IFNAME=\"sixteen-letters-\" is not an interface name",
        ),
        (&[], "", 1, "cniVersion \"\" is not spoken here"),
        (&[], "{", 6, "the network configuration is not JSON"),
        (
            &[],
            r#"{"cniVersion":7}"#,
            7,
            "the network configuration is wrong",
        ),
        (
            &[],
            r#"{"cniVersion":"1.0.0","prevResult":[]}"#,
            7,
            "prevResult is not an object",
        ),
        (
            &[],
            r#"{"cniVersion":"0.2.0"}"#,
            1,
            "cniVersion \"0.2.0\" is not spoken here",
        ),
    ];
    for (change, stdin, code, msg) in table {
        let error = call(&with(&ADD, change), stdin).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (code, msg));
    }
}

#[test]
fn a_del_needs_no_namespace_and_status_needs_no_container() {
    let (verb, _) = call(
        &with(&ADD, &[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]),
        CONF,
    )
    .unwrap();
    assert!(matches!(verb, Verb::Del(Attachment { netns: None, .. })));
    let (verb, _) = call(&[("CNI_COMMAND", "STATUS")], CONF).unwrap();
    assert_eq!(verb, Verb::Status);
    let (verb, _) = call(&[("CNI_COMMAND", "GC")], CONF).unwrap();
    assert_eq!(verb, Verb::Gc);
}

#[test]
fn version_answers_even_a_version_that_we_do_not_speak() {
    let (verb, conf) = call(&[("CNI_COMMAND", "VERSION")], r#"{"cniVersion":"9.9.9"}"#).unwrap();
    assert_eq!(verb, Verb::Version);
    let answer = versions(&conf);
    assert_eq!(
        answer["supportedVersions"].as_array().unwrap().len(),
        VERSIONS.len()
    );
}

#[test]
fn arguments_without_a_pod_are_not_kubernetes() {
    for args in [
        "",
        "IgnoreUnknown=1",
        "K8S_POD_NAME=x",
        "K8S_POD_NAME=;K8S_POD_NAMESPACE=y",
    ] {
        assert_eq!(pod(args), None, "{args}");
    }
}

#[test]
fn an_error_prints_as_the_specification_says() {
    let error = CniError::new(Code::TryAgain, "no agent").because("socket");
    let expected =
        json!({"cniVersion": "1.0.0", "code": 11, "msg": "no agent", "details": "socket"});
    assert_eq!(error.to_json("1.0.0"), expected);
}

proptest! {
    #[test]
    fn any_call_is_read_or_refused(stdin in proptest::collection::vec(any::<u8>(), 0..300), args in ".*") {
        let env = with(&ADD, &[("CNI_ARGS", &args)]);
        let lookup = |name: &str| {
            env.iter().rev().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned())
        };
        let _ = parse(&lookup, &stdin);
    }

    #[test]
    fn damaged_json_is_read_or_refused(at in 0..180usize, with_byte: u8) {
        let mut bytes = CONF.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = with_byte;
        let lookup = |name: &str| {
            ADD.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned())
        };
        let _ = parse(&lookup, &bytes);
    }
}
