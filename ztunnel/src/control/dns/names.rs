//! Resolves the host names of workloads that have no addresses (ServiceEntries with DNS resolution), when traffic waits
//! for one: from our own namespace, once for all who wait. Workers ask through `app`, which starts it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::rr::{Name, RecordType};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::forward::{Transport, Upstream};
use super::wire;
use crate::route;
use crate::route::Names;

/// Names that may wait to be looked at; who finds no room asks again with its next connection.
const QUEUE: usize = 1024;
/// Names that are resolved at once.
const AT_ONCE: usize = 64;
/// How long an answer counts, whatever its records say.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);
/// A name that cannot be resolved now keeps the addresses that it had not longer ago.
const STALE: Duration = Duration::from_secs(60);

/// Where workers' wishes go. Clones are the same place.
#[derive(Clone, Debug)]
pub struct Asks(mpsc::Sender<Arc<str>>);

/// The wishes that have come.
#[derive(Debug)]
pub struct Wanted(mpsc::Receiver<Arc<str>>);

/// Both ends.
pub fn asks() -> (Asks, Wanted) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Asks(sender), Wanted(receiver))
}

impl Asks {
    /// Traffic waits for this name.
    pub fn wanted(&self, host: Arc<str>) {
        let _whoever_finds_it_full_asks_again = self.0.try_send(host);
    }
}

/// Resolves what is asked for, and gives all names that count to `publish` after each change, until nobody can ask any more.
pub async fn run<P: Future<Output = ()>>(
    mut wanted: Wanted,
    (upstream, ipv6): (Upstream, bool),
    publish: impl Fn(Arc<Names>) -> P,
) {
    let (mut names, mut on_the_way, mut tasks) = (Names::default(), HashSet::new(), JoinSet::new());
    loop {
        tokio::select! {
            asked = wanted.0.recv(), if on_the_way.len() < AT_ONCE => {
                let Some(host) = asked else { return };
                // Several workers may have asked while it was on its way or just after.
                if names.at(&host, Instant::now()).is_none() && on_the_way.insert(host.clone()) {
                    let upstream = upstream.clone();
                    tasks.spawn(async move { (resolve(&upstream, &host, ipv6).await, host) });
                }
            }
            Some(done) = tasks.join_next() => {
                let Ok((resolved, host)) = done else { continue };
                on_the_way.remove(&host);
                let now = Instant::now();
                let name = settle(resolved, names.last(&host), now);
                if let Err(why) = &name.found {
                    tracing::warn!(%host, "a workload's host name does not resolve: {why}");
                }
                names.put(host, name, now);
                publish(Arc::new(names.clone())).await;
            }
        }
    }
}

/// Addresses and how long they are good for, or why there are none.
type Resolved = Result<(Box<[IpAddr]>, Duration), Arc<str>>;

/// What counts now, given what counted last.
fn settle(resolved: Resolved, last: Option<&route::Name>, now: Instant) -> route::Name {
    match (resolved, last) {
        (Ok((addresses, ttl)), _) => route::Name {
            found: Ok(addresses),
            until: now + ttl.clamp(SHORTEST, LONGEST),
            resolved: now,
        },
        (Err(_), Some(old)) if old.found.is_ok() && now < old.resolved + LONGEST + STALE => {
            route::Name {
                until: now + SHORTEST,
                ..old.clone()
            }
        }
        (Err(why), _) => route::Name {
            found: Err(why),
            until: now + SHORTEST,
            resolved: now,
        },
    }
}

async fn resolve(upstream: &Upstream, host: &str, ipv6: bool) -> Resolved {
    let Ok(mut name) = Name::from_ascii(host) else {
        return Err(format!("{host} is no host name").into());
    };
    name.set_fqdn(true);
    let v6 = async {
        match ipv6 {
            true => records(upstream, &name, RecordType::AAAA).await,
            false => Ok(Vec::new()),
        }
    };
    let (v4, v6) = tokio::join!(records(upstream, &name, RecordType::A), v6);
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    for records in [v4, v6] {
        match records {
            Ok(records) => all.extend(records),
            Err(fault) => faults.push(fault),
        }
    }
    let usable = |address: &IpAddr| {
        let address = address.to_canonical();
        // Whoever serves that zone must not lead the pod to itself.
        !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
    };
    all.retain(|(address, _)| usable(address));
    let Some(ttl) = all.iter().map(|(_, ttl)| *ttl).min() else {
        faults.dedup();
        let why = match faults.is_empty() {
            true => "it has no usable address".to_owned(),
            false => faults.join(", "),
        };
        return Err(why.into());
    };
    let addresses = all.into_iter().map(|(address, _)| address).collect();
    Ok((addresses, Duration::from_secs(ttl.into())))
}

