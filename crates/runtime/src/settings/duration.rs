//! Times as upstream writes them: numbers with a unit, strung together. Used by `settings` and by
//! whoever reads a time from a file.
use std::time::Duration;

/// Units with their length in nanoseconds, longest name first where one starts another.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Reads `5m`, `30s`, `1h30m`, `1.5s`, `100ms`; a bare `0` is zero. `None` for anything else.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_len = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, *nanos)?)?;
        rest = next;
    }
    let seconds = u64::try_from(total / 1_000_000_000).ok()?;
    let nanos = u32::try_from(total % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, nanos))
}

/// `number` (digits, perhaps with a fraction) times `unit`, in nanoseconds.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let mut nanos = whole.parse::<u128>().ok()?.checked_mul(unit)?;
    if !fraction.is_empty() {
        let parts = fraction.parse::<u128>().ok()?.checked_mul(unit)?;
        nanos = nanos.checked_add(parts / 10u128.pow(u32::try_from(fraction.len()).ok()?))?;
    }
    Some(nanos)
}

/// The shortest text that reads back as this time: `5m`, `1500ms`, `0s`.
#[must_use]
pub fn format_duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    // Days are left out: 24h is what people write.
    let shown = [("h", 6), ("m", 5), ("s", 4), ("ms", 3), ("us", 1)];
    for (name, at) in shown {
        if nanos.is_multiple_of(UNITS[at].1) {
            return format!("{}{name}", nanos / UNITS[at].1);
        }
    }
    format!("{nanos}ns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_upstream_writes_them() {
        let cases = [
            ("5m", Some(300_000)),
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("100ms", Some(100)),
            ("1.5s", Some(1_500)),
            ("24h", Some(86_400_000)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("m", None),
            ("-5s", None),
            ("5 m", None),
            ("5x", None),
            ("1.s", None),
            ("1.2.3s", None),
            ("99999999999999999999999999999999999999999h", None),
        ];
        for (text, millis) in cases {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_back(seconds in 0..u64::from(u32::MAX), nanos in 0..1_000_000_000u32) {
            let time = Duration::new(seconds, nanos);
            proptest::prop_assert_eq!(parse_duration(&format_duration(time)), Some(time));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = parse_duration(&text);
        }
    }
}
