//! The data path in one process, on the captured configuration.
//! Long because it is one table of cases over one world.

mod bounds;
mod drain;
mod ends;
mod policies;
mod telemetry;
mod warming;
mod world;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3 as rt;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
    http_connection_manager::UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions, http_protocol_options as up,
};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as ProtoDuration};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::Identity;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use world::{Changes, ECHO_VIP, TCP_VIP, World, answer, get, request};

fn open(manager: &mut HttpConnectionManager) {
    manager.http_filters.remove(0);
}

fn routes(manager: &mut HttpConnectionManager) -> &mut Vec<rt::Route> {
    let Some(RouteSpecifier::RouteConfig(config)) = &mut manager.route_specifier else {
        panic!()
    };
    &mut config.virtual_hosts[0].routes
}

fn action(manager: &mut HttpConnectionManager) -> &mut rt::RouteAction {
    let Some(rt::route::Action::Route(action)) = &mut routes(manager)[1].action else {
        panic!()
    };
    action
}

#[tokio::test]
async fn a_request_is_routed_rewritten_and_told_about() {
    let world = World::new(Changes::default()).await;
    let one = world
        .send(get(
            "/v1/x?y=1",
            &[("x-user", "alice"), ("x-envoy-max-retries", "9")],
        ))
        .await;
    // 10 % go to the TCP port's cluster, whose endpoints are the same.
    assert_eq!((one.status, one.body.as_str()), (200, "GET /x?y=1 "));
    assert_eq!(one.headers["server"], "istio-envoy");
    assert_eq!(
        one.headers["x-envoy-decorator-operation"],
        "app~80~echo.app.svc.cluster.local:80/*"
    );
    assert!(one.headers.contains_key("x-envoy-upstream-service-time"));
    let (_, _, headers) = world.seen.lock().unwrap()[0].clone();
    for (name, value) in [
        ("x-added", "1"),
        ("x-envoy-original-path", "/v1/x?y=1"),
        ("x-envoy-expected-rq-timeout-ms", "5000"),
        ("x-forwarded-proto", "http"),
        ("host", "echo.app"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(headers["x-request-id"].len(), 36);
    assert!(!headers.contains_key("x-envoy-max-retries"));
    let log = world.log();
    assert!(
        log.contains("\"GET /v1/x?y=1 HTTP/1.1\" 200 - via_upstream - \"-\" 0 11 "),
        "{log}"
    );
    assert!(
        log.contains("\"echo.app\" \"envoy://connect_originate/127.0.0."),
        "{log}"
    );
    assert!(log.ends_with(" app.echo.0\n"), "{log}");
    let metrics = world.metrics();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("istio_requests_total{"))
        .unwrap();
    for label in [
        "reporter=\"waypoint\"",
        "source_principal=\"spiffe://cluster.local/ns/app/sa/client\"",
        "source_workload_namespace=\"app\"",
        "destination_service=\"echo.app.svc.cluster.local\"",
        "destination_workload=\"echo\"",
        "response_code=\"200\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
    ] {
        assert!(line.contains(label), "{label} is not in {line}");
    }
    assert!(metrics.contains("istio_request_duration_milliseconds_bucket"));
}

#[tokio::test]
async fn routes_and_paths_are_as_envoys() {
    let world = World::new(Changes::default()).await;
    let cases = [
        (get("/v1x", &[("x-user", "alice")]), "GET /v1x "),
        (get("/v1/x", &[("x-user", "bob")]), "GET /v1/x "),
        (get("/a/../b//c", &[]), "GET /b//c "),
    ];
    for (request, want) in cases {
        assert_eq!(world.send(request).await.body, want);
    }
}

#[tokio::test]
async fn what_no_allow_policy_matches_is_refused_and_the_log_says_that_none_did() {
    let world = World::new(Changes::default()).await;
    for request in [
        request("DELETE", "/", &[], ""),
        request("POST", "/", &[], "x"),
        get("/", &[("x-deny", "yes")]),
    ] {
        let denied = world.send(request).await;
        assert_eq!(
            (denied.status, denied.body.as_str()),
            (403, "RBAC: access denied")
        );
    }
    let other = world.issue(&world.ca.identity("other", "client"));
    assert_eq!(world.send_as(&other, get("/", &[])).await.status, 403);
    assert_eq!(world.seen.lock().unwrap().len(), 0);
    let log = world.log();
    assert!(
        log.contains("\"DELETE / HTTP/1.1\" 403 - rbac_access_denied_matched_policy[none] "),
        "{log}"
    );
    // A gRPC client reads the refusal where it looks for it.
    let grpc = world
        .send(request(
            "POST",
            "/s/m",
            &[("content-type", "application/grpc")],
            "x",
        ))
        .await;
    assert_eq!(
        (grpc.status, &grpc.headers["grpc-status"]),
        (200, &http::HeaderValue::from_static("7"))
    );
}

#[tokio::test]
async fn strangers_and_unknown_places_are_refused() {
    let world = World::new(Changes::default()).await;
    let foreign = testkit::ca::TestCa::new("other.domain");
    let foreign = foreign.issue(
        &foreign.identity("app", "client"),
        std::time::Duration::from_secs(60),
    );
    assert!(world.tunnel_as(&foreign, ECHO_VIP).await.is_err());
    // The same roots, but another trust domain.
    let odd: Identity = "spiffe://evil/ns/app/sa/client".parse().unwrap();
    assert!(world.tunnel_as(&world.issue(&odd), ECHO_VIP).await.is_err());
    let client = world.client();
    for place in ["10.96.105.179:81", "10.1.2.3:80", "unknown.host:80"] {
        let error = world.tunnel_as(&client, place).await.unwrap_err();
        assert!(error.contains("503"), "{place}: {error}");
    }
}

/// The echo's cluster with this upstream HTTP.
fn upstream(cluster: &mut Cluster, protocol: up::UpstreamProtocolOptions) {
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(protocol),
        ..Default::default()
    };
    let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let any = Any {
        type_url: format!("type.googleapis.com/{key}"),
        value: options.encode_to_vec(),
    };
    let options = &mut cluster.typed_extension_protocol_options;
    options.insert(key.into(), any);
}

