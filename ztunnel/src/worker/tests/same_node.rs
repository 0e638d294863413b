//! Two pods of one process: what goes without TLS, and when it does not.

use std::sync::Arc;
use std::time::Duration;

use mesh::policy::Action;
use mesh::state::Update;

use super::super::api::{Connection, Direction, Notice, Reason, SameNode, Security};
use super::facts::connected;
use super::mesh::{
    CLIENT, ONE_NODE, ONE_NODE_TWO_WORKERS, Pair, Place, SERVER, UPGRADE, account, address, policy,
    port,
};
use super::sim::TEST;

const SECOND: Duration = Duration::from_secs(1);

fn world(places: &'static [Place]) -> Pair {
    Pair::started_at(1, places, |_| {})
}

fn ended(pair: &Pair) -> Vec<(Arc<Connection>, Reason)> {
    let closed = |notice: &Notice| match notice {
        Notice::Closed(closed) => Some((closed.connection.clone(), closed.reason)),
        _ => None,
    };
    pair.notices.iter().filter_map(closed).collect()
}

fn leases(pair: &Pair) -> usize {
    pair.workers.iter().map(|worker| worker.leases.len()).sum()
}

fn links(pair: &Pair) -> usize {
    pair.workers.iter().map(|worker| worker.links.len()).sum()
}

fn tunnels(pair: &Pair) -> usize {
    pair.workers.iter().map(|worker| worker.tunnels.len()).sum()
}

#[test]
fn bytes_go_from_application_to_application_and_only_a_nonce_and_heartbeats_through_15008() {
    for places in [ONE_NODE, ONE_NODE_TWO_WORKERS] {
        let mut pair = world(places);
        let (client, server) = connected(&mut pair);
        let big = vec![7; 40_000];
        assert_eq!(pair.write(client, &big), big.len());
        pair.settle();
        assert_eq!(pair.read(server).0, big);
        assert_eq!((leases(&pair), tunnels(&pair)), (1, 0));
        assert_eq!(pair.net.borrow().written_at(port(SERVER, 15008)), 32);
        for sock in [client, server] {
            pair.net.borrow_mut().end(sock);
        }
        pair.settle();
        let ended = ended(&pair);
        assert_eq!(ended.len(), 2);
        for (facts, reason) in &ended {
            assert_eq!(*reason, Reason::Complete);
            assert_eq!(facts.security, Security::SameNode);
            assert_eq!((facts.bytes.received(), facts.bytes.sent()), (40_004, 4));
            assert_eq!(facts.source.ip(), address(CLIENT));
            let account_of = |identity: &Option<mesh::identity::Identity>| {
                identity
                    .as_ref()
                    .map(|one| one.service_account().to_owned())
            };
            assert_eq!(
                account_of(&facts.source_identity).as_deref(),
                Some(account(CLIENT))
            );
            assert_eq!(
                account_of(&facts.destination_identity).as_deref(),
                Some(account(SERVER))
            );
        }
        let mut directions: Vec<_> = ended.iter().map(|(facts, _)| facts.direction).collect();
        directions.sort_by_key(|direction| *direction == Direction::Inbound);
        assert_eq!(directions, [Direction::Outbound, Direction::Inbound]);
        assert_eq!(links(&pair), 0);
    }
}

#[test]
fn links_of_one_pair_share_a_lease_that_goes_when_it_is_unused() {
    let mut pair = world(ONE_NODE);
    let calls: Vec<_> = (0..20).map(|_| pair.call_server()).collect();
    pair.settle();
    assert_eq!(leases(&pair), 1);
    for client in calls {
        assert!(pair.accept().is_some());
        pair.net.borrow_mut().close(client, true);
    }
    pair.settle();
    for _ in 0..29 {
        pair.pass(SECOND);
        pair.settle();
        assert_eq!((leases(&pair), links(&pair)), (1, 0));
    }
    for _ in 0..3 {
        pair.pass(SECOND);
        pair.settle();
    }
    assert_eq!(leases(&pair), 0);
    assert_eq!(pair.net.borrow().open_of(0), 0);
    connected(&mut pair);
}

#[test]
fn a_denied_call_never_reaches_the_application_and_both_sides_say_why() {
    let mut pair = world(ONE_NODE);
    pair.publish(vec![Update::Policy(policy(
        "no",
        Action::Deny,
        account(CLIENT),
    ))]);
    let client = pair.call_server();
    pair.settle();
    assert!(pair.accept().is_none());
    assert!(pair.net.borrow().was_reset(client));
    assert_eq!(
        pair.reasons(),
        [Reason::TunnelRefused, Reason::PolicyDenied]
    );
    assert!(pair.details().contains("app/no"), "{}", pair.details());
    assert_eq!(links(&pair), 0);
}

