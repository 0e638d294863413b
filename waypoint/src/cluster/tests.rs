//! Choice of endpoints, limits and ejection.

use super::*;
use crate::model::cluster::{Discovery, Target};
use rand::SeedableRng;
use rand::rngs::SmallRng;

fn cluster(balance: Balance) -> Cluster {
    Cluster {
        name: "c".into(),
        discovery: Discovery::Eds("c".into()),
        balance,
        connect_timeout: Duration::from_secs(1),
        limits: Limits::default(),
        outlier: None,
        panic_percent: 0,
        http: Default::default(),
        idle_timeout: None,
        max_requests_per_connection: None,
        service: Default::default(),
        peers: Vec::new(),
        mutual_tls: false,
    }
}

fn endpoint(n: u8, weight: u32, priority: u32, health: Health) -> Endpoint {
    let target = Target::Plain(([10, 0, 0, n], 80).into());
    Endpoint {
        target,
        health,
        weight,
        priority,
        mutual_tls: false,
        workload: Default::default(),
    }
}

fn live(config: Cluster, endpoints: Vec<Endpoint>) -> Live {
    let endpoints = Endpoints {
        name: "c".into(),
        endpoints,
        overprovisioning: 140,
    };
    Live::new(Arc::new(config), Some(&endpoints), None)
}

fn counts(live: &Live, draws: usize) -> Vec<usize> {
    let mut rng = SmallRng::seed_from_u64(3);
    let mut counts = vec![0; live.hosts.len()];
    for _ in 0..draws {
        let host = live.pick(Duration::ZERO, &mut rng, &[], 1).unwrap();
        counts[live
            .hosts
            .iter()
            .position(|h| Arc::ptr_eq(h, &host))
            .unwrap()] += 1;
    }
    counts
}

#[test]
fn round_robin_keeps_weights_exactly() {
    let equal = live(
        cluster(Balance::RoundRobin),
        (0..4).map(|n| endpoint(n, 1, 0, Health::Healthy)).collect(),
    );
    assert_eq!(counts(&equal, 400), [100; 4]);
    let weighted = [5, 3, 2].into_iter().enumerate();
    let weighted = weighted
        .map(|(n, w)| endpoint(n as u8, w, 0, Health::Healthy))
        .collect();
    assert_eq!(
        counts(&live(cluster(Balance::RoundRobin), weighted), 1000),
        [500, 300, 200]
    );
}

#[test]
fn round_robin_takes_weights_of_any_size() {
    let weights = [u32::MAX, u32::MAX, u32::MAX / 2, 1];
    let hosts = weights.into_iter().enumerate();
    let hosts = hosts.map(|(n, weight)| endpoint(n as u8, weight, 0, Health::Healthy));
    let live = live(cluster(Balance::RoundRobin), hosts.collect());
    // As if it had been in use for long.
    live.counters.turn.store(usize::MAX - 5000, Relaxed);
    let counts = counts(&live, 10_000);
    assert!((3900..=4100).contains(&counts[0]), "{counts:?}");
    assert!((3900..=4100).contains(&counts[1]), "{counts:?}");
    assert!((1900..=2100).contains(&counts[2]), "{counts:?}");
}

#[test]
fn the_less_busy_of_two_is_taken() {
    let live = live(
        cluster(Balance::LeastRequest(2)),
        (0..2).map(|n| endpoint(n, 1, 0, Health::Healthy)).collect(),
    );
    let _busy: Vec<_> = (0..5).map(|_| live.hosts[0].busy()).collect();
    let counts = counts(&live, 1000);
    // Only if both draws are the busy one.
    assert!((200..300).contains(&counts[0]), "{counts:?}");
}

#[test]
fn unhealthy_endpoints_are_left_out_and_none_is_an_answer() {
    let mixed = vec![
        endpoint(0, 1, 0, Health::Unhealthy),
        endpoint(1, 1, 0, Health::Healthy),
    ];
    assert_eq!(counts(&live(cluster(Balance::Random), mixed), 50), [0, 50]);
    let dead = live(
        cluster(Balance::Random),
        vec![endpoint(0, 1, 0, Health::Unhealthy)],
    );
    assert!(
        dead.pick(Duration::ZERO, &mut SmallRng::seed_from_u64(1), &[], 3)
            .is_none()
    );
    let panic = Cluster {
        panic_percent: 50,
        ..cluster(Balance::Random)
    };
    assert_eq!(
        counts(&live(panic, vec![endpoint(0, 1, 0, Health::Unhealthy)]), 5),
        [5]
    );
    assert!(
        live_empty()
            .pick(Duration::ZERO, &mut SmallRng::seed_from_u64(1), &[], 3)
            .is_none()
    );
}

