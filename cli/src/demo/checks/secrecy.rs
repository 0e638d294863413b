//! Lines about identity and secrecy: whose certificates a node holds, and what the wire shows.
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::demo::client::{self, Request};
use crate::demo::mesh::Mesh;
use crate::demo::plan::{self, NODES, Node};
use crate::demo::wire::Tap;

/// Port of ztunnel's admin pages, on the node's loopback.
const ADMIN_PORT: u16 = 15000;

/// Reads from both nodes which identities they hold certificates for.
pub fn identities(_: &mut Mesh) -> Result<String> {
    let mut found = Vec::new();
    for node in &NODES {
        let dump = config_dump(node)?;
        let certificates = dump["certificates"]
            .as_array()
            .context("config_dump has no certificates")?;
        for entry in certificates {
            let identity = entry["identity"]
                .as_str()
                .context("a certificate without identity")?;
            let leaf = &entry["certChain"][0];
            ensure!(
                leaf["validTo"].is_string() || leaf["expirationTime"].is_string(),
                "{identity} on {} has no certificate yet: {}",
                node.name,
                entry["state"]
            );
            let until = leaf["expirationTime"]
                .as_str()
                .or(leaf["validTo"].as_str())
                .unwrap_or("?");
            found.push(format!(
                "{} ({}, until {until})",
                identity.trim_start_matches("spiffe://"),
                node.name
            ));
        }
    }
    for account in ["client", "reviews", "ratings", "echo"] {
        let wanted = format!("cluster.local/ns/demo/sa/{account} ");
        ensure!(
            found.iter().any(|f| f.starts_with(&wanted)),
            "no certificate for {account}: {}",
            found.join("; ")
        );
    }
    ensure!(
        !found.iter().any(|f| f.contains("/sa/default ")),
        "a pod outside the mesh got a certificate"
    );
    Ok(format!(
        "{} certificates, one per account and node: {}",
        found.len(),
        found.join("; ")
    ))
}

/// Sends a secret from node to node with the mesh and without, and looks at every packet.
pub fn wire(_: &mut Mesh) -> Result<String> {
    let secret = format!("secret-{}-{}", std::process::id(), "c0ffee");
    let (client, outsider) = (plan::the("client").netns(), plan::the("outsider").netns());
    let echo = plan::the("echo").address;

    let tap = Tap::start(&NODES[0], secret.as_bytes())?;
    let back = client::echo(&client, plan::vip::ECHO, plan::ECHO_PORT, secret.as_bytes());
    let meshed = tap.finish()?;
    ensure!(
        back? == secret.as_bytes(),
        "the echo sent back something else"
    );
    ensure!(meshed.frames > 0, "nothing crossed the wire");
    ensure!(
        meshed.readable == 0,
        "the secret was readable in {} packets between meshed pods",
        meshed.readable
    );

    let tap = Tap::start(&NODES[0], secret.as_bytes())?;
    let target = plan::the("reviews-v1").address;
    let answer = get(&outsider, target, &format!("/{secret}"))?;
    let plain = tap.finish()?;
    ensure!(
        answer.contains(&secret),
        "the plain request was not answered: {answer}"
    );
    if plain.readable == 0 {
        bail!("the tap did not find the secret without the mesh either: it proves nothing");
    }
    Ok(format!(
        "client -> echo ({echo}): 0 of {} packets show it; outsider -> reviews-v1 without the mesh: {} of {} do",
        meshed.frames, plain.readable, plain.frames
    ))
}

fn get(from: &str, to: Ipv4Addr, path: &str) -> Result<String> {
    let request = Request {
        to,
        port: plan::HTTP_PORT,
        method: "GET",
        path,
        host: "demo",
        headers: &[],
    };
    Ok(client::http(from, &request)?.body)
}

fn config_dump(node: &Node) -> Result<Value> {
    let request = Request {
        to: Ipv4Addr::LOCALHOST,
        port: ADMIN_PORT,
        method: "GET",
        path: "/config_dump",
        host: "localhost",
        headers: &[],
    };
    let answer = client::http(&node.netns(), &request)?;
    serde_json::from_str(&answer.body).with_context(|| format!("config_dump of {}", node.name))
}
