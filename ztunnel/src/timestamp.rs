//! Times as logs and dumps write them: RFC 3339 in UTC. Called by `report::line` and `control::dump`.

use std::time::{Duration, SystemTime};

/// `2026-11-23T19:54:58.737921Z`.
pub fn micros(time: SystemTime) -> String {
    let since = since_epoch(time);
    format!(
        "{}.{:06}Z",
        to_seconds(since.as_secs()),
        since.subsec_micros()
    )
}

/// `2026-11-23T19:54:58Z`.
pub fn seconds(time: SystemTime) -> String {
    format!("{}Z", to_seconds(since_epoch(time).as_secs()))
}

/// Nothing here is older than 1970; a clock that says so reads as 1970.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

fn to_seconds(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Year, month and day of a number of days since 1970-01-01: years that begin in March, so that the leap day is the
/// last one, in eras of 400 years (146,097 days).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates_are_written() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_463_698, "2026-11-23T19:54:58Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (at, expected) in cases {
            assert_eq!(
                seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
                expected
            );
        }
        let at = SystemTime::UNIX_EPOCH + Duration::new(1_795_463_698, 737_921_999);
        assert_eq!(micros(at), "2026-11-23T19:54:58.737921Z");
    }
}
