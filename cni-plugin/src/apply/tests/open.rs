//! Connections that are open through ztunnel while a pod leaves the mesh and comes back: those that came in, those that went
//! out, and those that ztunnel opened to the application in the name of a client.
use super::older::says;
use super::*;
use crate::rules::render_eased;

const APPLICATION: &str = "10.1.0.2:8080";

#[test]
fn what_is_open_through_ztunnel_outlasts_that_its_pod_leaves_and_comes_back() {
    if !root() {
        return;
    }
    for writer in [Writer::Nftables, Writer::Iptables("iptables-nft")] {
        let (pod, client) = (Netns::create().unwrap(), Netns::create().unwrap());
        connect(&client, &pod);
        let of = |rules| Ruleset { writer, ..rules };
        install(&pod, &of(render(BOTH))).unwrap();
        let listen = |netns: &Netns, port| {
            let listener = netns
                .enter(|| listen_tcp(any_address(true, port), &ListenOptions::default()).unwrap());
            (port, listener.unwrap())
        };
        let inside: Vec<_> = [15001, 15006, 8080].map(|port| listen(&pod, port)).into();
        let outside = [listen(&client, 8080)];
        let mut open = through(&pod, &client, &inside);
        alive(&mut open, "while the pod is in");

        restore(&pod, &of(render_eased(BOTH))).unwrap();
        alive(&mut open, "while it leaves");
        let _new = client.enter(|| dial(APPLICATION, None)).unwrap();
        assert_eq!(accepted_port(&inside), 8080, "nothing new is captured");
        let _new = pod.enter(|| dial("10.1.0.1:8080", None)).unwrap();
        assert_eq!(accepted_port(&outside), 8080);

        restore(&pod, &of(render(BOTH))).unwrap();
        alive(&mut open, "when it is back");
        let _new = client.enter(|| dial(APPLICATION, None)).unwrap();
        assert_eq!(accepted_port(&inside), 15006);

        restore(&pod, &of(render_eased(BOTH))).unwrap();
        alive(&mut open, "when it leaves again");
        // ztunnel lets go of what was open before the last rules go: they would not find their way any more.
        drop(open);
        remove(&pod).unwrap();
        let _new = client.enter(|| dial(APPLICATION, None)).unwrap();
        assert_eq!(accepted_port(&inside), 8080);
    }
}

/// One of each kind and family: both ends of it.
fn through(
    pod: &Netns,
    client: &Netns,
    inside: &[(u16, TcpListener)],
) -> Vec<(TcpStream, TcpStream)> {
    let mut open = Vec::new();
    for to in [APPLICATION, "[fd01::2]:8080"] {
        let far = client.enter(|| dial(to, None)).unwrap();
        let (port, near) = accepted(inside);
        assert_eq!(port, 15006);
        open.push((far, near));
    }
    for to in ["10.1.0.1:8080", "[fd01::1]:8080"] {
        let application = pod.enter(|| dial(to, None)).unwrap();
        let (port, near) = accepted(inside);
        assert_eq!(port, 15001);
        open.push((application, near));
    }
    for (from, to) in [
        ("10.1.0.1:0", APPLICATION),
        ("[fd01::1]:0", "[fd01::2]:8080"),
    ] {
        let options = ConnectOptions {
            source: Some(from.parse().unwrap()),
            mark: Some(PROXY_MARK),
            ..ConnectOptions::default()
        };
        let to = to.parse().unwrap();
        let ztunnel = pod.enter(|| connect_tcp(to, &options).unwrap()).unwrap();
        let (port, application) = accepted(inside);
        assert_eq!(port, 8080);
        open.push((ztunnel, application));
    }
    open
}

fn alive(open: &mut [(TcpStream, TcpStream)], when: &str) {
    for (one, other) in open {
        println!("{when}: {one:?} {other:?}");
        says(one, other);
        says(other, one);
    }
}
