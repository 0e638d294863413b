//! The store over a scripted authority, with tokio's clock paused: order, parallelism, renewal,
//! back-off, forgetting.

use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::*;
use crate::ca::Issuing;
use crate::issue::Issuer;
use crate::key::Key;
use crate::tls::KeyExchange;

const HOUR: Duration = Duration::from_secs(3600);

/// The time of day follows tokio's clock, which these tests pause.
fn clock() -> (Clock, SystemTime) {
    let (wall, start) = (SystemTime::now(), Instant::now());
    (Arc::new(move || wall + start.elapsed()), wall)
}

fn name(i: usize) -> Identity {
    Identity::new("td", "ns", &format!("a{i}")).unwrap()
}

/// An authority whose fetches begin visibly and end when a permit is given.
struct Scripted {
    issuer: Issuer,
    clock: Clock,
    began: mpsc::UnboundedSender<Identity>,
    gate: Arc<Semaphore>,
    broken: Mutex<HashSet<Identity>>,
    running: AtomicUsize,
    most: AtomicUsize,
    ttl: Duration,
}

struct Authorised(Arc<Scripted>);

impl Authority for Authorised {
    fn issue(&self, identity: &Identity) -> Issuing {
        let (authority, identity) = (self.0.clone(), identity.clone());
        Box::pin(async move {
            let running = authority.running.fetch_add(1, Ordering::SeqCst) + 1;
            authority.most.fetch_max(running, Ordering::SeqCst);
            authority.began.send(identity.clone()).unwrap();
            authority.gate.acquire().await.unwrap().forget();
            authority.running.fetch_sub(1, Ordering::SeqCst);
            if authority.broken.lock().unwrap().contains(&identity) {
                return Err(CaError::Refused("not today".to_owned()));
            }
            let key = Key::generate()?;
            let now = (authority.clock)();
            let (begin, ttl) = match authority.ttl {
                Duration::ZERO => (now - HOUR, HOUR),
                ttl => (now, ttl),
            };
            let chain = authority
                .issuer
                .sign_key(&key, &identity, begin, ttl)
                .unwrap();
            Ok(Certificate::from_chain(key, &chain, KeyExchange::Standard)?)
        })
    }
}

struct Bench {
    store: Store,
    authority: Arc<Scripted>,
    began: mpsc::UnboundedReceiver<Identity>,
    changes: mpsc::UnboundedReceiver<Change>,
    stop: Option<oneshot::Sender<()>>,
    driver: tokio::task::JoinHandle<()>,
}

// Tests have no Shutdown to spawn through; the bench keeps the handle.
#[allow(clippy::disallowed_methods)]
fn bench(ttl: Duration) -> Bench {
    let (clock, wall) = clock();
    let (sender, began) = mpsc::unbounded_channel();
    let authority = Arc::new(Scripted {
        issuer: Issuer::new_root("td", wall - HOUR, 10_000 * HOUR).unwrap(),
        clock: clock.clone(),
        began: sender,
        gate: Arc::new(Semaphore::new(0)),
        broken: Mutex::default(),
        running: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        ttl,
    });
    let (changed, changes) = mpsc::unbounded_channel();
    let (store, driver) = Store::with_clock(
        Arc::new(Authorised(authority.clone())),
        move |change| drop(changed.send(change)),
        clock,
    );
    let (stop, stopped) = oneshot::channel::<()>();
    let driver = tokio::spawn(driver.run(async move { drop(stopped.await) }));
    Bench {
        store,
        authority,
        began,
        changes,
        stop: Some(stop),
        driver,
    }
}

impl Bench {
    async fn issued(&mut self) -> Arc<Certificate> {
        match self.changes.recv().await.unwrap() {
            Change::Issued(certificate) => certificate,
            Change::Failed { reason, .. } => panic!("{reason}"),
        }
    }

