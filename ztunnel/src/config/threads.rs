//! How many worker threads: upstream's rules. Called by `config`.

use std::thread;

use runtime::settings::Settings;

/// Reads the settings that decide it.
pub(super) fn read(s: &mut Settings<'_>) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let limit = quantity(
        s,
        "ZTUNNEL_RESOURCE_CPU_LIMIT",
        "CPU limit of the pod; worker fractions count from it.",
    );
    let limit = quantity(
        s,
        "ZTUNNEL_CPU_LIMIT",
        "As ZTUNNEL_RESOURCE_CPU_LIMIT, and wins over it.",
    )
    .or(limit);
    let request = quantity(
        s,
        "ZTUNNEL_RESOURCE_CPU_REQUEST",
        "CPU request of the pod; at least so many workers.",
    );
    let asked = s.optional_parsed(
        "ZTUNNEL_WORKER_THREADS",
        "a whole number, a share such as `50%`, or 0 for all CPUs",
        "Threads that carry bytes; not set = the larger of 2, the CPU request and a quarter of the CPUs.",
        parse,
    );
    let available = limit.unwrap_or(cores);
    match asked {
        Some(Asked::Count(0)) => available,
        Some(Asked::Count(count)) => count,
        Some(Asked::Percent(percent)) => (available * percent).div_ceil(100).max(1),
        None => request.unwrap_or(0).max(available.div_ceil(4)).max(2),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Count(usize),
    Percent(usize),
}

fn parse(text: &str) -> Option<Asked> {
    match text.strip_suffix('%') {
        Some(percent) => percent
            .parse()
            .ok()
            .filter(|percent| (1..=100).contains(percent))
            .map(Asked::Percent),
        None => text
            .parse()
            .ok()
            .filter(|count| *count <= 1024)
            .map(Asked::Count),
    }
}

fn quantity(s: &mut Settings<'_>, name: &str, meaning: &str) -> Option<usize> {
    s.optional_parsed(
        name,
        "a Kubernetes quantity of CPUs such as `2` or `500m`",
        meaning,
        cpus,
    )
}

/// Whole CPUs, rounded up: half a CPU still runs one thread.
fn cpus(text: &str) -> Option<usize> {
    if let Some(milli) = text.strip_suffix('m') {
        return milli
            .parse::<usize>()
            .ok()
            .map(|milli| milli.div_ceil(1000).max(1));
    }
    let whole: f64 = text.parse().ok()?;
    // Bounded before the cast, which then cannot truncate.
    (0.0..=4096.0)
        .contains(&whole)
        .then(|| (whole.ceil() as usize).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_round_up() {
        let cases = [
            ("2", Some(2)),
            ("500m", Some(1)),
            ("1500m", Some(2)),
            ("0.2", Some(1)),
            ("x", None),
            ("-1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(cpus(text), expected, "{text}");
        }
    }

    #[test]
    fn counts_and_shares_are_told_apart() {
        let cases = [
            ("4", Some(Asked::Count(4))),
            ("50%", Some(Asked::Percent(50))),
            ("101%", None),
            ("-1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