fn to_http2(cluster: &mut Cluster) {
    let protocol = up::explicit_http_config::ProtocolConfig::Http2ProtocolOptions;
    let explicit = up::ExplicitHttpConfig {
        protocol_config: Some(protocol(Default::default())),
    };
    upstream(
        cluster,
        up::UpstreamProtocolOptions::ExplicitHttpConfig(explicit),
    );
}

fn as_the_client(cluster: &mut Cluster) {
    let downstream = up::UseDownstreamHttpConfig {
        http2_protocol_options: Some(Default::default()),
        ..Default::default()
    };
    upstream(
        cluster,
        up::UpstreamProtocolOptions::UseDownstreamProtocolConfig(downstream),
    );
}

/// Trailers show that the endpoint is spoken to in HTTP/2 as well.
#[tokio::test]
async fn http2_and_trailers_pass_through() {
    for cluster in [to_http2, as_the_client] {
        http2_passes_through(cluster).await;
    }
}

async fn http2_passes_through(cluster: fn(&mut Cluster)) {
    let world = World::new(Changes {
        chain: Some(open),
        cluster: Some(cluster),
        ..Changes::default()
    })
    .await;
    let stream = world.tunnel(ECHO_VIP).await;
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    drop(world.proxy.shutdown.spawn_aside(connection));
    for _ in 0..3 {
        use http_body_util::BodyExt;
        let trailers =
            http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "5".parse().unwrap())]);
        let body = http_body_util::Full::new(bytes::Bytes::from_static(b"hello"));
        let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
        let request =
            http::Request::post("http://echo.app/s/m").header("content-type", "application/grpc");
        let got = answer(
            sender
                .send_request(request.body(body).unwrap())
                .await
                .unwrap(),
        )
        .await;
        assert_eq!((got.status, got.body.as_str()), (200, "POST /s/m hello"));
        assert_eq!(got.trailers.unwrap()["grpc-status"], "5");
    }
    drop(sender);
    let metrics = world.metrics();
    assert!(metrics.contains("request_protocol=\"grpc\""), "{metrics}");
    assert!(metrics.contains("grpc_response_status=\"5\""), "{metrics}");
}

#[tokio::test]
async fn a_retry_hides_an_endpoint_without_an_application() {
    let world = World::new(Changes {
        chain: Some(open),
        endpoints: Some(vec!["127.0.0.3:8080", "127.0.0.1:8080"]),
        ..Changes::default()
    })
    .await;
    for _ in 0..20 {
        let got = world.send(request("PUT", "/", &[], "body")).await;
        assert_eq!((got.status, got.body.as_str()), (200, "PUT / body"));
    }
}

