//! The real waypoint on the resources that a real istiod sent one, unchanged, beside what Envoy 1.40 answered to the same
//! requests on the same resources (recorded; Envoy itself is not run here). Prints the table (`-- --nocapture`), asserts
//! every row, every known difference and every refusal. Needs root and the release binaries (`make test` builds them).

#[path = "captured_waypoint/backend.rs"]
mod backend;
#[path = "captured_waypoint/capture.rs"]
mod capture;
#[path = "captured_waypoint/client.rs"]
mod client;
#[path = "captured_waypoint/table.rs"]
mod table;
#[path = "captured_waypoint/world.rs"]
mod world;

use anyhow::{Result, ensure};
use capture::{PARTS, Part};
use table::Row;
use testkit::ads::Nack;
use testkit::mesh::LIMIT;
use testkit::wait;
use tokio::task::LocalSet;
use world::World;

const BASE: &str = "istio-master-20260827";
const RICH: &str = "istio-master-20260827-rich";
const TYPES: &str = "type.googleapis.com/envoy.";

/// Requests of which the shares are counted, and how far (5 standard deviations) a share may be off.
const COUNTED: usize = 400;
const OFF: f64 = 0.12;

#[test]
fn the_base_set_is_served_and_outlives_a_lost_control_plane_and_a_refused_listener() -> Result<()> {
    testkit::root_or_skip!();
    let mut world = World::start()?;
    world.push(&capture::as_sent(BASE)?)?;
    assert_eq!(world.ads.nacks(), []);
    let rows = [
        table::at_base(table::ROUTES),
        table::at_base(table::HEADERS),
        table::DESTINATIONS.to_vec(),
        table::TCP_BASE.to_vec(),
    ]
    .concat();
    compare(&world, "base set", &rows)?;

    world.lose_control_plane()?;
    compare(&world, "base set, without a control plane", &rows)?;
    world.find_control_plane()?;
    compare(&world, "base set, after the control plane came back", &rows)?;
    assert_eq!(world.ads.nacks(), []);

    world.push(&capture::as_sent(RICH)?)?;
    assert_eq!(texts(&world.ads.nacks()), [CLUSTERS, INSPECTOR]);
    // The rich set's endpoints are in force, its inbound listener is not: the last good one serves on.
    compare(&world, "base set, after the rich set was refused", &rows)
}

#[test]
fn the_rich_set_without_what_is_not_supported_is_served() -> Result<()> {
    testkit::root_or_skip!();
    let mut world = World::start()?;
    world.push(&capture::reduced(capture::as_sent(RICH)?, None)?)?;
    assert_eq!(texts(&world.ads.nacks()), [DNS]);
    let rows = [
        table::ROUTES,
        table::HEADERS,
        table::DESTINATIONS,
        table::TCP,
        table::RICH,
    ]
    .concat();
    let mirrored = shares(&world)?;
    compare(&world, "rich set", &rows)?;
    for (name, why) in table::NOT_REACHED {
        println!("not reached  {name}: {why}");
    }
    // By now, copies that were too many have come as well.
    let share = mirrored(&world);
    assert!(near(share, 0.25), "{share} of {COUNTED} mirrored");
    println!("same         httpbin: {share} of {COUNTED} mirrored to echo (25 %)");
    Ok(())
}

#[test]
fn each_part_of_the_rich_set_that_is_not_supported_is_named() -> Result<()> {
    testkit::root_or_skip!();
    let mut world = World::start()?;
    world.push(&capture::reduced(capture::as_sent(RICH)?, None)?)?;
    for part in PARTS {
        let before = world.ads.nacks().len();
        world.push(&capture::reduced(capture::as_sent(RICH)?, Some(part))?)?;
        let nacks = world.ads.nacks().split_off(before);
        println!("{part:?}: {}", texts(&nacks).join(" and "));
        assert_eq!(texts(&nacks), refusal(part), "{part:?}");
    }
    compare(
        &world,
        "rich set, after all of them were refused",
        table::ROUTES,
    )
}

/// How the clusters of the rich set that resolve names are refused, in every push of it.
const DNS: &str = "inbound-vip|443|tcp|ext2.example.com: config.cluster.v3.Cluster at type: discovery type STRICT_DNS is \
    not supported; inbound-vip|80|http|ext2.example.com: config.cluster.v3.Cluster at \
    transport_socket.typed_config.transport_socket.typed_config: transport socket type \
    'extensions.transport_sockets.tls.v3.UpstreamTlsContext' is not supported";
