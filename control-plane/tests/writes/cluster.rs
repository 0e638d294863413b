//! etcd and kube-apiserver for one test, on loopback, in a directory that goes with it. The garbage collector too, which
//! deletes what a deleted object owned.

use std::{
    io::Write as _,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

use crate::rights;

const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];
const TOKEN: &str = "test-token";
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub client: Client,
    children: Vec<Child>,
    bin: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where the pinned Kubernetes programs lie: `CAUSEWAY_KUBE_BIN`, or the user's cache folder.
fn programs() -> Option<PathBuf> {
    let bin = match std::env::var_os("CAUSEWAY_KUBE_BIN") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/causeway/kube-bin"),
    };
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|name| !bin.join(name).exists())
        .collect();
    if !missing.is_empty() {
        skip(&format!("{} lacks {}", bin.display(), missing.join(", ")));
        return None;
    }
    Some(bin)
}

/// The definitions of the Gateway API, from the pinned module.
fn definitions() -> Option<PathBuf> {
    let modules = match std::env::var_os("GOMODCACHE") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME")?).join("go/pkg/mod"),
    };
    let path = modules.join("sigs.k8s.io/gateway-api@v1.6.3/config/crd/standard");
    if !path.exists() {
        skip(&format!(
            "the CRDs of the Gateway API are not at {}",
            path.display()
        ));
        return None;
    }
    Some(path)
}

/// Written past the test harness, which would swallow it.
fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound").port()
}

fn run(program: &mut Command) {
    let status = program
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("it starts");
    assert!(status.success(), "{program:?}");
}

