//! The API server that the tests share, and how they write to it.

use std::{
    path::Path,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::{
    Client,
    api::PostParams,
    core::{Request, params::DeleteParams},
};
use kubernetes::{Wanted, Watch};
use objects::{Change, Event, Kind, Source as _};
use serde_json::{Value, json};
use testkit::apiserver::{ApiServer, Binaries};

/// Long enough for a busy machine; what hangs fails.
pub const LIMIT: Duration = Duration::from_secs(120);

static SERVER: LazyLock<Result<Mutex<ApiServer>, String>> = LazyLock::new(|| {
    let binaries = Binaries::find()?;
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes");
    let server = ApiServer::start(binaries, &directory).expect("etcd and the API server start");
    Ok(Mutex::new(server))
});

/// The server, while it is this test's turn.
pub struct World {
    pub server: MutexGuard<'static, ApiServer>,
    pub client: Client,
}

/// Runs a test in its turn, when the server answers.
pub fn run(body: impl AsyncFnOnce(&mut World)) {
    let server = match &*SERVER {
        Ok(server) => server,
        Err(reason) => return testkit::skip(reason),
    };
    // A test that failed may have left it stopped.
    let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
    server.resume().expect("it starts");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let client = kubernetes::client(Some(&server.kubeconfig()))
            .await
            .expect("a client");
        let mut world = World { server, client };
        world.ready().await;
        body(&mut world).await;
    });
}

impl World {
    /// Waits until the server answers and has done what it does at its start.
    pub async fn ready(&self) {
        let ready = || async {
            let request = http_get("/readyz");
            self.client
                .request_text(request)
                .await
                .is_ok_and(|text| text == "ok")
        };
        let end = Instant::now() + LIMIT;
        while !ready().await {
            assert!(
                Instant::now() < end,
                "the server is not ready; its log:\n{}",
                self.server.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes an object; `path` is that of its kind.
    pub async fn create(&self, path: &str, object: Value) -> Value {
        let body = serde_json::to_vec(&object).expect("JSON");
        let request = Request::new(path)
            .create(&PostParams::default(), body)
            .expect("a request");
        let made = self.client.request(request).await;
        made.unwrap_or_else(|error| panic!("{path}: {error}: {object}"))
    }

    /// Makes an object with a status.
    pub async fn create_with_status(&self, path: &str, object: Value) {
        let mut made = self.create(path, object.clone()).await;
        made["status"] = object["status"].clone();
        let name = made["metadata"]["name"]
            .as_str()
            .expect("a name")
            .to_owned();
        let body = serde_json::to_vec(&made).expect("JSON");
        let request =
            Request::new(path).replace_subresource("status", &name, &PostParams::default(), body);
        let put: Result<Value, _> = self.client.request(request.expect("a request")).await;
        put.expect("the status");
    }

    pub async fn delete(&self, path: &str, name: &str) {
        let now = DeleteParams::default().grace_period(0);
        let request = Request::new(path).delete(name, &now).expect("a request");
        let gone: Result<Value, _> = self.client.request(request).await;
        gone.expect("deleted");
    }

    pub async fn namespace(&self, name: &str, labels: Value) {
        self.create(
            "/api/v1/namespaces",
            json!({"metadata": {"name": name, "labels": labels}}),
        )
        .await;
    }

    /// Defines a kind of which everything is kept, and waits until the server serves it.
    pub async fn define(&self, group: &str, kind: &str, plural: &str, scope: &str) {
        let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let versions = json!([{"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}}]);
        let names = json!({"kind": kind, "plural": plural, "singular": kind.to_lowercase()});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}"),
                "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/1"}},
            "spec": {"group": group, "scope": scope, "names": names, "versions": versions},
        });
        self.create(DEFINITIONS, definition).await;
        let path = format!("/apis/{group}/v1/{plural}");
        let end = Instant::now() + LIMIT;
        while self.client.request_text(http_get(&path)).await.is_err() {
            assert!(Instant::now() < end, "{path} is not served");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All objects of a path, as the server writes them.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let list: Result<Value, _> = self.client.request(http_get(path)).await;
        let mut list = list.unwrap_or_else(|error| panic!("{path}: {error}"));
        match list["items"].take() {
            Value::Array(items) => items,
            other => panic!("{path}: {other}"),
        }
    }

    pub fn watch(&self, kinds: &[Kind]) -> Heard {
        Heard {
            watch: Watch::new(self.client.clone(), Wanted::kinds(kinds.iter().copied())),
            faults: Vec::new(),
        }
    }
}

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

pub fn http_get(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path).body(Vec::new()).expect("a path")
}

/// A watch, and what of it was heard.
pub struct Heard {
    pub watch: Watch,
    pub faults: Vec<String>,
}

impl Heard {
    /// The next event, as `+Kind ns/name` and `-Kind ns/name`.
    pub async fn next(&mut self) -> Vec<String> {
        let event = tokio::time::timeout(LIMIT, self.watch.next())
            .await
            .expect("an event");
        let (changes, faults) = match event {
            Event::Snapshot { objects, faults } => {
                (objects.into_iter().map(Change::Upsert).collect(), faults)
            }
            Event::Changes { changes, faults } => (changes, faults),
        };
        self.faults = faults.iter().map(ToString::to_string).collect();
        let text = |change: Change| match change {
            Change::Upsert(object) => format!("+{}", object.key()),
            Change::Remove(key) => format!("-{key}"),
        };
        changes.into_iter().map(text).collect()
    }

    /// Listens until all of `wanted` was heard, in whatever order.
    pub async fn until(&mut self, wanted: &[&str]) {
        let mut missing: Vec<&str> = wanted.to_vec();
        while !missing.is_empty() {
            let heard = self.next().await;
            missing.retain(|wanted| !heard.iter().any(|heard| heard == wanted));
        }
    }
}
