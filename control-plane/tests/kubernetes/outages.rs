//! The API server goes away and comes back, the same or with an older store.

use objects::Kind;
use serde_json::json;

use crate::world::{World, run};

const KINDS: [Kind; 2] = [Kind::Namespace, Kind::ServiceAccount];

async fn account(world: &World, namespace: &str, name: &str) {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    world
        .create(&path, json!({"metadata": {"name": name}}))
        .await;
}

#[test]
fn what_was_read_stays_while_the_server_is_away_and_what_changed_is_found_after() {
    run(async |world| {
        world.namespace("away", json!({})).await;
        account(world, "away", "first").await;
        let mut heard = world.watch(&KINDS);
        let all = heard.next().await;
        assert!(
            all.contains(&"+ServiceAccount away/first".to_owned()),
            "{all:?}"
        );

        world.server.stop_server();
        while heard.faults.is_empty() {
            let changes = heard.next().await;
            assert_eq!(
                changes,
                Vec::<String>::new(),
                "nothing goes away with the server"
            );
        }
        let text = &heard.faults[0];
        assert!(
            text.contains("the API server") && text.contains("as last read stay"),
            "{text}"
        );

        world.server.resume().expect("it starts");
        world.ready().await;
        // Nobody has polled the watch: to it the server is still away while this happens.
        account(world, "away", "second").await;
        world
            .delete("/api/v1/namespaces/away/serviceaccounts", "first")
            .await;
        heard
            .until(&["+ServiceAccount away/second", "-ServiceAccount away/first"])
            .await;
        while !heard.faults.is_empty() {
            heard.next().await;
        }
    });
}

#[test]
fn an_older_store_that_is_put_back_counts() {
    run(async |world| {
        world.namespace("restored", json!({})).await;
        account(world, "restored", "old").await;
        world.server.stop().expect("both end");
        world.server.back_up().expect("a copy");
        world.server.resume().expect("both start");
        world.ready().await;

        let mut heard = world.watch(&KINDS);
        let all = heard.next().await;
        assert!(
            all.contains(&"+ServiceAccount restored/old".to_owned()),
            "{all:?}"
        );
        account(world, "restored", "new").await;
        world
            .delete("/api/v1/namespaces/restored/serviceaccounts", "old")
            .await;
        heard
            .until(&[
                "+ServiceAccount restored/new",
                "-ServiceAccount restored/old",
            ])
            .await;

        world.server.stop().expect("both end");
        world.server.restore().expect("the copy");
        world.server.resume().expect("both start");
        world.ready().await;
        heard
            .until(&[
                "+ServiceAccount restored/old",
                "-ServiceAccount restored/new",
            ])
            .await;
    });
}
