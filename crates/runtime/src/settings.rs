//! Settings from the environment: read once, every fault reported together, and each setting leaves
//! the row from which docs/configuration.md is generated. Called by each binary's `config`.
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

mod duration;

pub use duration::{format_duration, parse_duration};

/// One setting as the documentation shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of the environment variable.
    pub name: String,
    /// Default as one would write it; empty = none.
    pub default: String,
    /// What may be written.
    pub allowed: String,
    /// What it does.
    pub meaning: String,
}

/// One wrong setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Name of the environment variable.
    pub name: String,
    /// What stands there; `None` when it is missing.
    pub value: Option<String>,
    /// What would be right.
    pub allowed: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?}: allowed is {}", self.name, self.allowed),
            None => write!(f, "{} is not set: allowed is {}", self.name, self.allowed),
        }
    }
}

/// All wrong settings of a start.
#[derive(Debug, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.0.len() == 1 {
            "setting is"
        } else {
            "settings are"
        };
        write!(f, "{} {many} wrong:", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

enum Source<'a> {
    Lookup(&'a dyn Fn(&str) -> Option<String>),
    Map(BTreeMap<String, String>),
}

/// The reader. A wrong value reads as the default and leaves a fault, so that reading goes on.
pub struct Settings<'a> {
    source: Source<'a>,
    rows: Vec<Setting>,
    faults: Vec<Fault>,
}

