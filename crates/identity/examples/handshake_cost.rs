//! What a full mutual handshake costs on both sides together, in memory and on one thread: the first one with a peer, and
//! the next ones. `cargo run --release -p causeway-identity --example handshake_cost`.
#![allow(clippy::print_stdout, reason = "its result")]

use std::time::{Duration, Instant, SystemTime};

use causeway_identity::issue::Issuer;
use causeway_identity::tls::{self, KeyExchange};
use causeway_identity::{Certificate, Identity, Key};
use rustls::{ClientConnection, ServerConnection};

const HOUR: Duration = Duration::from_secs(3600);
const PEERS: usize = 300;

fn certificate(issuer: &Issuer, account: &str) -> Certificate {
    let identity = Identity::new("td", "ns", account).expect("an identity");
    let key = Key::generate().expect("a key");
    let chain = issuer
        .sign_key(&key, &identity, SystemTime::now() - HOUR, 2 * HOUR)
        .expect("a chain");
    Certificate::from_chain(key, &chain, KeyExchange::Standard).expect("a certificate")
}

fn handshake(client: &Certificate, server: &Certificate) {
    let mut client =
        ClientConnection::new(client.client_config(), tls::server_name()).expect("a client");
    let mut server = ServerConnection::new(server.server_config()).expect("a server");
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets().expect("a good client");
        wire.clear();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut wire.as_slice()).expect("memory");
        client.process_new_packets().expect("a good server");
    }
}

fn main() {
    let root = Issuer::new_root("td", SystemTime::now() - HOUR, 100 * HOUR).expect("a root");
    let middle = root
        .new_intermediate("mid", SystemTime::now() - HOUR, 50 * HOUR)
        .expect("an intermediate");
    for (name, issuer) in [("root alone", &root), ("one intermediate", &middle)] {
        let own = certificate(issuer, "own");
        let peers: Vec<_> = (0..PEERS)
            .map(|i| certificate(issuer, &format!("peer-{i}")))
            .collect();
        handshake(&own, &own);
        for round in ["first", "next"] {
            let mut times: Vec<_> = peers
                .iter()
                .map(|peer| {
                    let start = Instant::now();
                    handshake(&own, peer);
                    start.elapsed()
                })
                .collect();
            times.sort_unstable();
            println!(
                "{name}: {round} handshake with each of {PEERS} peers, median {:?}",
                times[PEERS / 2]
            );
        }
    }
}