#[tokio::test]
async fn a_retried_body_is_sent_again_in_full() {
    let world = World::new(Changes {
        chain: Some(|manager| {
            open(manager);
            action(manager).retry_policy.as_mut().unwrap().retry_on = "5xx".into();
        }),
        ..Changes::default()
    })
    .await;
    let got = world
        .send(request("POST", "/fail-once", &[], "the body"))
        .await;
    assert_eq!(
        (got.status, got.body.as_str()),
        (200, "POST /fail-once the body")
    );
    assert_eq!(world.seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn failures_have_envoys_words() {
    let with_timeout = |manager: &mut HttpConnectionManager| {
        open(manager);
        action(manager).timeout = Some(ProtoDuration {
            seconds: 0,
            nanos: 50_000_000,
        });
    };
    let world = World::new(Changes {
        chain: Some(with_timeout),
        ..Changes::default()
    })
    .await;
    let late = world.send(get("/never", &[])).await;
    assert_eq!(
        (late.status, late.body.as_str()),
        (504, "upstream request timeout")
    );
    // From here on no clock may interfere.
    let without = open;
    world.push(&Changes {
        chain: Some(without),
        ..Changes::default()
    });
    let reset = world.send(get("/reset", &[])).await;
    assert_eq!(reset.status, 503);
    assert!(
        reset.body.ends_with("connection termination"),
        "{}",
        reset.body
    );
    world.push(&Changes {
        chain: Some(without),
        endpoints: Some(vec![]),
        ..Changes::default()
    });
    let none = world.send(get("/", &[])).await;
    assert_eq!(
        (none.status, none.body.as_str()),
        (503, "no healthy upstream")
    );
    world.push(&Changes {
        chain: Some(without),
        endpoints: Some(vec!["127.0.0.3:8080"]),
        ..Changes::default()
    });
    let refused = world.send(get("/", &[])).await;
    assert_eq!(refused.status, 503);
    assert!(
        refused.body.contains("tunnel refused with status 503"),
        "{}",
        refused.body
    );
    world.push(&Changes {
        chain: Some(|manager| {
            open(manager);
            let unknown = rt::route_action::ClusterSpecifier::Cluster("not there".into());
            action(manager).cluster_specifier = Some(unknown);
            let Some(RouteSpecifier::RouteConfig(config)) = &mut manager.route_specifier else {
                panic!()
            };
            config.virtual_hosts[0].domains = vec!["echo.app".into()];
        }),
        ..Changes::default()
    });
    assert_eq!(world.send(get("/", &[])).await.status, 500);
    let elsewhere = http::Request::get("/")
        .header("host", "other")
        .body(Default::default())
        .unwrap();
    assert_eq!(world.send(elsewhere).await.status, 404);
    let log = world.log();
    for flag in [
        " 504 UT upstream_response_timeout ",
        " 503 UC ",
        " 503 UH no_healthy_upstream ",
        " 503 UF ",
        " 500 NC cluster_not_found ",
        " 404 NR route_not_found ",
    ] {
        assert!(log.contains(flag), "{flag} is not in {log}");
    }
}

#[tokio::test]
async fn a_push_acts_at_the_next_request_of_a_held_connection() {
    let world = World::new(Changes::default()).await;
    let stream = world.tunnel(ECHO_VIP).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    drop(world.proxy.shutdown.spawn_aside(connection));
    let delete = || request("DELETE", "/", &[], "");
    assert_eq!(
        answer(sender.send_request(delete()).await.unwrap())
            .await
            .status,
        403
    );
    world.push(&Changes {
        chain: Some(open),
        ..Changes::default()
    });
    sender.ready().await.unwrap();
    assert_eq!(
        answer(sender.send_request(delete()).await.unwrap())
            .await
            .status,
        200
    );
    world.push(&Changes::default());
    sender.ready().await.unwrap();
    assert_eq!(
        answer(sender.send_request(delete()).await.unwrap())
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn mirrored_requests_arrive_and_do_not_answer() {
    let world = World::new(Changes {
        chain: Some(|manager| {
            open(manager);
            let cluster = super::tests::world::ECHO.into();
            let mirror = rt::route_action::RequestMirrorPolicy {
                cluster,
                ..Default::default()
            };
            action(manager).request_mirror_policies = vec![mirror];
        }),
        ..Changes::default()
    })
    .await;
    let got = world.send(request("POST", "/m", &[], "copy me")).await;
    assert_eq!(got.body, "POST /m copy me");
    let both = async {
        while world.seen.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), both)
        .await
        .unwrap();
    let hosts: Vec<_> = world
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|(_, _, h)| h["host"].clone())
        .collect();
    assert!(
        hosts.contains(&"echo.app-shadow".parse().unwrap()),
        "{hosts:?}"
    );
    // Of a large one there is no copy, which is told.
    let large = "x".repeat(crate::upload::RECORDED + 1).leak();
    let got = world.send(request("POST", "/m", &[], large)).await;
    assert_eq!(got.status, 200);
    let lost = "waypoint_mirrors_lost_total{destination_service=\"echo.app.svc.cluster.local\",reason=\"too_large\"} 1";
    telemetry::metrics_show(&world, |metrics| metrics.contains(lost)).await;
}

#[tokio::test]
async fn redirects_and_direct_answers_need_no_upstream() {
    let world = World::new(Changes {
        chain: Some(|manager| {
            open(manager);
            let first = &mut routes(manager)[0];
            first.r#match.as_mut().unwrap().headers.clear();
            first.action = Some(rt::route::Action::Redirect(rt::RedirectAction {
                response_code: 1,
                path_rewrite_specifier: Some(
                    rt::redirect_action::PathRewriteSpecifier::PathRedirect("/new".into()),
                ),
                ..Default::default()
            }));
            let body = core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineString("teapot".into())),
                ..Default::default()
            };
            routes(manager)[1].action = Some(rt::route::Action::DirectResponse(
                rt::DirectResponseAction {
                    status: 418,
                    body: Some(body),
                    ..Default::default()
                },
            ));
        }),
        ..Changes::default()
    })
    .await;
    let moved = world.send(get("/v1", &[])).await;
    assert_eq!(
        (moved.status, &moved.headers["location"]),
        (302, &"http://echo.app/new".parse().unwrap())
    );
    let direct = world.send(get("/", &[])).await;
    assert_eq!((direct.status, direct.body.as_str()), (418, "teapot"));
    let grpc = [("content-type", "application/grpc")];
    let direct = world.send(get("/", &grpc)).await;
    let header = |name: &str| direct.headers[name].to_str().unwrap();
    assert_eq!(
        (direct.status, header("grpc-status"), header("grpc-message")),
        (200, "2", "teapot")
    );
    assert!(world.seen.lock().unwrap().is_empty());
}