impl<'a> Settings<'a> {
    /// Reads through a function; `None` = not set. An empty value counts as set.
    #[must_use]
    pub fn from_env(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            source: Source::Lookup(lookup),
            rows: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Reads from given pairs; the only source for which [`Settings::prefixed`] finds anything.
    #[must_use]
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Settings<'static> {
        let source = Source::Map(pairs.into_iter().collect());
        Settings {
            source,
            rows: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Reads the environment of the process. Values that are not UTF-8 read as if the bad bytes
    /// were U+FFFD, and so fail where they matter.
    #[must_use]
    pub fn from_process() -> Settings<'static> {
        let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        Settings::from_pairs(std::env::vars_os().map(|(k, v)| (text(k), text(v))))
    }

    /// A text that may be anything.
    pub fn string(&mut self, name: &str, default: &str, meaning: &str) -> String {
        self.row(name, default, "any text", meaning)
            .unwrap_or_else(|| default.to_owned())
    }

    /// A text that may be missing.
    pub fn optional(&mut self, name: &str, meaning: &str) -> Option<String> {
        self.row(name, "", "any text", meaning)
    }

    /// A text that must be there and not empty; reads as "" with a fault otherwise.
    pub fn required(&mut self, name: &str, meaning: &str) -> String {
        let value = self.row(name, "", "any text (must be set)", meaning);
        if value.as_ref().is_none_or(String::is_empty) {
            self.fault(name, value.clone(), "any text, not empty");
        }
        value.unwrap_or_default()
    }

    /// `true` or `false`, nothing else.
    pub fn boolean(&mut self, name: &str, default: bool, meaning: &str) -> bool {
        self.parsed(name, default, "`true` or `false`", meaning, |text| {
            text.parse().ok()
        })
    }

    /// `true`, `false`, or not set.
    pub fn optional_boolean(&mut self, name: &str, meaning: &str) -> Option<bool> {
        self.optional_parsed(name, "`true` or `false`", meaning, |text| text.parse().ok())
    }

    /// A whole number of type `T`.
    pub fn number<T: FromStr + fmt::Display>(
        &mut self,
        name: &str,
        default: T,
        meaning: &str,
    ) -> T {
        self.parsed(name, default, number_range::<T>(), meaning, |text| {
            text.parse().ok()
        })
    }

    /// A time such as `5m`, `30s`, `1h30m`, `100ms`.
    pub fn duration(&mut self, name: &str, default: Duration, meaning: &str) -> Duration {
        let shown = format_duration(default);
        let found = self.row(name, &shown, DURATION, meaning);
        self.checked(name, found, DURATION, parse_duration)
            .unwrap_or(default)
    }

    /// A time that may be missing.
    pub fn optional_duration(&mut self, name: &str, meaning: &str) -> Option<Duration> {
        self.optional_parsed(name, DURATION, meaning, parse_duration)
    }

    /// A path (not checked for existence).
    pub fn path(&mut self, name: &str, default: &str, meaning: &str) -> PathBuf {
        let found = self.row(name, default, "a path", meaning);
        self.checked(name, found, "a path, not empty", |text| {
            (!text.is_empty()).then(|| PathBuf::from(text))
        })
        .unwrap_or_else(|| default.into())
    }

    /// A path that may be missing; empty counts as missing.
    pub fn optional_path(&mut self, name: &str, meaning: &str) -> Option<PathBuf> {
        self.row(name, "", "a path", meaning)
            .filter(|text| !text.is_empty())
            .map(PathBuf::from)
    }

    /// An address with port, such as `0.0.0.0:15020` or `[::]:15020`.
    pub fn address(&mut self, name: &str, default: SocketAddr, meaning: &str) -> SocketAddr {
        self.parsed(name, default, "an address with port", meaning, |text| {
            text.parse().ok()
        })
    }

    /// One of a few words.
    pub fn choice<T: Copy>(
        &mut self,
        name: &str,
        default: &str,
        words: &[(&str, T)],
        meaning: &str,
    ) -> T {
        let names: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let allowed = names.join(", ");
        let of = |text: &str| {
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, v)| *v)
        };
        let found = self.row(name, default, &allowed, meaning);
        let chosen = self
            .checked(name, found, &allowed, of)
            .or_else(|| of(default));
        chosen.expect("the default is one of the words")
    }

    /// Anything else: `parse` gives `None` for a wrong value.
    pub fn parsed<T: fmt::Display>(
        &mut self,
        name: &str,
        default: T,
        allowed: &str,
        meaning: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        let found = self.row(name, &default.to_string(), allowed, meaning);
        self.checked(name, found, allowed, parse).unwrap_or(default)
    }

    /// Anything else that may be missing.
    pub fn optional_parsed<T>(
        &mut self,
        name: &str,
        allowed: &str,
        meaning: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let found = self.row(name, "", allowed, meaning);
        self.checked(name, found, allowed, parse)
    }

    /// Every setting whose name starts with `prefix`: the rest of the name and the value, sorted.
    pub fn prefixed(&mut self, prefix: &str, meaning: &str) -> Vec<(String, String)> {
        self.note(&format!("{prefix}*"), "", "any text", meaning);
        let Source::Map(map) = &self.source else {
            return Vec::new();
        };
        let matching = map.iter().filter_map(|(name, value)| {
            let rest = name.strip_prefix(prefix)?;
            (!rest.is_empty()).then(|| (rest.to_owned(), value.clone()))
        });
        matching.collect()
    }

    /// Reports a fault that shows only across settings.
    pub fn fault(&mut self, name: &str, value: Option<String>, allowed: &str) {
        self.faults.push(Fault {
            name: name.into(),
            value,
            allowed: allowed.into(),
        });
    }

    /// The rows so far, in reading order.
    #[must_use]
    pub fn rows(&self) -> &[Setting] {
        &self.rows
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// All faults together.
    pub fn finish(self) -> Result<Vec<Setting>, Faults> {
        if self.faults.is_empty() {
            Ok(self.rows)
        } else {
            Err(Faults(self.faults))
        }
    }

    fn row(&mut self, name: &str, default: &str, allowed: &str, meaning: &str) -> Option<String> {
        self.note(name, default, allowed, meaning);
        match &self.source {
            Source::Lookup(lookup) => lookup(name),
            Source::Map(map) => map.get(name).cloned(),
        }
    }

    fn note(&mut self, name: &str, default: &str, allowed: &str, meaning: &str) {
        self.rows.push(Setting {
            name: name.into(),
            default: default.into(),
            allowed: allowed.into(),
            meaning: meaning.into(),
        });
    }

    fn checked<T>(
        &mut self,
        name: &str,
        found: Option<String>,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = found?;
        let value = parse(&text);
        if value.is_none() {
            self.fault(name, Some(text), allowed);
        }
        value
    }
}

const DURATION: &str = "a time such as `30s`, `5m`, `1h30m` or `100ms`";

fn number_range<T>() -> &'static str {
    match std::any::type_name::<T>() {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number from 0",
        _ => "a number",
    }
}

/// The rows as a Markdown table. A setting that two parts read in the same way stands there once.
#[must_use]
pub fn table(rows: &[Setting]) -> String {
    let mut out = String::from("| name | default | allowed | meaning |\n|---|---|---|---|\n");
    for (at, row) in rows.iter().enumerate() {
        if rows[..at].contains(row) {
            continue;
        }
        let code = |text: &str| {
            if text.is_empty() {
                "–".into()
            } else {
                format!("`{text}`")
            }
        };
        let cell = |text: &str| text.replace('|', "\\|");
        let (name, default) = (code(&cell(&row.name)), code(&cell(&row.default)));
        let (allowed, meaning) = (cell(&row.allowed), cell(&row.meaning));
        out.push_str(&format!("| {name} | {default} | {allowed} | {meaning} |\n"));
    }
    out
}

#[cfg(test)]
mod tests;
