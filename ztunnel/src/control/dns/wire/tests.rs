//! Bytes: limits, truncation, what is refused, and that no packet whatever can panic us.

use hickory_proto::op::{EdnsFlags, Metadata};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn asked(text: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(77, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns.set_dnssec_ok(true);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn decoded(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).unwrap()
}

fn many(count: u32) -> Vec<IpAddr> {
    (0..count)
        .map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes()))
        .collect()
}

#[test]
fn an_answer_has_the_clients_id_question_and_case_and_says_that_we_know() {
    let packet = asked("Echo.App.svc.cluster.local", RecordType::A, None);
    let request = read(&packet).unwrap();
    let bytes = request.addresses(None, &many(2), request.udp_limit());
    let answer = decoded(&bytes);
    let Metadata {
        id,
        authoritative,
        recursion_desired,
        recursion_available,
        truncation,
        ..
    } = answer.metadata;
    assert_eq!(id, 77);
    assert!(authoritative && recursion_desired && recursion_available && !truncation);
    assert!(
        answer.queries[0]
            .name()
            .eq_case(&name("Echo.App.svc.cluster.local"))
    );
    assert_eq!(answer.answers.len(), 2);
    assert!(answer.answers.iter().all(|record| record.ttl == 30));
    assert!(answer.edns.is_none(), "who knows no EDNS gets none");
}

#[test]
fn a_search_domain_that_was_taken_off_becomes_a_cname() {
    let packet = asked("www.example.com.app.svc.cluster.local", RecordType::A, None);
    let request = read(&packet).unwrap();
    let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
    let all = [many(1)[0], v6];
    let answer = decoded(&request.addresses(Some("www.example.com"), &all, 512));
    let RData::CNAME(CNAME(target)) = &answer.answers[0].data else {
        panic!("{:?}", answer.answers);
    };
    assert_eq!(*target, name("www.example.com"));
    assert_eq!(answer.answers[1].name, *target);
    assert_eq!(answer.answers[2].name, *target);
    assert_eq!(
        answer.answers[2].data,
        RData::AAAA(AAAA("fd00::1".parse().unwrap()))
    );
}

#[test]
fn what_does_not_fit_is_cut_and_said_so_over_udp_and_comes_whole_over_tcp() {
    let addresses = many(1000);
    let rows = [
        (None, 512),
        (Some(1232), 1232),
        (Some(65_535), MAX_UDP),
        (Some(10), 512),
    ];
    for (payload, limit) in rows {
        let packet = asked("echo.app.svc.cluster.local", RecordType::A, payload);
        let request = read(&packet).unwrap();
        assert_eq!(request.udp_limit(), limit);
        let bytes = request.addresses(None, &addresses, limit);
        assert!(bytes.len() <= limit, "{payload:?}: {}", bytes.len());
        assert!(
            limit - bytes.len() < 16,
            "{payload:?}: much room is left: {}",
            bytes.len()
        );
        let answer = decoded(&bytes);
        assert!(answer.metadata.truncation);
        assert_eq!(answer.edns.is_some(), payload.is_some());
        let EdnsFlags { dnssec_ok, .. } = answer.edns.map(|edns| *edns.flags()).unwrap_or_default();
        assert_eq!(dnssec_ok, payload.is_some());
        let whole = decoded(&request.addresses(None, &addresses, MAX_TCP));
        assert_eq!(whole.answers.len(), 1000);
        assert!(!whole.metadata.truncation);
    }
    let request = read(&asked("a.b", RecordType::A, None)).unwrap();
    let most = request.addresses(None, &many(10_000), MAX_TCP);
    assert!(most.len() <= MAX_TCP && MAX_TCP - most.len() < 16);
    assert!(decoded(&most).metadata.truncation);
    let long = format!("{}example.com", "a.".repeat(100));
    let request = read(&asked(&format!("{long}.ns"), RecordType::A, None)).unwrap();
    let cut = decoded(&request.addresses(Some(&long), &many(9), 400));
    assert!(cut.metadata.truncation && cut.answers.is_empty());
}

#[test]
fn what_is_no_question_is_refused_or_not_answered_at_all() {
    let good = asked("echo.app.svc.cluster.local", RecordType::A, None);
    let changed = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    let code = |packet: &[u8]| match read(packet).unwrap_err() {
        Unusable::Ignore => None,
        Unusable::Fault(bytes) => {
            let answer = decoded(&bytes);
            assert_eq!(answer.metadata.id, 77);
            Some(u16::from(answer.metadata.response_code))
        }
    };
    let fault = |code: ResponseCode| Some(u16::from(code));
    assert_eq!(code(&good[..11]), None, "too short");
    assert_eq!(code(&changed(2, 0x81)), None, "an answer is never answered");
    assert_eq!(
        code(&changed(2, 0x29)),
        fault(ResponseCode::NotImp),
        "an update"
    );
    assert_eq!(
        code(&changed(5, 2)),
        fault(ResponseCode::FormErr),
        "two questions"
    );
    assert_eq!(
        code(&changed(4, 255)),
        fault(ResponseCode::FormErr),
        "65281 questions"
    );
    assert_eq!(
        code(&changed(7, 1)),
        fault(ResponseCode::FormErr),
        "an answer in it"
    );
    assert_eq!(
        code(&changed(12, 0xc0)),
        fault(ResponseCode::FormErr),
        "a pointer"
    );
    assert_eq!(
        code(&good[..good.len() - 1]),
        fault(ResponseCode::FormErr),
        "cut"
    );
    let chaos = good.len() - 1;
    assert_eq!(
        code(&changed(chaos, 3)),
        fault(ResponseCode::Refused),
        "class CHAOS"
    );
    let mut versioned = asked("a.b", RecordType::A, Some(1232));
    let version = versioned.len() - 5;
    versioned[version] = 1;
    assert_eq!(code(&versioned), fault(ResponseCode::BADVERS));
    let long = vec![0; MAX_QUERY];
    assert_eq!(
        code(&[&good[..], &long].concat()),
        fault(ResponseCode::FormErr),
        "too long"
    );
}