/// Takes the policies of the TCP chains away.
fn open_tcp(listener: &mut Listener) {
    for chain in &mut listener.filter_chains {
        chain.filters.retain(|filter| {
            let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
                return true;
            };
            !any.type_url.ends_with("network.rbac.v3.RBAC")
        });
    }
}

#[tokio::test]
async fn tcp_chains_carry_bytes_both_ways_and_half_closes() {
    let world = World::new(Changes {
        listener: Some(open_tcp),
        endpoints: Some(vec!["127.0.0.1:9090"]),
        ..Changes::default()
    })
    .await;
    let mut stream = world.tunnel(TCP_VIP).await;
    let sent: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    tokio::join!(writing, async { read.read_to_end(&mut got).await.unwrap() });
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
}

#[tokio::test]
async fn a_tcp_chain_that_allows_nobody_closes() {
    let world = World::new(Changes {
        endpoints: Some(vec!["127.0.0.1:9090"]),
        ..Changes::default()
    })
    .await;
    let mut stream = world.tunnel(TCP_VIP).await;
    let _ = stream.write_all(b"hello").await;
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got).await;
    assert!(got.is_empty());
    let log = world.log();
    assert!(
        log.contains("rbac_access_denied_matched_policy[none]"),
        "{log}"
    );
}

#[tokio::test]
async fn a_live_tcp_connection_is_cut_when_a_policy_forbids_it() {
    let endpoints = || Some(vec!["127.0.0.1:9090"]);
    let world = World::new(Changes {
        listener: Some(open_tcp),
        endpoints: endpoints(),
        ..Changes::default()
    })
    .await;
    let mut stream = world.tunnel(TCP_VIP).await;
    let mut got = [0; 5];
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut got).await.unwrap();
    world.push(&Changes {
        endpoints: endpoints(),
        ..Changes::default()
    });
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    let log = world.log();
    assert!(
        log.contains("rbac_access_denied_matched_policy[none]"),
        "{log}"
    );
}

#[tokio::test]
async fn a_protocol_where_the_server_speaks_first_is_taken_for_tcp() {
    let world = World::new(Changes {
        listener: Some(open_tcp),
        ..Changes::default()
    })
    .await;
    // A workload address of the capture: its chains are chosen by protocol. Nobody listens there, so the
    // TCP chain's record is the witness.
    let mut stream = world.tunnel("10.244.1.5:9090").await;
    let mut got = Vec::new();
    let _ = tokio::time::timeout(
        std::time::Duration::from_secs(60),
        stream.read_to_end(&mut got),
    )
    .await
    .unwrap();
    let log = world.log();
    assert!(log.contains(" encap "), "{log}");
}

