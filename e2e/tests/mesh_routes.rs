//! What the Gateway API's conformance suite asks of a mesh's routes, and what stands beside it, from manifests to answers: our
//! control plane's translation, compiled by our waypoint, first as a decision alone, then (needs root and the binaries that
//! `make test` builds) by the real waypoint with applications behind it. docs/conformance.md says which case is whose.

#[path = "captured_waypoint/backend.rs"]
#[allow(
    dead_code,
    reason = "shared with captured_waypoint, which needs more of it"
)]
mod backend;
#[path = "captured_waypoint/client.rs"]
#[allow(
    dead_code,
    reason = "shared with captured_waypoint, which needs more of it"
)]
mod client;
#[path = "mesh_routes/decide.rs"]
mod decide;
#[path = "mesh_routes/outcome.rs"]
mod outcome;
#[path = "mesh_routes/table.rs"]
mod table;
#[path = "captured_waypoint/world.rs"]
#[allow(
    dead_code,
    reason = "shared with captured_waypoint, which needs more of it"
)]
mod world;

/// What `world.rs` pushes.
mod capture {
    /// One resource.
    pub struct Resource {
        pub type_url: String,
        pub name: String,
        pub body: Vec<u8>,
    }
}

use anyhow::{Result, ensure};
use client::Client;
use outcome::Outcome;
use table::{CASES, Call, Case};
use testkit::mesh::LIMIT;
use testkit::wait;
use tokio::task::LocalSet;
use world::World;

/// Requests of which the shares are counted, and how far (5 standard deviations) a share may be off.
const COUNTED: usize = 400;
const OFF: f64 = 0.12;

#[test]
fn the_translation_decides_as_the_suite_wants() -> Result<()> {
    let mut wrong = Vec::new();
    for case in CASES {
        let state = decide::state(case.routes)?;
        for call in case.calls {
            let outcome = decide::decide(state.snapshot(), call)?;
            let told = outcome.told(call.want);
            if told != call.want {
                wrong.push(format!("{} {call:?}: {told}", case.name));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_waypoint_answers_as_the_suite_wants() -> Result<()> {
    testkit::root_or_skip!();
    let mut world = World::start()?;
    let mut wrong = Vec::new();
    for case in CASES {
        world.push(&decide::resources(case.routes)?)?;
        ensure!(world.ads.nacks().is_empty(), "{:?}", world.ads.nacks());
        let client = world.client()?;
        for call in case.calls {
            let told = asked(&client, call)?;
            let good = told == call.want;
            let verdict = if good { "same" } else { "WRONG" };
            println!("{verdict:6} {:44} {:30} {told}", case.name, call.path);
            if !good {
                wrong.push(format!("{} {call:?}: {told}", case.name));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), world.log());
    Ok(())
}

#[test]
fn copies_go_to_every_mirror() -> Result<()> {
    testkit::root_or_skip!();
    let mut world = World::start()?;
    let Case { routes, calls, .. } = table::MIRRORS;
    world.push(&decide::resources(routes)?)?;
    let client = world.client()?;
    let path = calls[0].path;
    for _ in 0..COUNTED {
        assert_eq!(asked(&client, &calls[0])?, calls[0].want);
    }
    // Each request, all of its copies at one mirror, and a quarter of them at another.
    let share = |count: usize| count as f64 / COUNTED as f64 - 2.0;
    let copied = || (share(world.backend.count(path)) - 0.25).abs() < OFF;
    wait::until_true("mirrors", LIMIT, copied)?;
    Ok(())
}

#[test]
fn what_is_silent_is_given_up_in_time() -> Result<()> {
    testkit::root_or_skip!();
    let mut world = World::start()?;
    let Case { routes, calls, .. } = table::TIMEOUTS;
    world.push(&decide::resources(routes)?)?;
    let client = world.client()?;
    for call in calls {
        assert_eq!(asked(&client, call)?, call.want, "{call:?}");
    }
    Ok(())
}

/// Sends a call; where it wants shares, so many calls that they can be told.
fn asked(client: &Client<'_>, call: &Call) -> Result<String> {
    let shares = outcome::shares(call.want);
    if shares.is_empty() {
        let answer = on_this_thread(client.send(&call.ask()))?;
        return Ok(Outcome::of(&answer, call.want).told(call.want));
    }
    let answers = on_this_thread(client.answers(&call.ask(), COUNTED))?;
    let near = |(to, share): &(&str, f64)| {
        let hits = answers
            .iter()
            .filter(|answer| Outcome::of(answer, "").to == *to);
        (hits.count() as f64 / COUNTED as f64 - share).abs() < OFF
    };
    if shares.iter().all(near) {
        return Ok(call.want.to_owned());
    }
    let seen = answers.iter().map(|answer| Outcome::of(answer, "").to);
    Ok(format!("{:?}", seen.collect::<Vec<_>>()))
}

fn on_this_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, work)
}