#[test]
fn only_a_reply_to_the_question_is_taken_and_it_comes_back_under_the_clients_id() {
    let packet = asked("www.example.com", RecordType::A, None);
    let request = read(&packet).unwrap();
    let sent = with_id(&packet, 4242);
    let mut reply = request.addresses(None, &many(1), 512);
    reply[..2].copy_from_slice(&4242_u16.to_be_bytes());
    let taken = request.reply(&sent, &reply).unwrap();
    assert_eq!(decoded(&taken).metadata.id, 77);
    assert_eq!(taken[2..], reply[2..]);
    assert_eq!(answers(&taken), 1);

    let other = |change: fn(&mut Vec<u8>)| {
        let mut reply = reply.clone();
        change(&mut reply);
        request.reply(&sent, &reply)
    };
    assert_eq!(other(|reply| reply[0] ^= 1), None, "another id");
    assert_eq!(other(|reply| reply[2] &= 0x7f), None, "a question");
    assert_eq!(other(|reply| reply[13] = b'x'), None, "another name");
    assert_eq!(other(|reply| reply.truncate(20)), None, "cut");
    assert!(other(|reply| reply[13] = b'W').is_some(), "another case");
    let bare = |code: u8| {
        let mut reply = reply[..12].to_vec();
        reply[3] = (reply[3] & 0xf0) | code;
        reply[4..12].fill(0);
        request.reply(&sent, &reply)
    };
    assert_eq!(bare(0), None, "success without a question");
    let refused = decoded(&bare(5).unwrap());
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    assert_eq!(refused.queries.len(), 1);
}

#[test]
fn addresses_are_found_along_the_cnames_of_a_reply() {
    let start = name("a.example.com");
    let cname = |from: &str, to: &str, ttl| {
        Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
    };
    let rdata = |address: [u8; 4]| RData::A(A(address.into()));
    let address =
        |of: &str, last: u8, ttl| Record::from_rdata(name(of), ttl, rdata([192, 0, 2, last]));
    let reply = |code, records: Vec<Record>| {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.response_code = code;
        message.add_answers(records);
        encode(&message)
    };
    let ok = |records| found(&reply(ResponseCode::NoError, records), &start);
    let at = |last: u8, ttl| (IpAddr::from([192, 0, 2, last]), ttl);
    assert_eq!(
        ok(vec![
            address("a.example.com", 1, 60),
            address("x.example.com", 9, 60)
        ]),
        Ok(vec![at(1, 60)])
    );
    let chain = vec![
        address("c.example.net", 3, 60),
        cname("a.example.com", "b.example.net", 7),
        cname("b.example.net", "C.example.net", 50),
    ];
    assert_eq!(ok(chain), Ok(vec![at(3, 7)]));
    assert_eq!(
        ok(vec![cname("a.example.com", "b.example.net", 7)]),
        Ok(vec![])
    );
    let round = vec![
        cname("a.example.com", "b.example.net", 7),
        cname("b.example.net", "a.example.com", 7),
    ];
    assert_eq!(ok(round), Err("more than 16 CNAMEs".to_owned()));
    let none = found(&reply(ResponseCode::NXDomain, vec![]), &start);
    assert_eq!(none, Err("Non-Existent Domain".to_owned()));
    assert!(
        found(b"nonsense", &start)
            .unwrap_err()
            .starts_with("nonsense")
    );
}

proptest! {
    #[test]
    fn no_packet_panics_and_what_is_taken_is_answered_within_its_limit(
        packet in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..600),
            // Good packets with some bytes changed go deeper.
            (any::<Option<u16>>(), prop::collection::vec((0_usize..60, any::<u8>()), 0..4)).prop_map(
                |(payload, changes)| {
                    let mut packet = asked("echo.app.svc.cluster.local", RecordType::A, payload);
                    for (at, byte) in changes {
                        if let Some(place) = packet.get_mut(at) {
                            *place = byte;
                        }
                    }
                    packet
                },
            ),
        ],
        reply in prop::collection::vec(any::<u8>(), 0..600),
        count in 0_u32..400,
    ) {
        match read(&packet) {
            Err(Unusable::Ignore) => {}
            Err(Unusable::Fault(bytes)) => {
                prop_assert!(bytes.len() <= packet.len().max(12) + 11, "{} for {}", bytes.len(), packet.len());
                prop_assert_eq!(&bytes[..2], &packet[..2]);
            }
            Ok(request) => {
                let limit = request.udp_limit();
                let bytes = request.addresses(Some("meant.example.com"), &many(count), limit);
                prop_assert!(bytes.len() <= limit);
                prop_assert_eq!(&bytes[..2], &packet[..2]);
                prop_assert!(!request.no_record().is_empty());
                let _any_reply_is_looked_at = request.reply(&packet, &reply);
                let mut near = packet.clone();
                near[2] |= 0x80;
                let _so_is_its_own_echo = request.reply(&packet, &near);
            }
        }
    }
}
