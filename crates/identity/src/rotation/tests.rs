//! When renewals and retries fall, over the whole range of the randomness.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn wait(rotation: &Rotation, now: SystemTime) -> Duration {
    match rotation.next(now) {
        Action::Wait(wait) => wait,
        Action::Fetch => Duration::ZERO,
    }
}

#[test]
fn a_new_identity_is_fetched_at_once() {
    assert_eq!(Rotation::new().next(start()), Action::Fetch);
}

#[test]
fn renewal_falls_around_half_of_life_and_is_spread() {
    let mut waits = Vec::new();
    for seed in 0..200 {
        let mut rotation = Rotation::new();
        let mut rng = StdRng::seed_from_u64(seed);
        rotation.issued(start(), start() + 24 * HOUR, start(), &mut rng);
        let wait = wait(&rotation, start());
        assert!(wait >= (12 * HOUR).mul_f64(0.899) && wait <= (12 * HOUR).mul_f64(1.101));
        assert_eq!(rotation.next(start() + wait), Action::Fetch);
        waits.push(wait);
    }
    let spread = *waits.iter().max().unwrap() - *waits.iter().min().unwrap();
    assert!(spread > 2 * HOUR, "{spread:?}");
}

#[test]
fn a_certificate_past_its_half_is_renewed_within_what_is_left() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut rotation = Rotation::new();
    let now = start() + 20 * HOUR;
    rotation.issued(start(), start() + 24 * HOUR, now, &mut rng);
    let wait = wait(&rotation, now);
    assert!(wait > HOUR && wait < 3 * HOUR, "{wait:?}");
}

#[test]
fn a_useless_certificate_does_not_make_a_busy_loop() {
    let mut rng = StdRng::seed_from_u64(1);
    let cases = [
        (start() - HOUR, start() - HOUR),
        (start() - HOUR, start()),
        (start(), start() - HOUR),
    ];
    for (from, to) in cases {
        let mut rotation = Rotation::new();
        rotation.issued(from, to, start(), &mut rng);
        assert!(wait(&rotation, start()) >= Duration::from_secs(1));
    }
}

#[test]
fn failures_back_off_to_150_seconds_and_success_starts_over() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut rotation = Rotation::new();
    for step in [
        1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 150.0, 150.0, 150.0,
    ] {
        rotation.failed(start(), &mut rng);
        let wait = wait(&rotation, start()).as_secs_f64();
        assert!(
            wait >= step * 0.799 && wait <= (step * 1.201f64).min(150.0),
            "{wait} of {step}"
        );
    }
    for _ in 0..100 {
        rotation.failed(start(), &mut rng);
    }
    assert!(wait(&rotation, start()) <= Duration::from_secs(150));
    assert_eq!(rotation.failures(), 111);
    rotation.issued(start(), start() + HOUR, start(), &mut rng);
    rotation.failed(start(), &mut rng);
    assert!(wait(&rotation, start()) <= Duration::from_millis(1201));
}
