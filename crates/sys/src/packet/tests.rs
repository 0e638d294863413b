use super::*;
use crate::testing::{pod, root};
use std::net::UdpSocket;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_tap_sees_the_bytes_of_its_interface() {
    if !root("a packet tap") {
        return;
    }
    let netns = pod();
    let tap = Capture::open(&netns, "lo").unwrap();
    netns
        .enter(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket
                .send_to(b"a readable secret", socket.local_addr().unwrap())
                .unwrap();
        })
        .unwrap();
    let frame = tap.next(LONG).unwrap().unwrap();
    assert!(frame.windows(17).any(|part| part == b"a readable secret"));
}

#[test]
fn a_quiet_wire_is_none_and_an_unknown_interface_is_an_error() {
    if !root("a packet tap") {
        return;
    }
    let netns = pod();
    let tap = Capture::open(&netns, "lo").unwrap();
    assert!(tap.next(Duration::ZERO).unwrap().is_none());
    let missing = Capture::open(&netns, "eth7").unwrap_err();
    assert_eq!(missing.to_string(), "no interface eth7");
}
