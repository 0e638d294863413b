//! Lines about the waypoints: splits, routing, policy and retries at L7, and how fast an edit shows.
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::demo::client::{self, Answer, Request};
use crate::demo::line::seconds;
use crate::demo::manifests;
use crate::demo::mesh::Mesh;
use crate::demo::plan::{self, HTTP_PORT, vip};

/// Requests behind each count.
const REQUESTS: usize = 300;
/// Longest time until a change of manifests shows.
const EFFECT: Duration = Duration::from_secs(10);
const ROUTE: &str = "50-reviews-route.yaml";

/// Nine of ten requests go to v1.
pub fn split(_: &mut Mesh) -> Result<String> {
    let (v1, v2) = count(&[])?;
    let share = 100 * v2 / REQUESTS;
    // Six standard deviations of 300 draws at 10 % are 10.4 points.
    ensure!(
        (1..=20).contains(&share),
        "v2 got {v2} of {REQUESTS}, 10 % were asked for"
    );
    Ok(format!("{v1} to v1, {v2} to v2 of {REQUESTS} requests"))
}

/// The header decides.
pub fn header(_: &mut Mesh) -> Result<String> {
    let mut hits = 0;
    for _ in 0..20 {
        let answer = reviews("GET", &[("x-user", "tester")])?;
        ensure!(
            answer.body.starts_with("reviews-v2:"),
            "x-user: tester was answered by {}",
            answer.body.trim()
        );
        hits += 1;
    }
    Ok(format!("x-user: tester reached v2 {hits} of {hits} times"))
}

/// A refused method, and the policy that refused it.
pub fn deny(mesh: &mut Mesh) -> Result<String> {
    let answer = reviews("DELETE", &[])?;
    ensure!(
        answer.status == 403,
        "DELETE was answered {}",
        answer.status
    );
    let (line, _) =
        mesh.interrupt()
            .until("the waypoint's log line of the refusal", EFFECT, || {
                let log = mesh.log("reviews-waypoint");
                log.lines()
                    .rev()
                    .find(|l| l.contains("DELETE") && l.contains("no-delete"))
                    .map(str::to_owned)
            })?;
    let details = line
        .split_whitespace()
        .find(|w| w.contains("no-delete"))
        .context("the policy's name in the log line")?
        .to_owned();
    Ok(format!(
        "DELETE answered 403 {:?}; the waypoint says {details}",
        answer.body.trim()
    ))
}

/// One of two backends fails always; the caller never sees it.
pub fn retry(mesh: &mut Mesh) -> Result<String> {
    let client = plan::the("client").netns();
    let before = broken_answers(mesh);
    let asked = 60;
    for n in 0..asked {
        let request = Request {
            to: vip::RATINGS,
            port: HTTP_PORT,
            method: "GET",
            path: "/",
            host: "ratings",
            headers: &[],
        };
        let answer = client::http(&client, &request)?;
        ensure!(
            answer.status == 200,
            "request {n} was answered {}: {}",
            answer.status,
            answer.body.trim()
        );
    }
    let hidden = broken_answers(mesh) - before;
    ensure!(
        hidden > 0,
        "the failing backend was never asked: nothing was hidden"
    );
    Ok(format!(
        "{asked} of {asked} answered 200 while the failing backend answered 503 {hidden} times"
    ))
}

/// Sends everything to v2 by editing the manifest, and measures until it shows.
pub fn edit(mesh: &mut Mesh) -> Result<String> {
    let directory = mesh.manifests();
    let to_v1 = "{name: reviews-v1, port: 9080, weight: 90}";
    manifests::edit(
        &directory,
        ROUTE,
        to_v1,
        "{name: reviews-v1, port: 9080, weight: 0}",
    )?;
    let mut in_a_row = 0;
    let shown = mesh
        .interrupt()
        .until("every request reaches v2", EFFECT, || {
            let v2 = reviews("GET", &[]).is_ok_and(|a| a.body.starts_with("reviews-v2:"));
            in_a_row = if v2 { in_a_row + 1 } else { 0 };
            // Ten in a row by chance at one in ten: once in 10^10.
            (in_a_row == 10).then_some(())
        });
    manifests::edit(
        &directory,
        ROUTE,
        "{name: reviews-v1, port: 9080, weight: 0}",
        to_v1,
    )?;
    let ((), took) = shown?;
    Ok(format!(
        "weight 90 -> 0 in {ROUTE}: all traffic moved within {}",
        seconds(took)
    ))
}

fn count(headers: &[(&str, &str)]) -> Result<(usize, usize)> {
    let (mut v1, mut v2) = (0, 0);
    for n in 0..REQUESTS {
        let answer = reviews("GET", headers)?;
        ensure!(
            answer.status == 200,
            "request {n} was answered {}: {}",
            answer.status,
            answer.body.trim()
        );
        match answer.body.split(':').next() {
            Some("reviews-v1") => v1 += 1,
            Some("reviews-v2") => v2 += 1,
            _ => anyhow::bail!("an answer from nobody: {}", answer.body.trim()),
        }
    }
    Ok((v1, v2))
}

fn reviews(method: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let request = Request {
        to: vip::REVIEWS,
        port: HTTP_PORT,
        method,
        path: "/",
        host: "reviews",
        headers,
    };
    client::http(&plan::the("client").netns(), &request)
}

/// How often the failing backend has answered, as it says in its own log.
fn broken_answers(mesh: &Mesh) -> usize {
    mesh.log("ratings-flaky")
        .lines()
        .filter(|l| l.starts_with("503 "))
        .count()
}