async fn reaches(count: &std::sync::atomic::AtomicUsize, enough: usize) {
    while count.load(std::sync::atomic::Ordering::SeqCst) < enough {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refused_shape_is_nacked_by_ads_and_fails_no_request() {
    use crate::config::subscriptions;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    let world = Arc::new(
        World::new(Changes {
            chain: Some(open),
            ..Changes::default()
        })
        .await,
    );
    let tls = testkit::authority::tls(&world.ca, &["127.0.0.1"]).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ads = testkit::ads::Ads::start(listener, tls).unwrap();
    for (url, name, body) in world::resources(&Changes {
        chain: Some(open),
        ..Changes::default()
    }) {
        ads.set_bytes(&url, &name, body);
    }
    let channel = identity::grpc::channel(identity::grpc::GrpcConfig {
        address: format!("https://{address}"),
        root: identity::grpc::RootSource::Pem(world.ca.roots_pem().to_owned()),
        alt_hostname: None,
        token: identity::grpc::Token::None,
        cluster_id: String::new(),
        headers: Vec::new(),
        mark: None,
    })
    .unwrap();
    let client = xds::client::ClientConfig {
        node: Default::default(),
        subscriptions: subscriptions(),
        observer: Arc::new(()),
    };
    let (client, handle) = xds::client::Client::new(client, Box::new(world.config.clone()));
    world.config.connect(handle);
    drop(
        world
            .proxy
            .shutdown
            .spawn_aside(client.run(channel, Default::default())),
    );
    let limit = std::time::Duration::from_secs(60);
    tokio::task::block_in_place(|| ads.settled(1, limit)).unwrap();
    assert_eq!(ads.nacks(), vec![]);

    let (stop, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let traffic = {
        let (world, stop, served) = (world.clone(), stop.clone(), served.clone());
        world.clone().proxy.shutdown.spawn_aside(async move {
            let mut failed = Vec::new();
            while !stop.load(SeqCst) {
                let got = world.send(get("/steady", &[])).await;
                if got.status != 200 {
                    failed.push(got);
                }
                served.fetch_add(1, SeqCst);
            }
            failed
        })
    };
    let corpus = crate::envoy::tests::refusals::corpus();
    for (n, (refused, want)) in corpus.iter().enumerate() {
        ads.set_bytes(refused.type_url, refused.name, refused.body.clone());
        tokio::task::block_in_place(|| ads.settled(1, limit)).unwrap();
        let nacks = ads.nacks();
        assert_eq!(nacks.len(), n + 1, "{want}");
        assert_eq!(nacks[n].type_url, refused.type_url);
        assert_eq!(nacks[n].message, format!("{}: {want}", refused.name));
    }
    let enough = served.load(SeqCst) + 20;
    let goes_on = reaches(&served, enough);
    tokio::time::timeout(limit, goes_on).await.unwrap();
    stop.store(true, SeqCst);
    let failed = traffic.await.unwrap().unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn a_route_may_forbid_what_its_listener_allows() {
    let forbid = |manager: &mut HttpConnectionManager| {
        open(manager);
        manager.upgrade_configs = vec![websocket_upgrade()];
        action(manager).upgrade_configs = vec![rt::route_action::UpgradeConfig {
            upgrade_type: "websocket".into(),
            enabled: Some(BoolValue { value: false }),
            ..Default::default()
        }];
    };
    let world = World::new(Changes {
        chain: Some(forbid),
        ..Changes::default()
    })
    .await;
    let asks = [("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(world.send(get("/", &asks)).await.status, 403);
    assert!(world.seen.lock().unwrap().is_empty());
    assert_eq!(world.send(get("/", &[])).await.status, 200);
}

fn websocket_upgrade() -> UpgradeConfig {
    UpgradeConfig {
        upgrade_type: "websocket".into(),
        ..UpgradeConfig::default()
    }
}

#[tokio::test]
async fn a_get_keeps_a_body_of_unknown_length() {
    let world = World::new(Changes {
        chain: Some(open),
        ..Changes::default()
    })
    .await;
    let chunked = [("transfer-encoding", "chunked")];
    let got = world.send(request("GET", "/x", &chunked, "body")).await;
    assert_eq!((got.status, got.body.as_str()), (200, "GET /x body"));
}