impl Cluster {
    /// None, and the reason in the output, if something that it takes is not there.
    pub async fn start() -> Option<Cluster> {
        let bin = programs()?;
        definitions()?;
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        run(Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(at("sa.key"))
            .arg("2048"));
        run(Command::new("openssl")
            .args(["rsa", "-pubout", "-in"])
            .arg(at("sa.key"))
            .arg("-out")
            .arg(at("sa.pub")));
        std::fs::write(
            at("tokens.csv"),
            format!("{TOKEN},admin,admin,\"system:masters\"\n"),
        )
        .expect("writable");
        let (store, peer, port) = (free_port(), free_port(), free_port());
        let (store, peer) = (
            format!("http://127.0.0.1:{store}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let log = |name: &str| std::fs::File::create(at(&format!("{name}.log"))).expect("writable");
        let etcd = Command::new(bin.join("etcd"))
            .args(["--name=test", "--unsafe-no-fsync"])
            .arg(format!("--data-dir={}", at("etcd").display()))
            .arg(format!("--listen-client-urls={store}"))
            .arg(format!("--advertise-client-urls={store}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=test={peer}"))
            .stdin(Stdio::null())
            .stdout(log("etcd"))
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        let server = Command::new(bin.join("kube-apiserver"))
            .arg(format!("--etcd-servers={store}"))
            .arg(format!("--secure-port={port}"))
            .args([
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--service-cluster-ip-range=10.96.0.0/16",
            ])
            .arg(format!("--cert-dir={}", at("certificates").display()))
            .arg(format!("--token-auth-file={}", at("tokens.csv").display()))
            .args([
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
            ])
            .arg(format!(
                "--service-account-key-file={}",
                at("sa.pub").display()
            ))
            .arg(format!(
                "--service-account-signing-key-file={}",
                at("sa.key").display()
            ))
            .arg("--profiling=false")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log("kube-apiserver"))
            .spawn()
            .expect("kube-apiserver starts");
        let mut cluster = Cluster {
            client: client(port, None),
            children: vec![etcd, server],
            bin,
            directory,
            port,
        };
        cluster.ready().await;
        Some(cluster)
    }

    /// Until the server answers and knows all kinds; then with a namespace `app` and the garbage collector.
    async fn ready(&mut self) {
        eventually("the API server is ready", async || {
            let request = http_request("/readyz");
            self.client
                .request_text(request)
                .await
                .is_ok_and(|text| text == "ok")
        })
        .await;
        let kubeconfig = self.directory.path().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("https://127.0.0.1:{}", self.port), "insecure-skip-tls-verify": true}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).expect("writable");
        let log = std::fs::File::create(self.directory.path().join("kube-controller-manager.log"))
            .expect("writable");
        let collector = Command::new(self.bin.join("kube-controller-manager"))
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .args([
                "--controllers=garbage-collector-controller",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                "--secure-port=0",
            ])
            .arg(format!(
                "--flex-volume-plugin-dir={}",
                self.directory.path().join("flex").display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("kube-controller-manager starts");
        self.children.push(collector);
        let gateway_api = definitions().expect("looked up before");
        for name in ["gateways", "gatewayclasses", "httproutes", "grpcroutes"] {
            let text = std::fs::read_to_string(
                gateway_api.join(format!("gateway.networking.k8s.io_{name}.yaml")),
            )
            .expect("a CRD");
            self.apply(&text).await;
        }
        self.apply(POLICIES).await;
        for kind in [
            "Gateway",
            "GatewayClass",
            "HTTPRoute",
            "AuthorizationPolicy",
        ] {
            eventually("the kinds are served", async || {
                let list: kube::Result<kube::core::ObjectList<DynamicObject>> =
                    self.api(kind).list(&ListParams::default()).await;
                list.is_ok()
            })
            .await;
        }
        self.apply("{apiVersion: v1, kind: Namespace, metadata: {name: app}}")
            .await;
    }

    /// A client that may do what docs/kubernetes-rights.md grants, and nothing else.
    pub async fn with_its_rights(&self) -> Client {
        for object in [rights::role(), rights::binding()] {
            self.apply(&object.to_string()).await;
        }
        client(self.port, Some("control-plane"))
    }

    /// In namespace `app`, or the whole cluster for kinds of the cluster.
    pub fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version, plural, namespaced) = match kind {
            "Namespace" => ("", "v1", "namespaces", false),
            "ConfigMap" => ("", "v1", "configmaps", true),
            "Service" => ("", "v1", "services", true),
            "ServiceAccount" => ("", "v1", "serviceaccounts", true),
            "Deployment" => ("apps", "v1", "deployments", true),
            "PodDisruptionBudget" => ("policy", "v1", "poddisruptionbudgets", true),
            "GatewayClass" => ("gateway.networking.k8s.io", "v1", "gatewayclasses", false),
            "Gateway" => ("gateway.networking.k8s.io", "v1", "gateways", true),
            "HTTPRoute" => ("gateway.networking.k8s.io", "v1", "httproutes", true),
            "AuthorizationPolicy" => ("security.istio.io", "v1", "authorizationpolicies", true),
            "Event" => ("events.k8s.io", "v1", "events", true),
            "ClusterRole" => ("rbac.authorization.k8s.io", "v1", "clusterroles", false),
            "ClusterRoleBinding" => (
                "rbac.authorization.k8s.io",
                "v1",
                "clusterrolebindings",
                false,
            ),
            "CustomResourceDefinition" => (
                "apiextensions.k8s.io",
                "v1",
                "customresourcedefinitions",
                false,
            ),
            other => panic!("{other} is not in the table"),
        };
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        if namespaced {
            Api::namespaced_with(self.client.clone(), "app", &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    /// As a user does, documents of YAML.
    pub async fn apply(&self, text: &str) {
        let object: Value = serde_saphyr::from_str(text).expect("YAML");
        let (kind, name) = (
            object["kind"].as_str().expect("a kind"),
            object["metadata"]["name"].as_str().expect("a name"),
        );
        let params = PatchParams::apply("user").force();
        self.api(kind)
            .patch(name, &params, &Patch::Apply(&object))
            .await
            .unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }

    /// As `kubectl edit` does.
    pub async fn edit(&self, kind: &str, name: &str, patch: &Value) {
        let patch = if kind == "Deployment" {
            Patch::Strategic(patch)
        } else {
            Patch::Merge(patch)
        };
        self.api(kind)
            .patch(name, &PatchParams::default(), &patch)
            .await
            .expect("edited");
    }

    pub async fn patch_status(&self, kind: &str, name: &str, patch: &Value) {
        self.api(kind)
            .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("patched");
    }

    pub async fn delete(&self, kind: &str, name: &str) {
        self.api(kind)
            .delete(name, &DeleteParams::default())
            .await
            .expect("deleted");
    }

    pub async fn events(&self) -> Vec<Value> {
        let list = self
            .api("Event")
            .list(&ListParams::default())
            .await
            .expect("events");
        list.items
            .into_iter()
            .map(|event| serde_json::to_value(event).expect("JSON"))
            .collect()
    }

    /// A lease of namespace `default`.
    pub async fn lease(&self, name: &str) -> Value {
        let api = Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(
            self.client.clone(),
            "default",
        );
        serde_json::to_value(api.get(name).await.expect("a lease")).expect("JSON")
    }
}

/// The server makes its certificate at its start, so that nobody knows it.
fn client(port: u16, user: Option<&str>) -> Client {
    let mut config = Config::new(format!("https://127.0.0.1:{port}").parse().expect("a URL"));
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(TOKEN.to_owned().into());
    config.auth_info.impersonate = user.map(str::to_owned);
    Client::try_from(config).expect("a client")
}

fn http_request(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path)
        .body(Vec::new())
        .expect("a request")
}

/// Looks until it is so; fails after a minute.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !holds().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ours, as far as this test needs it: the real one is Istio's.
const POLICIES: &str = "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: \
     authorizationpolicies.security.istio.io}, spec: {group: security.istio.io, scope: Namespaced, names: {kind: AuthorizationPolicy, \
     plural: authorizationpolicies, singular: authorizationpolicy}, versions: [{name: v1, served: true, storage: true, subresources: \
     {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}";
