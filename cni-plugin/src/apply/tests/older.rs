//! Connections from before a pod came into the mesh: they go on, by whichever side opened them, and what is opened afterwards
//! is captured.
use super::*;
use crate::rules::render_eased;

#[test]
fn what_was_open_before_a_pod_came_in_goes_on_and_what_is_new_is_captured() {
    if !root() {
        return;
    }
    for writer in [Writer::Nftables, Writer::Iptables("iptables-nft")] {
        let (pod, client) = (Netns::create().unwrap(), Netns::create().unwrap());
        connect(&client, &pod);
        let listen = |netns: &Netns, port| {
            let listener = netns
                .enter(|| listen_tcp(any_address(true, port), &ListenOptions::default()).unwrap());
            (port, listener.unwrap())
        };
        let inside: Vec<_> = [15001, 15006, 8080].map(|port| listen(&pod, port)).into();
        let outside = [listen(&client, 8080)];
        let mut open = Vec::new();
        for to in ["10.1.0.2:8080", "[fd01::2]:8080"] {
            let far = client.enter(|| dial(to, None)).unwrap();
            open.push((far, accepted(&inside).1));
        }
        for to in ["10.1.0.1:8080", "[fd01::1]:8080"] {
            let near = pod.enter(|| dial(to, None)).unwrap();
            open.push((accepted(&outside).1, near));
        }
        let of = |rules| Ruleset { writer, ..rules };
        join(&pod, &of(render_eased(BOTH)), &of(render(BOTH))).unwrap();
        check(&pod, &of(render(BOTH))).unwrap();

        for (far, near) in &mut open {
            says(far, near);
            says(near, far);
        }
        let _new = client.enter(|| dial("10.1.0.2:8080", None)).unwrap();
        assert_eq!(accepted_port(&inside), 15006);
        let _new = pod.enter(|| dial("10.1.0.1:8080", None)).unwrap();
        assert_eq!(accepted_port(&inside), 15001);
    }
}

pub(super) fn says(from: &mut TcpStream, to: &mut TcpStream) {
    from.set_nonblocking(false).unwrap();
    to.set_nonblocking(false).unwrap();
    to.set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    from.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    to.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
}
