//! Single facts of the life of a connection, on two workers that run until nothing moves.
//! Long because each fact is a test of its own on one shared stage.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh::policy::{Action, PolicyName};
use mesh::state::Update;
use mesh::workload::Workload;

use super::super::api::{Ask, Notice, Reason};
use super::mesh::{CLIENT, Pair, SERVER, account, policy, workload};
use super::sim::Sock;

const SECOND: Duration = Duration::from_secs(1);

fn pair() -> Pair {
    Pair::started(1, |_| {})
}

/// A connection over which "ping" has gone and "pong" has come.
pub(super) fn connected(pair: &mut Pair) -> (Sock, Sock) {
    let client = pair.call_server();
    pair.write(client, b"ping");
    pair.settle();
    let server = pair.accept().expect("the application was dialled");
    assert_eq!(pair.read(server), (b"ping".to_vec(), false));
    pair.write(server, b"pong");
    pair.settle();
    assert_eq!(pair.read(client), (b"pong".to_vec(), false));
    (client, server)
}

/// The server's workload names a policy.
fn server_naming(pair: &Pair, name: &str) -> Update {
    let named: Arc<[PolicyName]> = [PolicyName::new("app", name)].into();
    let server = Workload {
        authorization_policies: named,
        ..workload(&pair.ca, SERVER)
    };
    Update::Workload(Arc::new(server))
}

fn asks(pair: &Pair) -> Vec<Ask> {
    let ask = |notice: &Notice| match notice {
        Notice::Ask(ask) => Some(ask.clone()),
        _ => None,
    };
    pair.notices.iter().filter_map(ask).collect()
}

#[test]
fn streams_of_one_destination_share_a_tunnel() {
    let mut pair = pair();
    let calls: Vec<_> = (0..10).map(|_| connected(&mut pair)).collect();
    assert_eq!(calls.len(), 10);
    assert_eq!(
        (
            pair.workers[CLIENT].tunnels.len(),
            pair.workers[SERVER].tunnels.len()
        ),
        (1, 1)
    );
}

#[test]
fn a_full_tunnel_gets_a_sibling() {
    let mut pair = Pair::started(1, |settings| settings.streams_per_tunnel = 3);
    for _ in 0..7 {
        connected(&mut pair);
    }
    assert_eq!(pair.workers[CLIENT].tunnels.len(), 3);
}

#[test]
fn calls_that_come_while_the_tunnel_is_set_up_wait_for_it_together() {
    let mut pair = pair();
    let calls: Vec<_> = (0..20).map(|_| pair.call_server()).collect();
    pair.settle();
    assert_eq!(pair.workers[CLIENT].tunnels.len(), 1);
    for _ in &calls {
        assert!(pair.accept().is_some());
    }
}

