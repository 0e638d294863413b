use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

#[tokio::test(start_paused = true)]
async fn a_part_is_closed_when_drained_and_its_tasks_and_those_of_its_children_ended() {
    let root = Shutdown::new();
    let pod = root.child();
    let connection = pod.child();
    let (end, ended) = oneshot::channel::<()>();
    connection.spawn(ended);
    root.drain();
    assert!(connection.is_draining());
    assert_eq!((root.tasks(), pod.tasks(), connection.tasks()), (1, 1, 1));
    let early = tokio::time::timeout(Duration::from_secs(60), root.closed()).await;
    assert!(early.is_err(), "closed while a task of a grandchild ran");
    end.send(()).unwrap();
    root.closed().await;
    pod.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_stops_alone() {
    let root = Shutdown::new();
    let (pod, other) = (root.child(), root.child());
    pod.force();
    pod.forced().await;
    assert!(!root.is_draining() && !other.is_draining());
}

#[tokio::test(start_paused = true)]
async fn force_drops_tasks_that_outlive_the_deadline() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let root = Shutdown::new();
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = Dropped(dropped.clone());
    root.spawn(async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    let started = tokio::time::Instant::now();
    let ended = root.finish(Duration::from_secs(25)).await;
    assert_eq!(ended, Ended::Forced { tasks: 1 });
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(started.elapsed(), Duration::from_secs(25));
}

#[tokio::test(start_paused = true)]
async fn the_second_request_cuts_the_drain_short() {
    let root = Shutdown::new();
    root.spawn(std::future::pending::<()>());
    let second = root.clone();
    root.spawn_aside(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        second.force();
    });
    let started = tokio::time::Instant::now();
    let ended = root.finish(Duration::from_secs(25)).await;
    assert!(matches!(ended, Ended::Forced { .. }), "{ended:?}");
    assert_eq!(started.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn tasks_aside_are_not_waited_for_and_end_at_force() {
    let root = Shutdown::new();
    let aside = root.spawn_aside(std::future::pending::<()>());
    assert_eq!(root.finish(Duration::from_secs(25)).await, Ended::Drained);
    assert_eq!(aside.await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn readiness_goes_before_the_drain() {
    let (root, readiness) = (Shutdown::new(), Readiness::new());
    let (watch, inner) = (readiness.clone(), root.clone());
    let seen = root.spawn(async move {
        inner.draining().await;
        tokio::task::yield_now().await;
        watch.report().1
    });
    root.drain();
    assert_eq!(
        run_to_end(&root, &readiness, Duration::from_secs(5)).await,
        Ended::Drained
    );
    assert_eq!(
        seen.await.unwrap().unwrap(),
        "not ready, pending: draining\n"
    );
}
