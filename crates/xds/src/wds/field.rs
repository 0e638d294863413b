//! What is wrong with a resource: the path of the field, the bad value, what is allowed. And the conversions
//! that every message needs. Used by the other files of `wds`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;

/// A field that cannot be used. `Display`: `path: problem`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    path: String,
    problem: String,
}

impl FieldError {
    /// A problem, so far without a place.
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            problem: problem.into(),
        }
    }

    /// The problem lies in `field` (of what a caller may name in turn).
    pub(super) fn at(mut self, field: impl fmt::Display) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{field}{dot}{}", self.path);
        self
    }

    /// Path of the field within the resource, e.g. `workload.addresses[1]`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.problem),
            false => write!(f, "{}: {}", self.path, self.problem),
        }
    }
}

impl std::error::Error for FieldError {}

pub(super) type Result<T> = std::result::Result<T, FieldError>;

pub(super) fn undecodable(error: prost::DecodeError) -> FieldError {
    FieldError::new(format!("is not a message of its type: {error}"))
}

/// The resource name and what the message calls itself must agree.
pub(super) fn same_name(resource: &str, own: &str) -> Result<()> {
    match resource == own {
        true => Ok(()),
        false => Err(FieldError::new(format!(
            "is {}, but the resource is named {}",
            quoted(own),
            quoted(resource)
        ))),
    }
}

pub(super) fn required<'a>(field: &'static str, value: &'a str) -> Result<&'a str> {
    match value.is_empty() {
        true => Err(FieldError::new("is empty").at(field)),
        false => Ok(value),
    }
}

/// Converts each value; an error names the index.
pub(super) fn each<T, U, C: FromIterator<U>>(
    field: &'static str,
    values: &[T],
    mut convert: impl FnMut(&T) -> Result<U>,
) -> Result<C> {
    let convert =
        |(index, value)| convert(value).map_err(|error| error.at(format_args!("{field}[{index}]")));
    values.iter().enumerate().map(convert).collect()
}

/// An enum value that we know.
pub(super) fn known<E: TryFrom<i32>>(field: &'static str, value: i32) -> Result<E> {
    E::try_from(value)
        .map_err(|_| FieldError::new(format!("{value} is not a known value")).at(field))
}

/// A port from 1.
pub(super) fn port(field: &'static str, value: u32) -> Result<u16> {
    match port_or_zero(field, value)? {
        0 => Err(FieldError::new("0 is not a port").at(field)),
        port => Ok(port),
    }
}

pub(super) fn port_or_zero(field: &'static str, value: u32) -> Result<u16> {
    u16::try_from(value).map_err(|_| FieldError::new(format!("{value} is not a port")).at(field))
}

/// 4 or 16 bytes; IPv4 that is mapped into IPv6 becomes IPv4.
pub(super) fn ip(bytes: &[u8]) -> Result<IpAddr> {
    Ok(exact_ip(bytes)?.to_canonical())
}

fn exact_ip(bytes: &[u8]) -> Result<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(four.into());
    }
    let sixteen = <[u8; 16]>::try_from(bytes);
    sixteen
        .map(|bytes| Ipv6Addr::from(bytes).into())
        .map_err(|_| FieldError::new(format!("an address has 4 or 16 bytes, not {}", bytes.len())))
}

/// An address with its prefix length; `None`: the whole address.
pub(super) fn range(bytes: &[u8], length: Option<u32>) -> Result<IpNet> {
    let address = exact_ip(bytes).map_err(|error| error.at("address"))?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(max);
    if length > max {
        return Err(FieldError::new(format!(
            "{length} is more than {max}, the most for {address}"
        ))
        .at("length"));
    }
    let canonical = address.to_canonical();
    // Mapped IPv4: its last 32 bits are what the length counts in.
    let (address, length) = match length.checked_sub(96) {
        Some(length) if canonical != address => (canonical, length),
        _ => (address, length),
    };
    let length = u8::try_from(length).expect("at most 128");
    Ok(IpNet::new(address, length).expect("checked against the length of the address"))
}

/// A value for an error text: quoted, and not longer than a line.
pub(super) fn quoted(value: &str) -> String {
    const SHOWN: usize = 100;
    match value.char_indices().nth(SHOWN) {
        None => format!("{value:?}"),
        Some((cut, _)) => format!("{:?}… ({} bytes)", &value[..cut], value.len()),
    }
}