#[test]
fn a_policy_that_comes_later_cuts_it() {
    let mut pair = world(ONE_NODE);
    let (client, server) = connected(&mut pair);
    pair.publish(vec![Update::Policy(policy(
        "no",
        Action::Deny,
        account(CLIENT),
    ))]);
    pair.settle();
    assert!(pair.net.borrow().was_reset(client) && pair.net.borrow().was_reset(server));
    assert_eq!(
        pair.reasons(),
        [Reason::PolicyCut, Reason::DestinationReset]
    );
    assert_eq!(links(&pair), 0);
}

#[test]
fn when_packets_to_15008_stop_it_is_cut_within_three_seconds() {
    let mut pair = world(ONE_NODE_TWO_WORKERS);
    let (client, server) = connected(&mut pair);
    for _ in 0..100 {
        pair.pass(SECOND / 4);
        pair.settle();
    }
    assert!(!pair.net.borrow().was_reset(client), "heartbeats keep it");
    pair.net.borrow_mut().filtered.insert(port(SERVER, 15008));
    let mut passed = Duration::ZERO;
    while !pair.net.borrow().was_reset(client) {
        pair.pass(SECOND / 20);
        passed += SECOND / 20;
        pair.settle();
        assert!(passed <= 3 * SECOND, "still open after {passed:?}");
    }
    assert!(passed > SECOND, "one lost packet is no cut");
    assert!(pair.net.borrow().was_reset(server));
    assert_eq!(pair.reasons(), [Reason::TunnelLost, Reason::TunnelLost]);
    assert_eq!((leases(&pair), links(&pair)), (0, 0));
}

#[test]
fn a_reset_of_the_lease_cuts_it_at_once() {
    let mut pair = world(ONE_NODE);
    let (client, _) = connected(&mut pair);
    pair.net.borrow_mut().reset_at(port(SERVER, 15008));
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
    assert_eq!(pair.reasons(), [Reason::TunnelLost, Reason::TunnelLost]);
}

#[test]
fn a_process_that_was_stopped_for_a_while_cuts_nothing() {
    let mut pair = world(ONE_NODE);
    let (client, _) = connected(&mut pair);
    for _ in 0..5 {
        pair.pass(60 * SECOND);
        pair.settle();
    }
    assert!(!pair.net.borrow().was_reset(client));
}

#[test]
fn a_dial_that_the_filter_drops_fails_as_a_tunnel_would() {
    let mut pair = world(ONE_NODE);
    pair.net.borrow_mut().silent.insert(port(SERVER, 15008));
    let client = pair.call_server();
    pair.settle();
    pair.pass(11 * SECOND);
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
    assert_eq!(pair.reasons(), [Reason::DialTimeout]);
    assert_eq!(leases(&pair), 0);
}

#[test]
fn where_another_process_has_the_port_tls_is_used_and_later_tried_again() {
    let mut pair = world(UPGRADE);
    let (client, server) = connected(&mut pair);
    assert_eq!((leases(&pair), tunnels(&pair)), (0, 2));
    for sock in [client, server] {
        pair.net.borrow_mut().end(sock);
    }
    pair.settle();
    for (facts, reason) in ended(&pair) {
        assert_eq!(
            (facts.security, reason),
            (Security::MutualTls, Reason::Complete)
        );
    }
    let before = pair.net.borrow().len();
    connected(&mut pair);
    let calls = 2 * 2;
    assert_eq!(
        pair.net.borrow().len(),
        before + calls,
        "no second try at once"
    );
    pair.pass(11 * SECOND);
    pair.settle();
    connected(&mut pair);
    assert_eq!(pair.net.borrow().len(), before + 2 * calls + 2, "one try");
}

#[test]
fn the_off_switch_makes_it_a_tunnel() {
    let mut pair = Pair::started_at(1, ONE_NODE, |settings| {
        settings.same_node = SameNode::Tunnel;
    });
    connected(&mut pair);
    assert_eq!((leases(&pair), tunnels(&pair)), (0, 2));
}

#[test]
fn without_both_certificates_there_is_no_short_way() {
    let mut pair = Pair::placed(1, ONE_NODE, |_| {});
    for pod in [CLIENT, SERVER] {
        pair.add_pod(pod);
    }
    pair.certify(CLIENT);
    pair.net.borrow_mut().listen(TEST, port(SERVER, 8080));
    pair.call_server();
    pair.settle();
    assert_eq!((leases(&pair), tunnels(&pair)), (0, 2));
    assert!(pair.accept().is_none(), "nobody can prove to be the server");
}

