use super::*;
use proptest::prelude::*;
use std::fs::File;

fn fd() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn packet(bytes: &[u8], fds: usize) -> Packet<'_> {
    Packet {
        bytes,
        fds: (0..fds).map(|_| fd()).collect(),
        truncated: false,
    }
}

fn info() -> PodInfo {
    PodInfo {
        name: "web".into(),
        namespace: "shop".into(),
        service_account: "web".into(),
    }
}

#[test]
fn bytes_are_upstreams() {
    assert_eq!(encode_hello(), [0x08, 0x01]);
    assert_eq!(encode_ack(None), [0x0a, 0x00]);
    assert_eq!(encode_request(snapshot_sent()).unwrap(), [0x1a, 0x00]);
    // The uid of del is field 2, of keep and add field 1.
    assert_eq!(
        encode_request(del("u")).unwrap(),
        [0x12, 0x03, 0x12, 0x01, b'u']
    );
    assert_eq!(
        encode_request(keep("u")).unwrap(),
        [0x2a, 0x03, 0x0a, 0x01, b'u']
    );
}

#[test]
fn requests_read_back_as_written() {
    let bytes = encode_request(add("uid-1", &info())).unwrap();
    let Request::Add {
        uid, info: read, ..
    } = decode_request(packet(&bytes, 1)).unwrap()
    else {
        panic!("not an add")
    };
    assert_eq!((uid.as_str(), read), ("uid-1", Some(info())));
    for payload in [keep("u"), del("u"), snapshot_sent()] {
        let bytes = encode_request(payload.clone()).unwrap();
        let read = decode_request(packet(&bytes, 0)).unwrap();
        match (payload, read) {
            (workload_request::Payload::Keep(_), Request::Keep { uid })
            | (workload_request::Payload::Del(_), Request::Del { uid }) => assert_eq!(uid, "u"),
            (workload_request::Payload::SnapshotSent(_), Request::SnapshotSent) => {}
            (written, read) => panic!("{written:?} became {read:?}"),
        }
    }
}

#[test]
fn descriptors_belong_to_an_add_and_only_one() {
    let add = encode_request(add("u", &info())).unwrap();
    let del = encode_request(del("u")).unwrap();
    let keep = encode_request(keep("u")).unwrap();
    for (bytes, fds, text) in [
        (&add, 0, "add came with 0 descriptors instead of 1"),
        (&add, 2, "add came with 2 descriptors instead of 1"),
        (&del, 1, "del came with 1 descriptors instead of 0"),
        (&keep, 1, "keep came with 1 descriptors instead of 0"),
        (
            &encode_request(snapshot_sent()).unwrap(),
            1,
            "snapshot_sent came with 1 descriptors instead of 0",
        ),
    ] {
        assert_eq!(
            decode_request(packet(bytes, fds)).unwrap_err().to_string(),
            text
        );
    }
    let cut = Packet {
        truncated: true,
        ..packet(&add, 1)
    };
    assert!(matches!(
        decode_request(cut).unwrap_err(),
        ProtocolError::Truncated
    ));
    let with_fd = decode_hello(packet(&encode_hello(), 1)).unwrap_err();
    assert!(matches!(
        with_fd,
        ProtocolError::Descriptors {
            message: "hello",
            ..
        }
    ));
}

#[test]
fn empty_and_unknown_messages_are_errors() {
    assert!(matches!(
        decode_request(packet(&[], 0)),
        Err(ProtocolError::Unknown("request"))
    ));
    // Field 9: a request of a later version.
    assert!(decode_request(packet(&[0x4a, 0x00], 0)).is_err());
    assert!(matches!(
        decode_hello(packet(&[], 0)),
        Err(ProtocolError::Version(0))
    ));
    assert!(matches!(
        decode_hello(packet(&[0x08, 0x02], 0)),
        Err(ProtocolError::Version(2))
    ));
    assert!(matches!(
        decode_ack(packet(&[], 0)),
        Err(ProtocolError::Unknown("response"))
    ));
}

#[test]
fn an_error_text_is_shortened_to_fit_and_never_reads_as_success() {
    let long = "ä".repeat(2_000);
    let bytes = encode_ack(Some(&long));
    assert!(bytes.len() <= MAX_PACKET);
    let read = decode_ack(packet(&bytes, 0)).unwrap().unwrap_err();
    assert!(long.starts_with(&read) && read.len() > 900);
    assert!(
        decode_ack(packet(&encode_ack(Some("")), 0))
            .unwrap()
            .is_err()
    );
    let huge = PodInfo {
        name: "x".repeat(2_000),
        ..PodInfo::default()
    };
    assert!(matches!(
        encode_request(add("u", &huge)),
        Err(ProtocolError::TooLong(_))
    ));
}

proptest! {
    #[test]
    fn any_packet_is_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..1200),
        fds in 0..3usize,
        truncated: bool,
    ) {
        let make = || Packet { truncated, ..packet(&bytes, fds) };
        let _ = decode_request(make());
        let _ = decode_hello(make());
        let _ = decode_ack(make());
    }

    #[test]
    fn a_damaged_request_is_read_or_refused(at in 0..60usize, with: u8, cut in 0..60usize) {
        let mut bytes = encode_request(add("uid-1", &info())).unwrap();
        let at = at % bytes.len();
        bytes[at] = with;
        bytes.truncate(bytes.len() - cut % bytes.len());
        let _ = decode_request(packet(&bytes, 1));
    }
}