async fn records(
    upstream: &Upstream,
    name: &Name,
    kind: RecordType,
) -> Result<Vec<(IpAddr, u32)>, String> {
    let packet = wire::question(name, kind);
    let request = wire::read(&packet).map_err(|_| format!("{name} cannot be asked for"))?;
    let ask = |transport| upstream.ask(&None, transport, &request, &packet);
    let told = |failure: super::forward::Failure| failure.to_string();
    let mut reply = ask(Transport::Udp).await.map_err(told)?;
    if wire::is_truncated(&reply) {
        reply = ask(Transport::Tcp).await.map_err(told)?;
    }
    wire::found(&reply, name).map_err(|fault| format!("the name server says: {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(address: [u8; 4], ttl: u64) -> Resolved {
        Ok(([IpAddr::from(address)].into(), Duration::from_secs(ttl)))
    }

    #[test]
    fn the_life_of_an_answer_has_bounds() {
        let now = Instant::now();
        for (ttl, counts) in [(0, 5), (5, 5), (30, 30), (86_400, 300)] {
            let name = settle(ok([192, 0, 2, 1], ttl), None, now);
            assert_eq!(name.until, now + Duration::from_secs(counts), "{ttl}");
        }
        let failed = settle(Err("no".into()), None, now);
        assert_eq!(failed.until, now + SHORTEST);
        assert!(failed.found.is_err());
    }

    #[test]
    fn a_name_that_fails_keeps_its_addresses_for_a_while() {
        let begin = Instant::now();
        let good = settle(ok([192, 0, 2, 1], 300), None, begin);
        let later = begin + LONGEST + STALE - Duration::from_secs(1);
        let kept = settle(Err("no".into()), Some(&good), later);
        assert_eq!((kept.found.is_ok(), kept.until), (true, later + SHORTEST));
        let gone = settle(Err("no".into()), Some(&kept), begin + LONGEST + STALE);
        assert!(gone.found.is_err());
    }

    /// A name server that knows one address of any name; what it was asked for.
    async fn serve(socket: &tokio::net::UdpSocket, address: [u8; 4], asked: &mut Vec<String>) {
        let mut buffer = [0; 600];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let request = wire::read(&buffer[..length]).unwrap();
            asked.push(format!("{} {}", request.name, request.kind));
            let reply = match request.kind {
                RecordType::A => request.addresses(None, &[address.into()], 512),
                _ => request.no_record(),
            };
            let reply = wire::with_id(&reply, u16::from_be_bytes([buffer[0], buffer[1]]));
            socket.send_to(&reply, from).await.unwrap();
        }
    }

    /// Asks for `db.example.com` three times; what is known of it then, and what the name server was asked.
    async fn resolved(address: [u8; 4]) -> (Result<Box<[IpAddr]>, Arc<str>>, Vec<String>) {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream::new(&[socket.local_addr().unwrap()], None);
        let (asks, wanted) = asks();
        for _ in 0..3 {
            asks.wanted("db.example.com".into());
        }
        let (publish, mut published) = mpsc::unbounded_channel();
        let publish = move |names| {
            let _test_is_over = publish.send(names);
            std::future::ready(())
        };
        let mut asked = Vec::new();
        let names: Arc<Names> = tokio::select! {
            names = published.recv() => names.unwrap(),
            () = run(wanted, (upstream, true), publish) => unreachable!(),
            () = serve(&socket, address, &mut asked) => unreachable!(),
        };
        let name = names.at("db.example.com", Instant::now()).unwrap();
        asked.sort();
        (name.found.clone(), asked)
    }

    #[tokio::test]
    async fn a_name_is_resolved_once_for_all_who_wait_for_it() {
        let (found, asked) = resolved([192, 0, 2, 7]).await;
        assert_eq!(found.unwrap()[..], [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(asked, ["db.example.com. A", "db.example.com. AAAA"]);
    }

    #[tokio::test]
    async fn a_name_must_not_lead_a_pod_to_itself() {
        let (found, _) = resolved([127, 0, 0, 1]).await;
        assert_eq!(&*found.unwrap_err(), "it has no usable address");
    }
}