/// The same push with the ring hash clusters in it.
const CLUSTERS: &str = "inbound-vip|443|tcp|ext2.example.com: config.cluster.v3.Cluster at type: discovery type STRICT_DNS \
    is not supported; inbound-vip|80|http/v1|httpbin.app.svc.cluster.local: config.cluster.v3.Cluster at \
    ring_hash_lb_config: not supported; inbound-vip|80|http|ext2.example.com: config.cluster.v3.Cluster at \
    transport_socket.typed_config.transport_socket.typed_config: transport socket type \
    'extensions.transport_sockets.tls.v3.UpstreamTlsContext' is not supported; \
    inbound-vip|80|http|httpbin.app.svc.cluster.local: config.cluster.v3.Cluster at ring_hash_lb_config: not supported";
/// The first thing that is refused of the rich set's listener.
const INSPECTOR: &str = "main_internal: config.listener.v3.Listener at listener_filters[2].typed_config: filter type \
    'extensions.filters.listener.tls_inspector.v3.TlsInspector' is not supported";

/// What is refused when `part` is left in.
fn refusal(part: Part) -> Vec<&'static str> {
    match part {
        Part::RingHash => vec![CLUSTERS],
        Part::TlsInspector => vec![DNS, INSPECTOR],
        Part::Statistics => vec![
            DNS,
            "main_internal: config.listener.v3.Listener at filter_chains[\"inbound-vip|80|http|echo.app.svc.cluster.local\"]\
             .filters[0].typed_config.http_filters[6].typed_config.metrics: not supported",
        ],
        Part::TokenFilter => vec![
            DNS,
            "main_internal: config.listener.v3.Listener at filter_chains[\"inbound-vip|80|http|httpbin.app.svc.cluster.local\"]\
             .filters[0].typed_config.http_filters[0].typed_config: filter type \
             'extensions.filters.http.jwt_authn.v3.JwtAuthentication' is not supported",
        ],
        Part::TokenPolicy => vec![
            DNS,
            "main_internal: config.listener.v3.Listener at filter_chains[\"inbound-vip|80|http|httpbin.app.svc.cluster.local\"]\
             .filters[0].typed_config.http_filters[0].typed_config.rules.policies[\"ns[app]-policy[jwt]-rule[0]\"]\
             .principals[0].and_ids.ids[1].and_ids.ids[0].metadata: not supported",
        ],
        Part::HashPolicy => vec![
            DNS,
            "main_internal: config.listener.v3.Listener at filter_chains[\"inbound-vip|80|http|httpbin.app.svc.cluster.local\"]\
             .filters[0].typed_config.route_config.virtual_hosts[0].routes[0].route.hash_policy: not supported",
        ],
    }
}

/// The words of refusals, without the prefix that each type URL has in common.
fn texts(nacks: &[Nack]) -> Vec<String> {
    let short = |nack: &Nack| nack.message.replace(TYPES, "");
    nacks.iter().map(short).collect()
}

/// Asks all rows, prints the table, and fails with all rows that came out otherwise than the table says.
fn compare(world: &World, title: &str, rows: &[Row]) -> Result<()> {
    let client = world.client()?;
    let (mut wrong, mut different) = (Vec::new(), 0);
    for row in rows {
        let answer = on_this_thread(client.send(&row.ask))?;
        let seen = row.seen(&answer);
        let verdict = if seen == row.envoy {
            "same"
        } else {
            "different"
        };
        println!(
            "{verdict:9}    {:48} Envoy: {:44} ours: {seen}",
            row.name, row.envoy
        );
        if let Some((_, why)) = row.ours {
            different += 1;
            println!("                because {why}");
        }
        if seen != row.want() {
            wrong.push(format!("{}: want {}, got {seen}", row.name, row.want()));
        }
    }
    println!(
        "{title}: {} rows, {different} known differences",
        rows.len()
    );
    let log = if wrong.is_empty() {
        String::new()
    } else {
        world.log()
    };
    ensure!(wrong.is_empty(), "{}\n{log}", wrong.join("\n"));
    Ok(())
}

/// The split of httpbin, by counting, and that its mirrors come; returns how they are counted.
fn shares(world: &World) -> Result<impl Fn(&World) -> usize> {
    let client = world.client()?;
    let answers = on_this_thread(client.answers(&table::COUNTED, COUNTED))?;
    let protocols = answers.iter().map(|answer| &answer.up["proto"]);
    let two = protocols.filter(|one| *one == "HTTP/2.0").count();
    assert!(near(two, 0.7), "{two} of {COUNTED} went to v1");
    println!(
        "same         httpbin: {two} of {COUNTED} to v1 over HTTP/2 (70 %), the others to echo"
    );
    let mirrored = |world: &World| world.backend.count(table::COUNTED.path) - COUNTED;
    wait::until_true("mirrors", LIMIT, || near(mirrored(world), 0.25))?;
    Ok(mirrored)
}

fn near(count: usize, share: f64) -> bool {
    (count as f64 / COUNTED as f64 - share).abs() < OFF
}

fn on_this_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, work)
}
