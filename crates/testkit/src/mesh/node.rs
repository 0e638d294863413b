//! One node of a test mesh: its ztunnel, and what that says of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::LIMIT;
use crate::process::{self, Process};
use crate::zds::Agent;
use crate::{topology, wait};

/// One node with its ztunnel and node agent.
pub struct Node {
    /// Its ztunnel, while it runs.
    pub ztunnel: Option<Process>,
    /// Its node agent.
    pub agent: Agent,
    /// Its namespace.
    pub net: topology::Node,
    pub(super) environment: BTreeMap<String, String>,
}

impl Node {
    /// Its ztunnel.
    pub fn ztunnel(&mut self) -> &mut Process {
        self.ztunnel.as_mut().expect("the test has started it")
    }

    /// The settings of its ztunnel, for a test that starts another binary in its place.
    pub fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// The log of its ztunnel.
    pub fn log(&self) -> String {
        self.ztunnel.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Waits for a line of its ztunnel's log that contains all of `parts`, and returns it.
    pub fn log_line(&self, parts: &[&str]) -> Result<String> {
        wait::until(&format!("a log line with {parts:?}"), LIMIT, || {
            let log = self.log();
            let found = log
                .lines()
                .find(|line| parts.iter().all(|part| line.contains(part)));
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            found
                .map(str::to_owned)
                .with_context(|| format!("newest first:\n{}", tail.join("\n")))
        })
    }

    /// `/config_dump`.
    pub fn dump(&self) -> Result<Value> {
        let answer = process::get(&self.net.ns, local(15000), "/config_dump")?;
        serde_json::from_str(&answer.body).context("the dump is JSON")
    }

    /// `/metrics`, as sums by name and a label filter.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        self.metric_at(15020, name, labels)
    }

    /// As [`Node::metric`], of another ztunnel on the node that serves its metrics at `port`.
    pub fn metric_at(&self, port: u16, name: &str, labels: &[&str]) -> Result<f64> {
        let text = process::get(&self.net.ns, local(port), "/metrics")?.body;
        let lines = text.lines().filter(|line| {
            let metric = line.split(['{', ' ']).next().unwrap_or_default();
            metric == name && labels.iter().all(|label| line.contains(label))
        });
        Ok(lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }
}

/// An address on the loopback of whichever namespace asks.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
