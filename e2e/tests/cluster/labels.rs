//! Row 4: pods go into the mesh and out of it by label while they serve, and no request fails.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::cases::Outcome;

use crate::{
    bed::{self, Bed, stdout, until},
    counts::Counts,
    echo,
};

const NAMESPACE: &str = "labels";
const LIMIT: Duration = Duration::from_secs(30);
/// Times that the namespace goes in and out.
const ROUNDS: usize = 5;

/// The case.
pub fn in_and_out() -> Result<Outcome> {
    if let Some(lacking) = bed::lacking() {
        return Ok(Outcome::NotRun(lacking));
    }
    let shared = bed::shared()?;
    let bed = shared.as_ref().context("started")?;
    bed.meshed()?;
    echo::start(bed, NAMESPACE)?;
    let url = format!("http://{}/", bed.service_address(NAMESPACE, "web")?);

    let mut callers = Vec::new();
    for (client, mode) in [
        ("client1", "keep"),
        ("client1", "new"),
        ("client2", "keep"),
        ("client2", "new"),
    ] {
        let command = ["/bin/pod", "call", mode, &url, "40"];
        callers.push((
            format!("{client} {mode}"),
            bed.begin_exec(&format!("{NAMESPACE}/{client}"), &command)?,
        ));
    }
    let (start, mut changes) = (Instant::now(), Vec::new());
    for _ in 0..ROUNDS {
        for (value, captured) in [
            ("istio.io/dataplane-mode=ambient", true),
            ("istio.io/dataplane-mode-", false),
        ] {
            bed.kubectl(&["label", "namespace", NAMESPACE, value])?;
            until(LIMIT, value, || capture_is(bed, captured))?;
            changes.push(format!("{:.1}", start.elapsed().as_secs_f64()));
        }
    }
    let mut told = Vec::new();
    for (who, caller) in callers {
        let counts = Counts::parse(&stdout(caller.wait_with_output()?)?)?;
        ensure!(counts.requests > 100, "{who} hardly called: {counts:?}");
        ensure!(
            counts.failed == 0,
            "{who}: {counts:?}, in and out done at {changes:?} s"
        );
        // Not even one that a client could have made up for.
        ensure!(counts.cuts.contains("cut={}"), "{who}: {counts:?}");
        told.push(format!(
            "{who}: {} requests, {}",
            counts.requests, counts.cuts
        ));
    }
    Ok(Outcome::Passed(format!(
        "{} changes of the label, 0 failed; {}",
        changes.len(),
        told.join("; ")
    )))
}

fn capture_is(bed: &Bed, wanted: bool) -> Result<()> {
    for (pod, captured) in bed.captured(NAMESPACE)? {
        ensure!(
            captured == wanted,
            "{pod} is {}captured",
            if captured { "" } else { "not " }
        );
    }
    Ok(())
}
