//! The election by tables, and many replicas with unlucky timing: never two at once.

use proptest::prelude::*;

use super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn lease(holder: &str, renewed: u64) -> Lease {
    Lease {
        holder: holder.into(),
        renewed: renewed.to_string(),
        transitions: 3,
        duration: Some(secs(15)),
        version: renewed.to_string(),
    }
}

#[test]
fn an_absent_lease_is_made_and_a_free_one_is_taken() {
    let start = Instant::now();
    let mut one = Election::new("a", Times::default());
    assert_eq!(one.look(None, start), Act::Create);
    assert_eq!(
        one.leads_until(start),
        None,
        "only a write that was taken makes a leader"
    );
    one.written(start);
    assert_eq!(one.leads_until(start), Some(start + secs(10)));

    let mut two = Election::new("b", Times::default());
    assert_eq!(
        two.look(Some(lease("", 1)), start),
        Act::Write { transitions: 4 }
    );
}

#[test]
fn a_lease_that_lives_is_left_and_one_that_does_not_change_is_taken_after_its_time() {
    let start = Instant::now();
    let mut two = Election::new("b", Times::default());
    let table = [
        (0, lease("a", 1), Act::Wait),
        (14, lease("a", 1), Act::Wait),
        // A sign of life, whatever its clock says: the wait begins anew.
        (15, lease("a", 0), Act::Wait),
        (29, lease("a", 0), Act::Wait),
        (30, lease("a", 0), Act::Write { transitions: 4 }),
    ];
    for (at, lease, act) in table {
        assert_eq!(two.look(Some(lease), start + secs(at)), act, "after {at} s");
    }
}

#[test]
fn a_holder_that_asks_for_more_patience_gets_it_and_one_that_asks_for_less_does_not() {
    let start = Instant::now();
    let with = |seconds| Lease {
        duration: Some(secs(seconds)),
        ..lease("a", 1)
    };
    for (asked, after, act) in [
        (60, 59, Act::Wait),
        (60, 60, Act::Write { transitions: 4 }),
        (1, 14, Act::Wait),
    ] {
        let mut two = Election::new("b", Times::default());
        two.look(Some(with(asked)), start);
        assert_eq!(
            two.look(Some(with(asked)), start + secs(after)),
            act,
            "{asked} s, after {after} s"
        );
    }
}

#[test]
fn leadership_ends_by_time_and_at_once_when_another_holds_the_lease() {
    let start = Instant::now();
    let mut one = Election::new("a", Times::default());
    one.look(Some(lease("a", 1)), start);
    one.written(start);
    assert!(one.leads_until(start + secs(9)).is_some());
    assert_eq!(one.leads_until(start + secs(10)), None);
    assert_eq!(
        one.look(Some(lease("a", 1)), start + secs(11)),
        Act::Write { transitions: 3 }
    );
    one.written(start + secs(11));
    assert_eq!(one.look(Some(lease("b", 2)), start + secs(12)), Act::Wait);
    assert_eq!(one.leads_until(start + secs(12)), None);
    assert_eq!(one.held(), None);
}

#[test]
fn times_that_could_make_two_leaders_are_refused() {
    let times = |duration, renew, retry| Times {
        duration: secs(duration),
        renew: secs(renew),
        retry: secs(retry),
    };
    assert_eq!(Times::default().fault(), None);
    for (times, wrong) in [
        (times(10, 10, 2), "LEASE_RENEW_DEADLINE"),
        (times(12, 10, 2), "LEASE_RENEW_DEADLINE"),
        (times(17, 10, 6), "LEASE_RETRY_PERIOD"),
        (times(15, 10, 0), "LEASE_RETRY_PERIOD"),
    ] {
        assert_eq!(
            times.fault().map(|(name, ..)| name),
            Some(wrong),
            "{times:?}"
        );
    }
}

/// The API server's half: a write is taken if the lease is what the writer read.
#[derive(Default)]
struct Server(Option<Lease>);

struct Replica {
    election: Election,
    /// A write under way: what it found, when it began, what it writes.
    writing: Option<(Option<Lease>, Instant, Lease)>,
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Look(usize),
    Land(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0_u64..4000).prop_map(Step::Pass),
        3 => (0_usize..3).prop_map(Step::Look),
        3 => (0_usize..3).prop_map(Step::Land),
    ]
}

proptest! {
    #[test]
    fn two_never_lead_at_once(steps in proptest::collection::vec(step(), 1..300)) {
        let mut now = Instant::now();
        let mut server = Server::default();
        let mut version = 0_u32;
        let names = ["a", "b", "c"];
        let mut replicas = names.map(|name| Replica { election: Election::new(name, Times::default()), writing: None });
        for step in steps {
            match step {
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::Look(i) => {
                    let replica = &mut replicas[i];
                    let act = replica.election.look(server.0.clone(), now);
                    version += 1;
                    let wanted = |transitions| Lease { transitions, ..lease(names[i], version.into()) };
                    replica.writing = match act {
                        Act::Wait => None,
                        Act::Create => Some((None, now, wanted(0))),
                        Act::Write { transitions } => Some((server.0.clone(), now, wanted(transitions))),
                    };
                }
                Step::Land(i) => {
                    if let Some((found, begun, wanted)) = replicas[i].writing.take().filter(|(found, ..)| *found == server.0) {
                        drop(found);
                        server.0 = Some(wanted.clone());
                        replicas[i].election.look(Some(wanted), now);
                        replicas[i].election.written(begun);
                    }
                }
            }
            let leaders: Vec<&str> = replicas
                .iter()
                .zip(names)
                .filter(|(replica, _)| replica.election.leads_until(now).is_some())
                .map(|(_, name)| name)
                .collect();
            prop_assert!(leaders.len() <= 1, "{leaders:?}");
        }
    }
}
