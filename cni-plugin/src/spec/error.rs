//! Errors as the CNI specification wants them on stdout. Made by `spec`, `ask` and `bin/plugin`.
use serde_json::{Value, json};

/// The specification's error codes that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1: the version is not spoken here.
    Version,
    /// 4: an environment variable is missing or wrong.
    Environment,
    /// 5: something could not be read or written.
    Io,
    /// 6: stdin cannot be decoded.
    Decode,
    /// 7: the network configuration is wrong.
    Configuration,
    /// 11: try again later.
    TryAgain,
    /// 100: the pod belongs into the mesh and could not be put there.
    NotCaptured,
}

impl Code {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Version => 1,
            Self::Environment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::Configuration => 7,
            Self::TryAgain => 11,
            Self::NotCaptured => 100,
        }
    }
}

/// One error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}: {details}")]
pub struct CniError {
    /// Number of the kind.
    pub code: u32,
    /// One line.
    pub msg: String,
    /// What led to it; may be empty.
    pub details: String,
}

impl CniError {
    /// An error without details.
    #[must_use]
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self {
            code: code.number(),
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl std::fmt::Display) -> Self {
        self.details = cause.to_string();
        self
    }

    /// As it is printed.
    #[must_use]
    pub fn to_json(&self, version: &str) -> Value {
        let version = if version.is_empty() { "1.0.0" } else { version };
        json!({
            "cniVersion": version,
            "code": self.code,
            "msg": self.msg,
            "details": self.details,
        })
    }
}
