//! The access log: upstream's fields, order and layout, plain or JSON. Pure: facts in, one line out. Called by
//! `report`.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::time::SystemTime;

use runtime::logs::Format;

use super::labels::{Labels, SAME_NODE};
use super::reason::{self, Outcome, Target};
use crate::timestamp;
use crate::worker::api::{Closed, Connection, Direction, Refused, Security};

/// A line under construction: fields in the order in which they are added.
struct Line {
    format: Format,
    time: SystemTime,
    level: &'static str,
    message: &'static str,
    /// Plain: `key=value`, spaces between; JSON: `,"key":value`.
    fields: String,
}

/// "connection opened".
pub fn opened(
    format: Format,
    time: SystemTime,
    connection: &Connection,
    labels: &Labels,
) -> String {
    let mut line = Line::new(format, time, "debug", "connection opened");
    ends(&mut line, connection, labels);
    line.text("direction", direction(connection.direction));
    line.finish()
}

/// "connection complete", at the level of its outcome.
pub fn closed(format: Format, time: SystemTime, closed: &Closed, labels: &Labels) -> String {
    let connection = &closed.connection;
    let level = if reason::outcome(closed.reason) == Outcome::Complete {
        "info"
    } else {
        "error"
    };
    let mut line = Line::new(format, time, level, "connection complete");
    ends(&mut line, connection, labels);
    line.text("direction", direction(connection.direction));
    // The metrics count from the initiator's point of view; the log from that of the pod beside us.
    let (to_initiator, from_initiator) = (connection.bytes.sent(), connection.bytes.received());
    let (sent, received) = match connection.direction {
        Direction::Outbound => (from_initiator, to_initiator),
        Direction::Inbound => (to_initiator, from_initiator),
    };
    line.number("bytes_sent", sent);
    line.number("bytes_recv", received);
    line.text("duration", &format!("{}ms", closed.duration.as_millis()));
    if let Some(error) = reason::error(closed.reason, target(connection), closed.detail.as_deref())
    {
        line.text("error", &error);
    }
    line.finish()
}

/// "connection failed": it ended before its facts were known.
pub fn refused(format: Format, time: SystemTime, refused: &Refused) -> String {
    let mut line = Line::new(format, time, "warn", "connection failed");
    line.address("src.addr", refused.source);
    line.address("dst.addr", refused.destination);
    line.text("direction", direction(refused.direction));
    let target = Target {
        direction: refused.direction,
        hbone: false,
    };
    if let Some(error) = reason::error(refused.reason, target, refused.detail.as_deref()) {
        line.text("error", &error);
    }
    line.finish()
}

/// Where a connection was heading.
pub fn target(connection: &Connection) -> Target {
    Target {
        direction: connection.direction,
        hbone: connection.hbone.is_some(),
    }
}

fn ends(line: &mut Line, connection: &Connection, labels: &Labels) {
    let identity = |identity: &Option<mesh::identity::Identity>| {
        let proven = identity
            .as_ref()
            .filter(|_| connection.security != Security::Plain);
        proven.map(ToString::to_string).unwrap_or_default()
    };
    let (source, destination) = (labels.source(), labels.destination());
    let source_name = connection
        .source_workload
        .as_ref()
        .map_or(&source.canonical, |workload| &workload.name);
    line.address("src.addr", connection.source);
    line.text("src.workload", source_name);
    line.text("src.namespace", &source.namespace);
    line.text("src.identity", &identity(&connection.source_identity));
    line.text("src.cluster", &source.cluster);
    let name = connection
        .destination_workload
        .as_ref()
        .map_or(&destination.canonical, |workload| &workload.name);
    line.address("dst.addr", connection.destination);
    if let Some(authority) = &connection.hbone {
        line.bare("dst.hbone_addr", authority);
    }
    line.text("dst.service", &labels.service().host);
    line.text("dst.workload", name);
    line.text("dst.namespace", &destination.namespace);
    line.text("dst.identity", &identity(&connection.destination_identity));
    line.text("dst.cluster", &destination.cluster);
    if connection.security == Security::SameNode {
        // Upstream has no such connections, and no field for what guards a connection.
        line.text("security", SAME_NODE);
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

impl Line {
    fn new(format: Format, time: SystemTime, level: &'static str, message: &'static str) -> Self {
        Self {
            format,
            time,
            level,
            message,
            fields: String::new(),
        }
    }

    /// An address as it would be dialled: never the IPv4-mapped form that a dual-stack socket shows.
    fn address(&mut self, key: &str, address: SocketAddr) {
        self.bare(
            key,
            SocketAddr::new(address.ip().to_canonical(), address.port()),
        );
    }

    fn bare(&mut self, key: &str, value: impl Display) {
        match self.format {
            Format::Plain => self.push(key, format_args!("{value}")),
            Format::Json => self.quoted(key, &value.to_string()),
        }
    }

    /// Quoted; left out when empty.
    fn text(&mut self, key: &str, value: &str) {
        match self.format {
            _ if value.is_empty() => {}
            // Debug quoting escapes what could forge a second line or field.
            Format::Plain => self.push(key, format_args!("{value:?}")),
            Format::Json => self.quoted(key, value),
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        match self.format {
            Format::Plain => self.push(key, format_args!("{value}")),
            Format::Json => self.member(key, format_args!("{value}")),
        }
    }

    fn push(&mut self, key: &str, value: std::fmt::Arguments<'_>) {
        let space = if self.fields.is_empty() { "" } else { " " };
        write!(self.fields, "{space}{key}={value}").expect("writing to a String does not fail");
    }

    fn quoted(&mut self, key: &str, text: &str) {
        self.member(key, format_args!("{}", json(text)));
    }

    fn member(&mut self, key: &str, value: std::fmt::Arguments<'_>) {
        write!(self.fields, ",\"{key}\":{value}").expect("writing to a String does not fail");
    }

    fn finish(self) -> String {
        let Self {
            level,
            message,
            fields,
            ..
        } = self;
        let time = timestamp::micros(self.time);
        match self.format {
            Format::Plain => format!("{time}\t{level}\taccess\t{message}\t{fields}\n"),
            Format::Json => {
                let (level, time, message) = (json(level), json(&time), json(message));
                format!(
                    "{{\"level\":{level},\"time\":{time},\"scope\":\"access\",\"message\":{message}{fields}}}\n"
                )
            }
        }
    }
}

/// A text as a JSON string.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
