//! Logs of the process, to stdout: plain (tab-separated like upstream) or JSON, with a filter that
//! `/logging?level=` changes while running. Set up once by each `main`.
use std::time::Duration;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::access;
use crate::settings::Settings;

mod format;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `time⇥level⇥target⇥message⇥key=value …`
    Plain,
    /// One JSON object a line: level, time, scope, message, then the fields.
    Json,
}

/// Why logs could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter text cannot be read.
    #[error(
        "log filter {text:?}: {why}; allowed is a level (off, error, warn, info, debug, trace) or target=level, comma separated"
    )]
    Filter {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The writing thread could not be started.
    #[error("cannot start the log thread")]
    Thread(#[from] std::io::Error),
    /// Logs were set up before in this process.
    #[error("logs are already set up")]
    Twice,
}

/// The handle on the running logs. Clones share it; keep one until the end of `main` and call
/// [`Logs::flush`] there.
#[derive(Clone, Debug)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    initial: String,
    lines: access::Writer,
}

/// Reads the setting `RUST_LOG`: a filter that [`init`] will take.
pub fn filter(settings: &mut Settings<'_>, default: &str, meaning: &str) -> String {
    settings.parsed("RUST_LOG", default.to_owned(), FILTER, meaning, |text| {
        parse_filter(text).is_ok().then(|| text.to_owned())
    })
}

const FILTER: &str =
    "a level (`off`, `error`, `warn`, `info`, `debug`, `trace`) or `target=level`, comma separated";

/// Starts logging for the process.
///
/// # Errors
/// See [`LogError`].
pub fn init(format: Format, filter: &str) -> Result<Logs, LogError> {
    let lines = access::Writer::start(std::io::stdout())?;
    let (layer, handle) = reload::Layer::new(parse_filter(filter)?);
    let out = tracing_subscriber::fmt::layer()
        .event_format(format)
        .with_ansi(false)
        .with_writer(Lines(lines.clone()));
    let subscriber = tracing_subscriber::registry().with(layer).with(out);
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(Logs {
        filter: handle,
        initial: filter.to_owned(),
        lines,
    })
}

impl Logs {
    /// Changes what is logged: a level, or `target=level` parts.
    ///
    /// # Errors
    /// [`LogError::Filter`]; the old filter stays.
    pub fn reload(&self, filter: &str) -> Result<(), LogError> {
        let parsed = parse_filter(filter)?;
        // Fails only when the subscriber is gone, that is, at the end of the process.
        let _ = self.filter.reload(parsed);
        Ok(())
    }

    /// Back to the filter of the start.
    ///
    /// # Errors
    /// Never after a successful [`init`]; the type is that of [`Logs::reload`].
    pub fn reset(&self) -> Result<(), LogError> {
        self.reload(&self.initial)
    }

    /// The filter now.
    #[must_use]
    pub fn current(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }

    /// The queue behind the logs, for lines that are not events (the access log).
    #[must_use]
    pub fn lines(&self) -> access::Writer {
        self.lines.clone()
    }

    /// Waits until everything logged so far is written, at most a second.
    pub fn flush(&self) {
        self.lines.flush(Duration::from_secs(1));
    }
}

fn parse_filter(text: &str) -> Result<EnvFilter, LogError> {
    let fault = |why: String| LogError::Filter {
        text: text.to_owned(),
        why,
    };
    let is_word = |part: &str| !part.contains('=') && !part.contains('[');
    // EnvFilter takes an unknown word for a target; for us it is a misspelt level.
    for part in text.split(',').filter(|part| is_word(part)) {
        let part = part.trim();
        part.parse::<tracing_subscriber::filter::LevelFilter>()
            .map_err(|_| fault(format!("{part:?} is not a level")))?;
    }
    EnvFilter::builder()
        .parse(text)
        .map_err(|e| fault(e.to_string()))
}

/// Hands each formatted event to the queue as one line.
#[derive(Clone)]
struct Lines(access::Writer);

impl std::io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.write(line);
        Ok(line.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests;