fn live_empty() -> Live {
    Live::new(Arc::new(cluster(Balance::LeastRequest(2))), None, None)
}

#[test]
fn the_next_priority_takes_what_the_first_cannot() {
    let both = |first: Health| {
        vec![
            endpoint(0, 1, 0, Health::Healthy),
            endpoint(1, 1, 0, first),
            endpoint(2, 1, 1, Health::Healthy),
        ]
    };
    assert_eq!(
        counts(&live(cluster(Balance::Random), both(Health::Healthy)), 100)[2],
        0
    );
    // Half of the first level is healthy: 140 % of 50 % stays, the rest spills over.
    let spilled = counts(
        &live(cluster(Balance::Random), both(Health::Unhealthy)),
        10_000,
    )[2];
    assert!((2_700..3_300).contains(&spilled), "{spilled}");
}

#[test]
fn tried_endpoints_are_avoided() {
    let live = live(
        cluster(Balance::Random),
        (0..2).map(|n| endpoint(n, 1, 0, Health::Healthy)).collect(),
    );
    let mut rng = SmallRng::seed_from_u64(9);
    let tried = [live.hosts[0].clone()];
    let again = (0..1000).filter(|_| {
        Arc::ptr_eq(
            &live.pick(Duration::ZERO, &mut rng, &tried, 5).unwrap(),
            &live.hosts[0],
        )
    });
    // Five draws in a row: 1/32.
    assert!(again.count() < 60);
}

#[test]
fn bad_answers_in_a_row_eject_for_a_growing_time() {
    let outlier = Outlier {
        consecutive_5xx: Some(3),
        consecutive_gateway: None,
        base: Duration::from_secs(30),
        max: Duration::from_secs(300),
        max_percent: 10,
    };
    let config = Cluster {
        outlier: Some(outlier),
        ..cluster(Balance::Random)
    };
    let live = live(
        config,
        (0..2).map(|n| endpoint(n, 1, 0, Health::Healthy)).collect(),
    );
    let at = Duration::from_secs;
    let bad = |host: usize, now| {
        (0..3).for_each(|_| live.record(&live.hosts[host], Outcome::Status(500), now))
    };
    live.record(&live.hosts[0], Outcome::Failed, at(1));
    live.record(&live.hosts[0], Outcome::Status(200), at(1));
    bad(0, at(1));
    assert!(
        live.hosts[0].is_ejected(at(2))
            && live.hosts[0].is_ejected(at(30))
            && !live.hosts[0].is_ejected(at(32))
    );
    bad(1, at(2));
    assert!(
        !live.hosts[1].is_ejected(at(3)),
        "10 % of two is none besides the first"
    );
    bad(0, at(40));
    assert!(live.hosts[0].is_ejected(at(99)) && !live.hosts[0].is_ejected(at(101)));
    // What was learned outlives a push.
    let endpoints = Endpoints {
        endpoints: vec![endpoint(0, 7, 0, Health::Healthy)],
        ..Default::default()
    };
    let next = Live::new(live.config.clone(), Some(&endpoints), Some(&live));
    assert!(next.hosts[0].is_ejected(at(99)));
}

#[test]
fn limits_count_while_the_guard_lives() {
    let limits = Limits {
        retries: 1,
        ..Limits::default()
    };
    let live = live(
        Cluster {
            limits,
            ..cluster(Balance::Random)
        },
        vec![],
    );
    let first = live.retry();
    assert!(first.is_some() && live.retry().is_none());
    drop(first);
    assert!(live.retry().is_some());
    let budget = Limits {
        budget: Some((50, 2)),
        ..Limits::default()
    };
    let live = super::Live {
        config: Arc::new(Cluster {
            limits: budget,
            ..cluster(Balance::Random)
        }),
        ..live
    };
    let held: Vec<_> = std::iter::from_fn(|| live.retry()).take(5).collect();
    assert_eq!(held.len(), 2);
}