#[test]
fn what_is_neither_tls_nor_a_nonce_of_ours_is_closed_and_a_nonce_opens_nothing_twice() {
    let mut pair = world(ONE_NODE);
    connected(&mut pair);
    let door = port(SERVER, 15008);
    let secret = pair.workers[0].neighbours.secret.clone();
    let ticket = super::super::lease::Ticket {
        worker: 0,
        lease: pair.workers[0].leases.at(0).unwrap(),
        // As it stood on the wire.
        random: pair.workers[0]
            .leases
            .get(pair.workers[0].leases.at(0).unwrap())
            .unwrap()
            .random,
    };
    let made = secret.seal(&ticket, account(SERVER));
    let cases = [
        &[0xca; 32][..],
        &made,
        b"G",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xca; 200],
    ];
    for bytes in cases {
        let sock = pair
            .net
            .borrow_mut()
            .connect(TEST, address(CLIENT), door, None)
            .unwrap();
        pair.write(sock, bytes);
        pair.settle();
        let (answer, end) = pair.read(sock);
        assert!(answer.is_empty(), "{answer:?}");
        assert!(end || pair.net.borrow().was_reset(sock), "{bytes:?}");
        assert_eq!((leases(&pair), tunnels(&pair)), (1, 0));
    }
}

#[test]
fn a_pod_that_goes_takes_the_short_way_with_it() {
    for gone in [CLIENT, SERVER] {
        let mut pair = world(ONE_NODE);
        let (client, server) = connected(&mut pair);
        let uid = account(gone).into();
        pair.workers[0].remove_pod(&uid, &mut pair.ios[0]);
        pair.pass(Duration::ZERO);
        pair.settle();
        assert!(pair.net.borrow().was_reset(client) && pair.net.borrow().was_reset(server));
        assert_eq!((leases(&pair), links(&pair)), (0, 0));
        assert!(pair.reasons().contains(&Reason::PodRemoved));
    }
}

#[test]
fn a_drain_lets_it_finish_and_then_nothing_is_left() {
    let mut pair = world(ONE_NODE);
    let (client, server) = connected(&mut pair);
    let deadline = pair.now + 60 * SECOND;
    pair.workers[0].drain(deadline, pair.now, &mut pair.ios[0]);
    pair.settle();
    pair.write(client, b"late");
    pair.settle();
    assert_eq!(pair.read(server).0, b"late");
    assert!(!pair.workers[0].is_drained());
    for sock in [client, server] {
        pair.net.borrow_mut().end(sock);
    }
    pair.settle();
    pair.pass(Duration::ZERO);
    pair.settle();
    assert!(pair.workers[0].is_drained());
    assert_eq!(pair.reasons(), [Reason::Complete, Reason::Complete]);
}

#[test]
fn with_a_certificate_that_has_expired_there_is_no_short_way() {
    let mut pair = world(ONE_NODE);
    // Those of the test live for an hour.
    pair.net.borrow_mut().ahead = 2 * 3600 * SECOND;
    pair.call_server();
    pair.settle();
    // It went to a tunnel, which takes no stream either.
    assert_eq!(leases(&pair), 0);
    assert!(pair.accept().is_none());
    assert!(pair.reasons().contains(&Reason::TunnelRefused));
}

#[test]
fn whom_nobody_knows_any_more_when_the_lease_opens_is_not_let_in_as_a_stranger() {
    let mut pair = world(ONE_NODE_TWO_WORKERS);
    // Denied to the client by name, so to be allowed to one without a name.
    let no = policy("no", Action::Deny, account(CLIENT));
    pair.publish(vec![Update::Policy(no)]);
    let client = pair.call_server();
    // Dialled, offered, and not yet taken by the other worker.
    while pair.workers[0].leases.is_empty() {
        pair.step(0);
    }
    pair.publish(vec![Update::RemoveAddress(
        "Kubernetes//Pod/app/client".into(),
    )]);
    pair.settle();
    assert!(pair.accept().is_none(), "the application was reached");
    pair.pass(11 * SECOND);
    pair.settle();
    assert!(pair.accept().is_none() && pair.net.borrow().was_reset(client));
}

#[test]
fn what_waits_for_an_application_that_does_not_read_is_counted_and_given_back() {
    let mut pair = world(ONE_NODE);
    let (client, server) = connected(&mut pair);
    let mut sent = 0;
    for _ in 0..40 {
        sent += pair.write(client, &[7; 64 << 10]);
        pair.settle();
    }
    let held = pair.workers[0].held;
    assert!(held > 0 && held <= 512 << 10, "{held} bytes");
    let mut got = 0;
    while got < sent {
        got += pair.read(server).0.len();
        pair.settle();
    }
    assert_eq!(pair.workers[0].held, 0);
}
