//! The `traceparent` header (W3C trace context, level 1): 55 characters or it is not one.

use std::fmt;
use std::str::FromStr;

/// A trace id with the span that called us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Traceparent {
    /// Never 0.
    pub trace_id: u128,
    /// The caller's span, never 0.
    pub parent_id: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

/// The text is not a traceparent; whoever needs one makes a new id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct TraceparentError;

impl Traceparent {
    /// A new one from random numbers (the caller's rng), not sampled. Zeros are replaced by ones.
    pub fn from_random(trace_id: u128, parent_id: u64) -> Self {
        Self {
            trace_id: trace_id.max(1),
            parent_id: parent_id.max(1),
            flags: 0,
        }
    }
}

impl FromStr for Traceparent {
    type Err = TraceparentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let dashes = [2, 35, 52];
        let shaped = bytes.len() == 55
            && bytes.iter().enumerate().all(|(i, b)| {
                if dashes.contains(&i) {
                    *b == b'-'
                } else {
                    b.is_ascii_hexdigit()
                }
            });
        if !shaped || text[..2].eq_ignore_ascii_case("ff") {
            return Err(TraceparentError);
        }
        let parsed = Self {
            trace_id: u128::from_str_radix(&text[3..35], 16).map_err(|_| TraceparentError)?,
            parent_id: u64::from_str_radix(&text[36..52], 16).map_err(|_| TraceparentError)?,
            flags: u8::from_str_radix(&text[53..], 16).map_err(|_| TraceparentError)?,
        };
        if parsed.trace_id == 0 || parsed.parent_id == 0 {
            return Err(TraceparentError);
        }
        Ok(parsed)
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.parent_id, self.flags
        )
    }
}