    async fn failed(&mut self) -> String {
        match self.changes.recv().await.unwrap() {
            Change::Issued(certificate) => panic!("{certificate:?}"),
            Change::Failed { reason, .. } => reason.to_string(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn eight_at_once_and_the_urgent_first() {
    let mut bench = bench(24 * HOUR);
    for i in 0..30 {
        bench.store.prefetch(&name(i));
    }
    for _ in 0..PARALLEL {
        bench.began.recv().await.unwrap();
    }
    // All slots are taken: a later but urgent one goes before the 22 that wait.
    let urgent = name(100);
    drop(bench.store.watch(&urgent, Priority::RealTime));
    drop(bench.store.watch(&name(29), Priority::RealTime));
    bench.authority.gate.add_permits(1);
    assert_eq!(bench.began.recv().await.unwrap(), name(29));
    bench.authority.gate.add_permits(1);
    assert_eq!(bench.began.recv().await.unwrap(), urgent);
    bench.authority.gate.add_permits(100);
    for _ in 0..31 {
        bench.issued().await;
    }
    assert_eq!(bench.authority.most.load(Ordering::SeqCst), PARALLEL);
    assert_eq!(bench.store.statuses().len(), 31);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_connection_gets_the_certificate_and_the_next_one_at_once() {
    let bench = bench(24 * HOUR);
    assert!(bench.store.current(&name(1)).is_none());
    bench.authority.gate.add_permits(1);
    let first = bench
        .store
        .certificate(&name(1), Priority::RealTime)
        .await
        .unwrap();
    let second = bench
        .store
        .certificate(&name(1), Priority::RealTime)
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(*first.identity(), name(1));
}

#[tokio::test(start_paused = true)]
async fn renews_at_half_of_life_in_the_background() {
    let mut bench = bench(24 * HOUR);
    bench.authority.gate.add_permits(100);
    let mut watched = bench.store.watch(&name(1), Priority::RealTime);
    let mut last = bench.issued().await;
    for _ in 0..5 {
        let start = Instant::now();
        let next = bench.issued().await;
        let waited = start.elapsed();
        assert!(waited > (12 * HOUR).mul_f64(0.89) && waited < (12 * HOUR).mul_f64(1.11));
        assert!(next.generation() > last.generation());
        assert!(Arc::ptr_eq(&bench.store.current(&name(1)).unwrap(), &next));
        last = next;
    }
    let status = watched.borrow_and_update().clone();
    assert_eq!(status.attempts, 6);
    assert_eq!(status.certificate.unwrap().generation(), last.generation());
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_keep_the_old_certificate_and_end_with_its_expiry() {
    let mut bench = bench(HOUR);
    bench.authority.gate.add_permits(10_000);
    let first = {
        drop(bench.store.watch(&name(1), Priority::RealTime));
        bench.issued().await
    };
    bench.authority.broken.lock().unwrap().insert(name(1));
    assert_eq!(bench.failed().await, "certificate authority: not today");
    let held = bench
        .store
        .certificate(&name(1), Priority::RealTime)
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&held, &first));

    let mut waits = Vec::new();
    while bench.store.current(&name(1)).is_some() {
        let start = Instant::now();
        bench.failed().await;
        waits.push(start.elapsed());
    }
    assert!(waits[0] <= Duration::from_millis(1300), "{waits:?}");
    assert!(
        waits.iter().all(|w| *w <= Duration::from_millis(150_100)),
        "{waits:?}"
    );
    assert!(
        waits.iter().any(|w| *w > Duration::from_secs(119)),
        "{waits:?}"
    );
    let error = bench
        .store
        .certificate(&name(1), Priority::RealTime)
        .await
        .unwrap_err();
    let want = "no certificate for spiffe://td/ns/ns/sa/a1: certificate authority: not today";
    assert_eq!(error.to_string(), want);

    bench.authority.broken.lock().unwrap().clear();
    bench.issued().await;
    assert!(bench.store.current(&name(1)).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_identity_in_back_off_fails_at_once_and_others_go_on() {
    let mut bench = bench(HOUR);
    bench.authority.gate.add_permits(100);
    bench.authority.broken.lock().unwrap().insert(name(1));
    let first = bench.store.certificate(&name(1), Priority::RealTime).await;
    assert!(matches!(first, Err(Unavailable::Failed { .. })));
    bench.failed().await;
    let start = Instant::now();
    let again = bench.store.certificate(&name(1), Priority::RealTime).await;
    assert!(matches!(again, Err(Unavailable::Failed { .. })));
    bench
        .store
        .certificate(&name(2), Priority::Warmup)
        .await
        .unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn forgetting_ends_watchers_and_drops_a_fetch_in_flight() {
    let mut bench = bench(HOUR);
    let mut watched = bench.store.watch(&name(1), Priority::Warmup);
    bench.began.recv().await.unwrap();
    bench.store.forget(&name(1));
    watched.changed().await.unwrap_err();
    // The same name again is a new entry: the old fetch must not answer for it.
    bench.authority.broken.lock().unwrap().insert(name(1));
    let mut watched = bench.store.watch(&name(1), Priority::Warmup);
    bench.began.recv().await.unwrap();
    bench.authority.gate.add_permits(2);
    bench.failed().await;
    assert_eq!(watched.borrow_and_update().attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn when_the_driver_ends_nobody_waits() {
    let mut bench = bench(HOUR);
    let store = bench.store.clone();
    let (waiter, ()) = tokio::join!(
        async { store.certificate(&name(1), Priority::RealTime).await },
        async {
            bench.began.recv().await.unwrap();
            drop(bench.stop.take());
        }
    );
    let want = "no certificate for spiffe://td/ns/ns/sa/a1: it is no longer wanted on this node";
    assert_eq!(waiter.unwrap_err().to_string(), want);
    bench.driver.await.unwrap();
    bench
        .store
        .certificate(&name(2), Priority::RealTime)
        .await
        .unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_over_on_arrival_is_a_failure() {
    let mut bench = bench(Duration::ZERO);
    bench.authority.gate.add_permits(1);
    let error = bench
        .store
        .certificate(&name(1), Priority::RealTime)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("expired on arrival; do the clocks agree?"),
        "{error}"
    );
    bench.failed().await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_panics_is_a_failure_of_its_identity_alone() {
    /// Panics for one identity.
    struct Rash(Authorised);

    impl Authority for Rash {
        fn issue(&self, identity: &Identity) -> Issuing {
            let good = self.0.issue(identity);
            let rash = *identity == name(1);
            Box::pin(async move {
                assert!(!rash, "as scripted");
                good.await
            })
        }
    }

    let bench = bench(HOUR);
    bench.authority.gate.add_permits(1);
    let authority = Rash(Authorised(bench.authority.clone()));
    let (store, driver) = Store::new(Arc::new(authority), |_| {});
    let work = async {
        let (one, two) = (name(1), name(2));
        let (rash, good) = tokio::join!(
            store.certificate(&one, Priority::RealTime),
            store.certificate(&two, Priority::RealTime)
        );
        assert!(
            rash.unwrap_err()
                .to_string()
                .ends_with("the fetch ended abnormally")
        );
        good.unwrap();
    };
    tokio::select! {
        () = driver.run(std::future::pending()) => {}
        () = work => {}
    }
}
