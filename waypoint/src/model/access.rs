//! Access logs: where the lines go, for which requests, and how they look.

use crate::format::Format;
use std::sync::Arc;

/// One access log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Which requests.
    pub filter: AccessFilter,
    /// The line, with its newline. Equal formats are shared.
    pub format: Arc<Format>,
}

/// Which requests are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessFilter {
    /// All.
    All,
    /// Status at least this.
    StatusAtLeast(u16),
    /// Status at most this.
    StatusAtMost(u16),
    /// Status is this.
    StatusIs(u16),
    /// One of these response flags (any flag at all, when empty).
    Flags(Vec<String>),
}

impl AccessFilter {
    /// Is a request with this status and these flags logged?
    pub fn admits(&self, status: u16, flags: &str) -> bool {
        match self {
            Self::All => true,
            Self::StatusAtLeast(want) => status >= *want,
            Self::StatusAtMost(want) => status <= *want,
            Self::StatusIs(want) => status == *want,
            Self::Flags(wanted) if wanted.is_empty() => !flags.is_empty(),
            Self::Flags(wanted) => flags
                .split(',')
                .any(|flag| wanted.iter().any(|want| want == flag)),
        }
    }
}
