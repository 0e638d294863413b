//! Starts everything that writes to an API server: the election, and what the elected replica keeps up to date.
//! Called by `app` when the objects come from Kubernetes.

use kube::Client;
use runtime::Shutdown;

use crate::{
    conditions::{self, Published, Writer},
    deploy,
    lead::{self, Candidate, Leadership},
};

/// What the writing half is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The election.
    pub candidate: Candidate,
    /// The waypoints.
    pub deploy: deploy::Settings,
}

/// Stands for election, and writes whenever elected, until the drain. Others may watch the answer.
#[must_use]
pub fn start(
    client: &Client,
    settings: Settings,
    verdicts: Published,
    shutdown: &Shutdown,
) -> Leadership {
    let leadership = lead::campaign(client.clone(), settings.candidate.clone(), shutdown);
    let writer = Writer {
        instance: settings.candidate.me,
    };
    shutdown.spawn(conditions::write(
        client.clone(),
        writer,
        verdicts.clone(),
        leadership.clone(),
        shutdown.clone(),
    ));
    shutdown.spawn(deploy::run(
        client.clone(),
        settings.deploy,
        verdicts,
        leadership.clone(),
        shutdown.clone(),
    ));
    leadership
}
