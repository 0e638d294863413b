//! The goals of the data path, one by one.

use super::{Against, Aim, Goal};

const BULK: &[&str] = &["bulk-up-1", "bulk-down-1", "bulk-up-16", "bulk-down-16"];

/// A ratio to the peer.
pub(super) const fn goal(
    title: &'static str,
    scenarios: &'static [&'static str],
    value: &'static str,
    aim: Aim,
    stretch: f64,
) -> Goal {
    Goal {
        title,
        scenarios,
        value,
        against: Against::Peer,
        aim,
        stretch: Some(stretch),
    }
}

/// A figure of its own.
pub(super) const fn of_itself(
    title: &'static str,
    scenarios: &'static [&'static str],
    value: &'static str,
    aim: Aim,
    stretch: Option<f64>,
) -> Goal {
    Goal {
        title,
        scenarios,
        value,
        against: Against::Itself,
        aim,
        stretch,
    }
}

/// All goals.
pub const GOALS: [Goal; 32] = [
    goal(
        "bulk, CPU-s/GB",
        BULK,
        "cpu_s_per_gb",
        Aim::AtMost(0.60),
        0.52,
    ),
    Goal {
        title: "bulk, CPU-s/GB against plain relays (a stretch)",
        scenarios: BULK,
        value: "cpu_s_per_gb",
        against: Against::Relay,
        aim: Aim::AtMost(1.15),
        stretch: None,
    },
    goal(
        "bulk, Gb/s, 1 stream",
        &["bulk-up-1", "bulk-down-1"],
        "gbps",
        Aim::AtLeast(1.4),
        1.6,
    ),
    goal(
        "bulk, Gb/s, 16 streams",
        &["bulk-up-16", "bulk-down-16"],
        "gbps",
        Aim::AtLeast(1.7),
        2.0,
    ),
    goal(
        "RR 64 B x 1, CPU per op",
        &["rr-64-1"],
        "cpu_us",
        Aim::AtMost(1.0),
        0.85,
    ),
    goal(
        "RR 64 B x 1, p50",
        &["rr-64-1"],
        "p50_us",
        Aim::AtMost(1.0),
        0.6,
    ),
    goal(
        "RR 1 KB x 64, CPU per op",
        &["rr-1k-64"],
        "cpu_us",
        Aim::AtMost(0.45),
        0.36,
    ),
    goal(
        "RR 1 KB x 64, ops/s",
        &["rr-1k-64"],
        "per_s",
        Aim::AtLeast(2.0),
        2.5,
    ),
    goal(
        "RR 1 KB x 64, p99",
        &["rr-1k-64"],
        "p99_us",
        Aim::AtMost(0.7),
        0.5,
    ),
    goal(
        "CRR x 16, CPU per connection",
        &["crr-16"],
        "cpu_us",
        Aim::AtMost(0.60),
        0.50,
    ),
    goal(
        "CRR x 16, connections/s",
        &["crr-16"],
        "per_s",
        Aim::AtLeast(1.3),
        1.6,
    ),
    goal(
        "CRR, new identities, CPU; both X25519MLKEM768",
        &["crr-new-identity-pqc"],
        "cpu_us",
        Aim::AtMost(0.75),
        0.6,
    ),
    goal(
        "CRR, new identities, CPU; each its default key exchange",
        &["crr-new-identity"],
        "cpu_us",
        Aim::AtMost(0.75),
        0.6,
    ),
    goal(
        "idle connection, fresh, RSS",
        &["idle"],
        "fresh_rss_kib",
        Aim::AtMost(0.10),
        0.05,
    ),
    goal(
        "idle connection, after load, RSS",
        &["idle"],
        "after_rss_kib",
        Aim::AtMost(0.25),
        0.1,
    ),
    of_itself(
        "RSS a minute after a storm, over idle",
        &["storm"],
        "after_over_idle",
        Aim::AtMost(1.5),
        Some(1.2),
    ),
    goal(
        "same node, bulk, CPU-s/GB",
        &["near-bulk-up-1", "near-bulk-up-16"],
        "cpu_s_per_gb",
        Aim::AtMost(0.30),
        0.22,
    ),
    goal(
        "same node, RR 1 KB x 64, CPU per op",
        &["near-rr-1k-64"],
        "cpu_us",
        Aim::AtMost(0.45),
        0.38,
    ),
    goal(
        "same node, RR 64 B x 1, CPU per op",
        &["near-rr-64-1"],
        "cpu_us",
        Aim::AtMost(0.70),
        0.60,
    ),
    goal(
        "same node, CRR x 16, CPU per connection (watched)",
        &["near-crr-16"],
        "cpu_us",
        Aim::AtMost(0.95),
        0.80,
    ),
    goal(
        "open loop at 50 %, p99",
        &["open-50"],
        "p99_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "open loop at 50 %, p99.9",
        &["open-50"],
        "p999_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "open loop at 70 %, p99",
        &["open-70"],
        "p99_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "open loop at 70 %, p99.9",
        &["open-70"],
        "p999_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "open loop at 90 %, p99",
        &["open-90"],
        "p99_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "open loop at 90 %, p99.9",
        &["open-90"],
        "p999_us",
        Aim::AtMost(0.8),
        0.5,
    ),
    goal(
        "B8: p99 beside four bulk streams, loaded/alone",
        &["beside-bulk"],
        "loaded_over_alone",
        Aim::AtMost(0.5),
        0.3,
    ),
    of_itself(
        "B9: held for a stalled stream, KiB",
        &["stall"],
        "held_kib",
        Aim::AtMost(1024.0),
        None,
    ),
    of_itself(
        "B9: the 99 others, during/before and after",
        &["stall"],
        "others_during_over_before_and_after",
        Aim::AtLeast(0.95),
        None,
    ),
    of_itself(
        "CPU per connect, 10,000 policies elsewhere/none",
        &["policies"],
        "elsewhere_over_none",
        Aim::AtMost(1.1),
        Some(1.02),
    ),
    of_itself(
        "CPU per connect, 10,000 policies here/none",
        &["policies"],
        "here_over_none",
        Aim::AtMost(1.1),
        Some(1.02),
    ),
    goal(
        "churn, CPU per op (watched)",
        &["churn"],
        "cpu_us",
        Aim::AtMost(1.0),
        0.6,
    ),
];
