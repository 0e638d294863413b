//! Envoy resources → `model`, or a refusal that names the place. Called by `config` with each resource's
//! bytes. Every field of every message is carried out, listed in `ignored` with its reason, or refused:
//! `take!` makes the compiler check that none is forgotten.

pub mod cluster;
pub mod endpoint;
pub mod filters;
pub mod hcm;
pub mod ignored;
pub mod listener;
pub mod matcher;
pub mod messages;
pub mod rbac;
pub mod retry;
pub mod route;
pub mod socket;
pub mod strings;
pub mod terminate;
#[cfg(test)]
pub(crate) mod tests;

use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as ProtoDuration, UInt32Value};
use prost::{Message, Name};
use std::fmt;
use std::time::Duration;

/// Why a resource is refused: `type URL at path: reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

/// Result of a conversion.
pub type Converted<T> = Result<T, Refusal>;

/// A place in a resource; a chain of borrowed steps, so that a good resource costs nothing.
#[derive(Clone, Copy)]
pub struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root(&'a str),
    Field(&'a str),
    Index(&'a str, usize),
    Key(&'a str, &'a str),
}

impl<'a> At<'a> {
    /// The resource itself.
    pub fn root(type_url: &'a str) -> Self {
        Self {
            parent: None,
            step: Step::Root(type_url),
        }
    }

    /// A field.
    pub fn field<'b>(&'b self, name: &'b str) -> At<'b> {
        At {
            parent: Some(self),
            step: Step::Field(name),
        }
    }

    /// An element of a repeated field.
    pub fn index<'b>(&'b self, name: &'b str, index: usize) -> At<'b> {
        At {
            parent: Some(self),
            step: Step::Index(name, index),
        }
    }

    /// An entry of a map, or an element that has a name.
    pub fn key<'b>(&'b self, name: &'b str, key: &'b str) -> At<'b> {
        At {
            parent: Some(self),
            step: Step::Key(name, key),
        }
    }

    /// A refusal here.
    pub fn refuse(&self, reason: impl fmt::Display) -> Refusal {
        let mut steps = Vec::new();
        let mut at = Some(self);
        let mut root = "";
        while let Some(here) = at {
            match here.step {
                Step::Root(url) => root = url,
                _ => steps.push(here.step),
            }
            at = here.parent;
        }
        let mut path = String::new();
        for step in steps.iter().rev() {
            if !path.is_empty() {
                path.push('.');
            }
            match step {
                Step::Root(_) => {}
                Step::Field(name) => path.push_str(name),
                Step::Index(name, index) => path.push_str(&format!("{name}[{index}]")),
                Step::Key(name, key) => path.push_str(&format!("{name}[{key:?}]")),
            }
        }
        let path = if path.is_empty() {
            ".".to_owned()
        } else {
            path
        };
        Refusal(format!("{root} at {path}: {reason}"))
    }

    /// A refusal of a field that is set but not carried out.
    pub fn unsupported(&self, field: &str) -> Refusal {
        self.field(field).refuse("not supported")
    }
}

/// Refuses a field that is set at all.
pub fn unset<T: Default + PartialEq>(at: &At<'_>, name: &'static str, value: &T) -> Converted<()> {
    let name = name.strip_prefix("r#").unwrap_or(name);
    if *value == T::default() {
        Ok(())
    } else {
        Err(at.unsupported(name))
    }
}

/// Takes a message apart: `take!(at, value => Type { used } ignored { … } refused { … })`. All fields
/// must be named, ignored ones must stand in `ignored::FIELDS`, refused ones must be unset.
macro_rules! take {
    ($at:expr, $value:expr => $ty:ident { $($used:ident),* $(,)? }
     ignored { $($ignored:ident),* $(,)? } refused { $($refused:ident),* $(,)? }) => {
        let _ = &$at;
        let $ty { $($used,)* $($ignored,)* $($refused,)* } = $value;
        $(
            const _: () = $crate::envoy::ignored::must_stand(stringify!($ty), stringify!($ignored));
            let _ = $ignored;
        )*
        $( $crate::envoy::unset(&$at, stringify!($refused), &$refused)?; )*
    };
}
pub(crate) use take;

/// The full type URL of a message.
pub fn type_url<M: Name>() -> String {
    format!("type.googleapis.com/{}", M::full_name())
}

/// Decodes bytes strictly: a field that this build does not know is refused, not dropped.
pub fn decode<M: Message + Default>(at: &At<'_>, bytes: &[u8]) -> Converted<M> {
    let message =
        M::decode(bytes).map_err(|error| at.refuse(format!("cannot be decoded: {error}")))?;
    // prost drops unknown fields silently; then the message is shorter when written again.
    if message.encoded_len() != bytes.len() {
        return Err(at.refuse("holds a field that this version does not know"));
    }
    Ok(message)
}

/// Decodes the content of an `Any` of the expected type.
pub fn unpack<M: Message + Name + Default>(at: &At<'_>, any: &Any) -> Converted<M> {
    if any.type_url != type_url::<M>() {
        return Err(at.refuse(format!("type '{}' is not supported here", any.type_url)));
    }
    decode(at, &any.value)
}

/// The `typed_config` that must be there.
pub fn required<T>(at: &At<'_>, field: &'static str, value: Option<T>) -> Converted<T> {
    value.ok_or_else(|| at.field(field).refuse("missing"))
}

/// A duration that is not negative.
pub fn duration(
    at: &At<'_>,
    field: &'static str,
    value: Option<ProtoDuration>,
) -> Converted<Option<Duration>> {
    let Some(ProtoDuration { seconds, nanos }) = value else {
        return Ok(None);
    };
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 && seconds < 1 << 40 => {
            Ok(Some(Duration::new(seconds, nanos)))
        }
        _ => Err(at
            .field(field)
            .refuse(format!("{seconds}s {nanos}ns is not a duration"))),
    }
}

/// A duration where 0 (or nothing) means no limit.
pub fn limit(
    at: &At<'_>,
    field: &'static str,
    value: Option<ProtoDuration>,
) -> Converted<Option<Duration>> {
    Ok(duration(at, field, value)?.filter(|time| !time.is_zero()))
}

/// The wrapped number.
pub fn number(value: Option<UInt32Value>) -> Option<u32> {
    value.map(|wrapped| wrapped.value)
}

/// The wrapped flag, or what is meant without one.
pub fn flag(value: Option<BoolValue>, default: bool) -> bool {
    value.map_or(default, |wrapped| wrapped.value)
}

/// A stable hash of a resource's bytes, to see whether a chain changed.
pub fn content_hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