#[test]
fn the_facts_name_both_ends_and_count_both_ways() {
    let mut pair = pair();
    let (client, server) = connected(&mut pair);
    for sock in [client, server] {
        pair.net.borrow_mut().end(sock);
    }
    pair.settle();
    let mut seen = 0;
    for notice in &pair.notices {
        let Notice::Closed(closed) = notice else {
            continue;
        };
        let facts = &closed.connection;
        assert_eq!(closed.reason, Reason::Complete);
        assert_eq!(
            (facts.bytes.received(), facts.bytes.sent()),
            (4, 4),
            "{:?}",
            facts.direction
        );
        assert_eq!(
            facts.source_identity.as_ref().unwrap().service_account(),
            account(CLIENT)
        );
        assert_eq!(
            facts
                .destination_identity
                .as_ref()
                .unwrap()
                .service_account(),
            account(SERVER)
        );
        assert_eq!(
            facts.source_workload.as_ref().unwrap().name,
            account(CLIENT).into()
        );
        assert_eq!(
            facts.destination_workload.as_ref().unwrap().name,
            account(SERVER).into()
        );
        assert_eq!(facts.hbone.as_ref().unwrap().to_string(), "10.0.0.2:8080");
        assert!(facts.trace.is_some());
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn a_denied_caller_is_answered_401_and_reset_and_the_report_names_the_policy() {
    let mut pair = pair();
    pair.publish(vec![Update::Policy(policy(
        "no-clients",
        Action::Deny,
        "client",
    ))]);
    let client = pair.call_server();
    pair.settle();
    assert!(pair.accept().is_none());
    assert!(pair.net.borrow().was_reset(client));
    assert_eq!(
        pair.reasons(),
        [Reason::PolicyDenied, Reason::TunnelRefused]
    );
    assert!(
        pair.details().contains("app/no-clients"),
        "{}",
        pair.details()
    );
    assert!(pair.details().contains("status 401"), "{}", pair.details());
}

#[test]
fn a_policy_change_cuts_live_connections_and_leaves_allowed_ones_alone() {
    let mut pair = pair();
    let (client, server) = connected(&mut pair);
    pair.publish(vec![Update::Policy(policy(
        "no-strangers",
        Action::Deny,
        "stranger",
    ))]);
    pair.settle();
    assert!(!pair.net.borrow().was_reset(client));
    pair.publish(vec![Update::Policy(policy(
        "no-clients",
        Action::Deny,
        "client",
    ))]);
    pair.settle();
    assert!(pair.net.borrow().was_reset(client) && pair.net.borrow().was_reset(server));
    assert!(pair.reasons().contains(&Reason::PolicyCut));
}

#[test]
fn a_workload_change_alone_cuts_live_connections() {
    let mut pair = pair();
    let selector = mesh::policy::Policy {
        scope: mesh::policy::Scope::Selector,
        ..(*policy("guard", Action::Allow, "stranger")).clone()
    };
    pair.publish(vec![Update::Policy(Arc::new(selector))]);
    let (client, _) = connected(&mut pair);
    let naming = server_naming(&pair, "guard");
    pair.publish(vec![naming]);
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
    assert!(pair.reasons().contains(&Reason::PolicyCut));
}

#[test]
fn many_live_connections_are_all_judged_although_snapshots_keep_coming() {
    let mut pair = Pair::started(1, |settings| settings.streams_per_tunnel = 10_000);
    let plain: Vec<_> = (0..1500).map(|_| pair.call_plain()).collect();
    pair.settle();
    while pair.accept().is_some() {}
    pair.publish(vec![Update::Policy(policy(
        "only-clients",
        Action::Allow,
        "client",
    ))]);
    for turn in 0..10 {
        pair.publish(vec![Update::Policy(policy(
            &format!("p{turn}"),
            Action::Deny,
            "stranger",
        ))]);
        pair.step(SERVER);
    }
    let cut = plain
        .iter()
        .filter(|sock| pair.net.borrow().was_reset(**sock))
        .count();
    assert_eq!(cut, plain.len());
}

#[test]
fn every_live_connection_is_judged_although_others_come_meanwhile() {
    let mut pair = pair();
    let mut plain: Vec<_> = (0..1500).map(|_| pair.call_plain()).collect();
    pair.settle();
    // A whole round ends behind the last of these; the next one begins there.
    pair.publish(vec![Update::Policy(policy(
        "other",
        Action::Deny,
        "stranger",
    ))]);
    pair.settle();
    plain.extend((0..200).map(|_| pair.call_plain()));
    pair.settle();
    pair.publish(vec![Update::Policy(policy(
        "only-clients",
        Action::Allow,
        "client",
    ))]);
    pair.call_plain();
    pair.settle();
    let left = plain
        .iter()
        .filter(|sock| !pair.net.borrow().was_reset(**sock))
        .count();
    assert_eq!(left, 0);
}

#[test]
fn a_workload_that_left_the_mesh_is_judged_as_it_was_last_known() {
    let mut pair = pair();
    let allowing = |action| {
        Update::Policy(Arc::new(mesh::policy::Policy {
            scope: mesh::policy::Scope::Selector,
            ..(*policy("guard", action, "client")).clone()
        }))
    };
    let (client, _) = connected(&mut pair);
    let naming = server_naming(&pair, "guard");
    pair.publish(vec![allowing(Action::Allow), naming]);
    pair.settle();
    let uid = workload(&pair.ca, SERVER).uid;
    pair.publish(vec![Update::RemoveAddress(uid)]);
    pair.settle();
    assert!(!pair.net.borrow().was_reset(client));
    pair.publish(vec![allowing(Action::Deny)]);
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
}

#[test]
fn a_missing_policy_holds_new_connections_for_a_second_then_denies_naming_it() {
    let mut pair = pair();
    let naming = server_naming(&pair, "late");
    pair.publish(vec![naming]);
    let client = pair.call_server();
    pair.settle();
    pair.pass(SECOND - Duration::from_millis(1));
    pair.settle();
    assert!(!pair.net.borrow().was_reset(client));
    pair.pass(Duration::from_millis(1));
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
    assert!(pair.details().contains("app/late"), "{}", pair.details());
    assert!(asks(&pair).contains(&Ask::Policy {
        name: "app/late".into()
    }));
}

#[test]
fn a_missing_policy_that_arrives_in_time_decides() {
    for (action, allowed) in [(Action::Allow, true), (Action::Deny, false)] {
        let mut pair = pair();
        let naming = server_naming(&pair, "late");
        pair.publish(vec![naming]);
        let client = pair.call_server();
        pair.settle();
        pair.pass(SECOND / 2);
        pair.publish(vec![Update::Policy(policy("late", action, "client"))]);
        pair.settle();
        assert_eq!(pair.accept().is_some(), allowed);
        assert_eq!(pair.net.borrow().was_reset(client), !allowed);
    }
}

#[test]
fn a_live_connection_is_judged_by_what_is_at_hand_for_a_second() {
    let mut pair = pair();
    let (client, _) = connected(&mut pair);
    let naming = server_naming(&pair, "late");
    pair.publish(vec![naming]);
    pair.settle();
    pair.pass(SECOND - Duration::from_millis(1));
    pair.settle();
    assert!(!pair.net.borrow().was_reset(client));
    pair.pass(Duration::from_millis(2));
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
    assert!(pair.details().contains("app/late"), "{}", pair.details());
}

#[test]
fn a_plaintext_caller_has_no_identity_for_the_policy() {
    let mut pair = pair();
    pair.publish(vec![Update::Policy(policy(
        "only-clients",
        Action::Allow,
        "client",
    ))]);
    let plain = pair.call_plain();
    pair.settle();
    assert!(pair.net.borrow().was_reset(plain) && pair.accept().is_none());
    connected(&mut pair);
}

#[test]
fn own_ports_cannot_be_called() {
    let mut pair = pair();
    let client = pair.call("127.0.0.1:15008".parse().unwrap());
    let into = pair.call(SocketAddr::new(super::mesh::address(SERVER), 15006));
    pair.settle();
    assert!(pair.net.borrow().was_reset(client) && pair.net.borrow().was_reset(into));
    assert!(pair.reasons().contains(&Reason::SelfCall));
    assert!(pair.details().contains("status 503"), "{}", pair.details());
}

#[test]
fn a_call_to_the_capture_port_itself_is_refused_on_any_address_of_the_pod() {
    let mut pair = pair();
    // An address of the pod that the control plane does not know: dialling it would come back here, for ever.
    let elsewhere = Workload {
        addresses: ["10.7.7.7".parse().unwrap()].into(),
        ..workload(&pair.ca, CLIENT)
    };
    pair.publish(vec![Update::Workload(Arc::new(elsewhere))]);
    let before = pair.net.borrow().len();
    let captured = SocketAddr::new(super::mesh::address(CLIENT), 15001);
    let from = std::net::IpAddr::from([10, 9, 9, 9]);
    let direct = pair
        .net
        .borrow_mut()
        .connect(super::sim::TEST, from, captured, None)
        .unwrap();
    for _ in 0..20 {
        pair.step(CLIENT);
    }
    assert!(pair.net.borrow().was_reset(direct));
    assert_eq!(pair.reasons(), [Reason::SelfCall]);
    assert_eq!(pair.net.borrow().len(), before + 2, "nothing was dialled");
}

#[test]
fn a_pod_without_a_workload_waits_five_seconds() {
    let mut pair = pair();
    pair.publish(vec![Update::RemoveAddress(workload(&pair.ca, CLIENT).uid)]);
    let (late, never) = (pair.call_server(), pair.call_server());
    pair.settle();
    assert!(matches!(asks(&pair)[..], [.., Ask::Workload { .. }]));
    pair.pass(4 * SECOND);
    pair.settle();
    assert!(!pair.net.borrow().was_reset(late));
    pair.pass(SECOND);
    pair.settle();
    assert!(pair.net.borrow().was_reset(late) && pair.net.borrow().was_reset(never));
    assert_eq!(pair.reasons(), [Reason::UnknownWorkload; 2]);
    let again = pair.call_server();
    pair.settle();
    let back = workload(&pair.ca, CLIENT);
    pair.publish(vec![Update::Workload(Arc::new(back))]);
    pair.settle();
    assert!(!pair.net.borrow().was_reset(again) && pair.accept().is_some());
}

#[test]
fn traffic_waits_for_the_certificate_and_asks_for_it() {
    let mut pair = Pair::new(1, |_| {});
    for pod in [CLIENT, SERVER] {
        pair.add_pod(pod);
    }
    pair.net.borrow_mut().listen(
        super::sim::TEST,
        SocketAddr::new(super::mesh::address(SERVER), 8080),
    );
    let client = pair.call_server();
    pair.settle();
    let identity = pair.ca.identity("app", account(CLIENT));
    assert!(asks(&pair).contains(&Ask::Certificate {
        identity: identity.clone()
    }));
    pair.certify(CLIENT);
    pair.settle();
    assert!(pair.accept().is_none());
    pair.certify(SERVER);
    pair.settle();
    assert!(pair.accept().is_some() && !pair.net.borrow().was_reset(client));
}

#[test]
fn a_certificate_that_cannot_be_had_fails_those_who_wait() {
    let mut pair = Pair::new(1, |_| {});
    pair.add_pod(CLIENT);
    let client = pair.call_server();
    pair.settle();
    let identity = pair.ca.identity("app", account(CLIENT));
    let Pair { workers, ios, .. } = &mut pair;
    workers[CLIENT].certificate_failed(&identity, "the CA said no", &mut ios[CLIENT]);
    pair.pass(Duration::ZERO);
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
    assert_eq!(pair.reasons(), [Reason::NoCertificate]);
    assert!(pair.details().contains("the CA said no"));
}

#[test]
fn a_peer_with_another_identity_than_expected_gets_no_byte() {
    let mut pair = pair();
    // The client believes that the pod at that address is somebody else.
    let other = Workload {
        identity: Some(pair.ca.identity("app", "other")),
        ..workload(&pair.ca, SERVER)
    };
    pair.state.apply(vec![Update::Workload(Arc::new(other))]);
    let (snapshot, now) = (pair.state.snapshot(), pair.now);
    let Pair { workers, ios, .. } = &mut pair;
    workers[CLIENT].adopt(snapshot, now, &mut ios[CLIENT]);
    let client = pair.call_server();
    pair.settle();
    assert!(pair.net.borrow().was_reset(client) && pair.accept().is_none());
    assert!(
        pair.reasons().contains(&Reason::Identity),
        "{:?}",
        pair.reasons()
    );
    assert!(pair.details().contains("expected"), "{}", pair.details());
}

#[test]
fn a_dial_that_fails_at_once_says_why() {
    let mut pair = pair();
    let hop = SocketAddr::new(super::mesh::address(SERVER), 15008);
    pair.net.borrow_mut().unreachable.insert(hop);
    let client = pair.call_server();
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
    assert_eq!(pair.reasons(), [Reason::DialFailed]);
    assert!(pair.details().contains("unreachable"), "{}", pair.details());
    assert_eq!(pair.workers[CLIENT].tunnels.len(), 0);
}

#[test]
fn a_next_hop_that_never_answers_times_out() {
    let mut pair = pair();
    pair.net
        .borrow_mut()
        .silent
        .insert(SocketAddr::new(super::mesh::address(SERVER), 15008));
    let client = pair.call_server();
    pair.settle();
    pair.pass(9 * SECOND);
    pair.settle();
    assert!(!pair.net.borrow().was_reset(client));
    pair.pass(2 * SECOND);
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
    assert_eq!(pair.reasons(), [Reason::DialTimeout]);
}

#[test]
fn a_dial_has_its_full_time_however_late_the_certificate_came() {
    let mut pair = Pair::new(1, |_| {});
    for pod in [CLIENT, SERVER] {
        pair.add_pod(pod);
    }
    let hop = SocketAddr::new(super::mesh::address(SERVER), 15008);
    pair.net.borrow_mut().silent.insert(hop);
    let client = pair.call_server();
    pair.settle();
    pair.pass(8 * SECOND);
    pair.certify(CLIENT);
    pair.pass(9 * SECOND);
    pair.settle();
    assert!(!pair.net.borrow().was_reset(client));
    pair.pass(2 * SECOND);
    pair.settle();
    assert_eq!(pair.reasons(), [Reason::DialTimeout]);
}

#[test]
fn an_application_that_refuses_is_a_503() {
    let mut pair = pair();
    let client = pair.call(SocketAddr::new(super::mesh::address(SERVER), 81));
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
    assert_eq!(pair.reasons(), [Reason::DialFailed, Reason::TunnelRefused]);
    assert!(pair.details().contains("status 503"), "{}", pair.details());
}

#[test]
fn a_half_open_handshake_is_cut_and_its_place_given_back() {
    let mut pair = Pair::started(1, |settings| settings.limits.handshakes = 2);
    let hbone = SocketAddr::new(super::mesh::address(SERVER), 15008);
    let idle: Vec<_> = (8..10)
        .map(|last| {
            let from = std::net::IpAddr::from([10, 9, 9, last]);
            pair.net
                .borrow_mut()
                .connect(super::sim::TEST, from, hbone, None)
                .unwrap()
        })
        .collect();
    let client = pair.call_server();
    pair.settle();
    assert!(pair.accept().is_none(), "the budget is used up");
    pair.pass(10 * SECOND);
    pair.settle();
    for sock in idle {
        assert!(pair.read(sock).1, "the idle handshake was closed");
    }
    // The caller's own handshake had the same deadline.
    assert!(pair.net.borrow().was_reset(client));
    connected(&mut pair);
}

#[test]
fn garbage_on_15008_is_closed_and_reported() {
    let mut pair = pair();
    let hbone = SocketAddr::new(super::mesh::address(SERVER), 15008);
    let from = std::net::IpAddr::from([10, 9, 9, 9]);
    let sock = pair
        .net
        .borrow_mut()
        .connect(super::sim::TEST, from, hbone, None)
        .unwrap();
    pair.write(sock, b"GET / HTTP/1.1\r\n\r\n");
    pair.settle();
    assert!(pair.read(sock).1 || pair.net.borrow().was_reset(sock));
    assert_eq!(pair.reasons(), [Reason::Tls]);
    connected(&mut pair);
}

#[test]
fn a_removed_pod_is_cut_at_once() {
    let mut pair = pair();
    let (client, server) = connected(&mut pair);
    let Pair { workers, ios, .. } = &mut pair;
    workers[SERVER].remove_pod(&account(SERVER).into(), &mut ios[SERVER]);
    pair.pass(Duration::ZERO);
    pair.settle();
    assert!(pair.net.borrow().was_reset(client) && pair.net.borrow().was_reset(server));
    assert!(pair.reasons().contains(&Reason::PodRemoved));
    assert_eq!(
        (
            pair.workers[SERVER].links.len(),
            pair.workers[SERVER].tunnels.len()
        ),
        (0, 0)
    );
}

#[test]
fn a_drain_waits_for_streams_and_its_deadline_does_not() {
    for forced in [false, true] {
        let mut pair = pair();
        let (client, server) = connected(&mut pair);
        let (deadline, now) = (pair.now + 30 * SECOND, pair.now);
        let Pair { workers, ios, .. } = &mut pair;
        workers[SERVER].drain(deadline, now, &mut ios[SERVER]);
        pair.pass(Duration::ZERO);
        pair.settle();
        assert!(!pair.workers[SERVER].is_drained() && !pair.net.borrow().was_reset(client));
        if forced {
            pair.pass(31 * SECOND);
        } else {
            for sock in [client, server] {
                pair.net.borrow_mut().end(sock);
            }
        }
        pair.settle();
        assert!(pair.workers[SERVER].is_drained(), "forced: {forced}");
        assert_eq!(pair.net.borrow().was_reset(client), forced);
        assert_eq!(
            pair.workers[CLIENT].tunnels.len(),
            0,
            "the client left the tunnel too"
        );
    }
}

#[test]
fn an_unused_tunnel_is_released_after_five_minutes() {
    let mut pair = pair();
    let (client, server) = connected(&mut pair);
    for sock in [client, server] {
        pair.net.borrow_mut().end(sock);
    }
    pair.settle();
    for _ in 0..9 {
        pair.pass(30 * SECOND);
        pair.settle();
    }
    assert_eq!(pair.workers[CLIENT].tunnels.len(), 1);
    for _ in 0..2 {
        pair.pass(30 * SECOND);
        pair.settle();
    }
    assert_eq!(
        (
            pair.workers[CLIENT].tunnels.len(),
            pair.workers[SERVER].tunnels.len()
        ),
        (0, 0)
    );
    assert!(pair.workers[CLIENT].pool.is_empty());
    connected(&mut pair);
}

#[test]
fn a_call_whose_pooled_tunnel_dies_before_the_answer_tries_a_fresh_one() {
    let mut pair = pair();
    connected(&mut pair);
    // The server's node vanishes without a word; the pod comes back at the same address.
    let Pair { workers, ios, .. } = &mut pair;
    workers[SERVER].remove_pod(&account(SERVER).into(), &mut ios[SERVER]);
    pair.add_pod(SERVER);
    let client = pair.call_server();
    pair.write(client, b"again");
    pair.settle();
    assert!(!pair.net.borrow().was_reset(client));
    let server = pair.accept().expect("dialled over the fresh tunnel");
    assert_eq!(pair.read(server).0, b"again");
}

#[test]
fn a_reader_that_never_reads_costs_a_window_and_disturbs_nobody() {
    let mut pair = Pair::started(1, |settings| settings.stream_window = 64 << 10);
    let (stuck, server) = connected(&mut pair);
    pair.net.borrow_mut().send_buffer = 4096;
    // The application of `stuck` sends for ever, its caller reads nothing.
    let mut written = 0;
    for _ in 0..200 {
        written += pair.write(server, &[7; 50_000]);
        pair.settle_except(stuck);
    }
    let held: usize = pair.pending(CLIENT);
    assert!(
        held <= 64 << 10,
        "{held} bytes held for a reader that never reads"
    );
    assert!(written < 1 << 20, "{written} bytes taken from its sender");
    connected(&mut pair);
}

#[test]
fn a_peer_that_falls_silent_is_asked_and_then_given_up() {
    let mut pair = pair();
    let (client, _) = connected(&mut pair);
    // From here on nobody hears the server's worker.
    pair.pass(Duration::from_secs(30));
    pair.step(CLIENT);
    assert!(!pair.net.borrow().was_reset(client));
    pair.pass(Duration::from_secs(21));
    pair.step(CLIENT);
    assert!(pair.net.borrow().was_reset(client));
    assert_eq!(pair.reasons(), [Reason::TunnelLost]);
}

#[test]
fn a_quiet_but_living_peer_is_kept() {
    let mut pair = pair();
    let (client, server) = connected(&mut pair);
    for _ in 0..100 {
        pair.pass(Duration::from_secs(17));
        pair.settle();
    }
    pair.write(client, b"still there");
    pair.settle();
    assert_eq!(pair.read(server).0, b"still there");
    assert_eq!(pair.workers[CLIENT].tunnels.len(), 1);
}

#[test]
fn an_application_that_never_answers_the_dial_is_a_503_after_ten_seconds() {
    let mut pair = pair();
    let app = SocketAddr::new(super::mesh::address(SERVER), 8080);
    pair.net.borrow_mut().silent.insert(app);
    let client = pair.call_server();
    pair.settle();
    pair.pass(9 * SECOND);
    pair.settle();
    assert!(!pair.net.borrow().was_reset(client));
    pair.pass(2 * SECOND);
    pair.settle();
    assert!(pair.net.borrow().was_reset(client));
    assert_eq!(pair.reasons(), [Reason::DialTimeout, Reason::TunnelRefused]);
}

#[test]
fn a_pod_over_its_budget_is_refused_and_served_again_afterwards() {
    let mut pair = Pair::started(1, |settings| settings.limits.connections = 2);
    let held = [connected(&mut pair), connected(&mut pair)];
    let refused = pair.call_server();
    pair.settle();
    assert!(pair.net.borrow().was_reset(refused));
    assert_eq!(pair.reasons(), [Reason::Overloaded]);
    for sock in [held[0].0, held[0].1] {
        pair.net.borrow_mut().end(sock);
    }
    pair.settle();
    connected(&mut pair);
}

#[test]
fn a_renewed_certificate_serves_new_tunnels_and_leaves_old_ones_alone() {
    let mut pair = pair();
    let (client, server) = connected(&mut pair);
    for pod in [CLIENT, SERVER] {
        pair.certify(pod);
    }
    pair.write(client, b"old");
    pair.settle();
    assert_eq!(pair.read(server).0, b"old");
    connected(&mut pair);
    assert!(pair.reasons().is_empty());
}

#[test]
fn bytes_and_an_end_that_come_before_the_answer_are_kept() {
    let mut pair = pair();
    let naming = server_naming(&pair, "late");
    pair.publish(vec![naming]);
    let client = pair.call_server();
    pair.write(client, b"all I have to say");
    pair.net.borrow_mut().end(client);
    pair.settle();
    pair.publish(vec![Update::Policy(policy(
        "late",
        Action::Allow,
        "client",
    ))]);
    pair.settle();
    let server = pair.accept().expect("allowed");
    assert_eq!(pair.read(server), (b"all I have to say".to_vec(), true));
}

#[test]
fn a_pooled_tunnel_to_a_node_that_died_is_found_out_and_the_call_goes_to_a_fresh_one() {
    let mut pair = pair();
    let (client, server) = connected(&mut pair);
    for sock in [client, server] {
        pair.net.borrow_mut().end(sock);
    }
    pair.settle();
    pair.reboot(SERVER);
    pair.pass(20 * SECOND);
    let client = pair.call_server();
    pair.write(client, b"anybody there?");
    pair.settle();
    assert!(pair.accept().is_none());
    pair.pass(5 * SECOND);
    pair.settle();
    assert!(!pair.net.borrow().was_reset(client));
    let server = pair.accept().expect("dialled over the fresh tunnel");
    assert_eq!(pair.read(server).0, b"anybody there?");
}
