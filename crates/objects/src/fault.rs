//! What is wrong with an object or a file, in words for the person who wrote it.

use std::{fmt, num::NonZeroI64};

use crate::object::{Key, Object};

/// How bad a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The object is used, but part of it has no effect.
    Warning,
    /// The object (or file) is refused; what was last good stays.
    Error,
}

/// One fault. Display gives `file: Kind ns/name: field: why` with the known parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// How bad it is.
    pub severity: Severity,
    /// The file it was read from, relative to the directory; `None` for other sources.
    pub file: Option<Box<str>>,
    /// The object, when its kind and name could be read.
    pub key: Option<Key>,
    /// Path of the field, for example `spec.rules[0].to[0].operation.ports[1]`.
    pub field: Option<Box<str>>,
    /// What is wrong and what is allowed.
    pub why: Box<str>,
    /// Of an object that is refused: which version of it (`metadata.generation`), where that is known.
    pub generation: Option<NonZeroI64>,
    /// For objects that guard access: what to use while there is no last good version (it denies).
    pub stand_in: Option<Object>,
}

impl Fault {
    /// A refusal that knows no object.
    #[must_use]
    pub fn error(why: impl Into<Box<str>>) -> Fault {
        Fault {
            severity: Severity::Error,
            file: None,
            key: None,
            field: None,
            why: why.into(),
            generation: None,
            stand_in: None,
        }
    }

    /// A refusal of one object.
    #[must_use]
    pub fn refused(key: Key, field: impl Into<Box<str>>, why: impl Into<Box<str>>) -> Fault {
        Fault {
            key: Some(key),
            field: named(field),
            ..Fault::error(why)
        }
    }

    /// A remark on an object that is used nevertheless.
    #[must_use]
    pub fn warning(
        key: Option<Key>,
        field: impl Into<Box<str>>,
        why: impl Into<Box<str>>,
    ) -> Fault {
        Fault {
            severity: Severity::Warning,
            key,
            field: named(field),
            ..Fault::error(why)
        }
    }
}

fn named(field: impl Into<Box<str>>) -> Option<Box<str>> {
    Some(field.into()).filter(|field| !field.is_empty())
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.why)
    }
}
