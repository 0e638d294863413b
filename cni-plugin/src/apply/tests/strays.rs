//! Nothing that a client sends ahead of its SYN gets that SYN past the rules: what came ahead has an entry of connection
//! tracking by then, and a packet of an old entry asks no rule of NAT.
use std::net::Ipv4Addr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::*;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const APPLICATION: u16 = 8080;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// A signature (RFC 2385), and the end of the list.
const SIGNED: [u8; 20] = {
    let mut options = [0; 20];
    (options[0], options[1]) = (19, 18);
    options
};

#[test]
fn no_packet_ahead_of_a_syn_gets_it_past_the_rules() {
    if !root() {
        return;
    }
    let (pod, client) = (Netns::create().unwrap(), Netns::create().unwrap());
    connect(&client, &pod);
    install(&pod, &render(BOTH)).unwrap();
    let listen = |port| {
        let listener =
            pod.enter(|| listen_tcp(any_address(true, port), &ListenOptions::default()).unwrap());
        (port, listener.unwrap())
    };
    let listeners: Vec<_> = [15006, APPLICATION].map(listen).into();
    let mut raw = client
        .enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap())
        .unwrap();
    let to = SockAddr::from(SocketAddr::from((POD, 0)));
    let mut port = 20_000;
    let plain = (0..=u8::MAX).flat_map(|flags| {
        [(0, 0), (1, 100), (u32::MAX, 0)].map(|(acked, payload)| (flags, acked, &[][..], payload))
    });
    // A listener drops these without a word, so that nothing closes their entries.
    let signed = [ACK, ACK | PSH, ACK | FIN].map(|flags| (flags, 1, &SIGNED[..], 0));
    for (flags, acknowledged, options, payload) in plain.chain(signed) {
        port += 1;
        let packet = segment(port, flags, acknowledged, options, payload);
        raw.send_to(&packet, &to).unwrap();
        if flags == ACK && options.is_empty() {
            answer_is_a_reset(&mut raw, port);
        }
        let from = ConnectOptions {
            source: Some((CLIENT, port).into()),
            ..ConnectOptions::default()
        };
        let to = (POD, APPLICATION).into();
        let stream = client.enter(|| connect_tcp(to, &from).unwrap()).unwrap();
        let entered = accepted_port(&listeners);
        assert_eq!(
            entered, 15006,
            "after {flags:#04x}, {acknowledged}, {options:?}, {payload} B"
        );
        drop(stream);
    }
}

/// A TCP segment (RFC 9293, 3.1) from a port of the client.
fn segment(port: u16, flags: u8, acknowledged: u32, options: &[u8], payload: usize) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(port.to_be_bytes());
    segment.extend(APPLICATION.to_be_bytes());
    segment.extend(7_u32.to_be_bytes());
    segment.extend(acknowledged.to_be_bytes());
    // Words of the header, the flags, a window, no checksum yet, no urgent pointer.
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    segment.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.resize(segment.len() + payload, b'x');
    let mut summed = [CLIENT.octets(), POD.octets()].concat();
    summed.extend([0, 6]);
    summed.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
    summed.extend(&segment);
    let mut sum: u32 = summed
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

/// That the pod's kernel has really looked at the packet: its checksum was good and it was no connection's.
fn answer_is_a_reset(raw: &mut Socket, port: u16) {
    let limit = std::time::Duration::from_secs(5);
    raw.set_read_timeout(Some(limit)).unwrap();
    loop {
        let mut packet = [0; 256];
        let length = raw.read(&mut packet).unwrap();
        // Behind the IPv4 header of five words.
        let answer = &packet[20..length];
        if answer[2..4] == port.to_be_bytes() && answer[13] & 0x04 != 0 {
            return;
        }
    }
}
