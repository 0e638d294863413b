//! The two line formats. Called by tracing's fmt layer for each event.
use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use super::Format;

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let mut scope = event.metadata().target().to_owned();
        for span in context
            .event_scope()
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            write!(scope, ":{}", span.name())?;
        }
        let mut fields = Fields {
            json: *self == Self::Json,
            ..Fields::default()
        };
        event.record(&mut fields);
        let Fields { message, rest, .. } = fields;
        match self {
            Self::Plain => {
                let message = OneLine(&message);
                write!(writer, "{time}\t{level}\t{scope}\t{message}")?;
                if !rest.is_empty() {
                    write!(writer, "\t{}", rest.join(" "))?;
                }
                writeln!(writer)
            }
            Self::Json => {
                let (scope, message) = (quoted(&scope), quoted(&message));
                write!(
                    writer,
                    r#"{{"level":"{level}","time":"{time}","scope":{scope}"#
                )?;
                write!(writer, r#","message":{message}"#)?;
                rest.iter()
                    .try_for_each(|field| write!(writer, ",{field}"))?;
                writeln!(writer, "}}")
            }
        }
    }
}

#[derive(Default)]
struct Fields {
    json: bool,
    message: String,
    rest: Vec<String>,
}

impl Fields {
    fn add(&mut self, field: &Field, plain: &str, json: &str) {
        match (field.name(), self.json) {
            ("message", _) => plain.clone_into(&mut self.message),
            (name, true) => self.rest.push(format!("{}:{json}", quoted(name))),
            (name, false) => self.rest.push(format!("{name}={}", OneLine(plain))),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return self.add(field, value, "");
        }
        self.add(field, &format!("{value:?}"), &quoted(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.to_string(), &value.to_string());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.to_string(), &value.to_string());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, &value.to_string(), &value.to_string());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.add(field, &format!("{text:?}"), &quoted(&text));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field, &text, &quoted(&text));
    }
}

/// Text without line breaks and tabs, so that nothing from a peer can forge a line or a column.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?
            } else {
                f.write_char(c)?
            }
        }
        Ok(())
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
