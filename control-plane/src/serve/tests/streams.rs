//! What subscribers see, and when.

use super::*;

#[tokio::test]
async fn a_ztunnel_sees_everything_and_follows_edits() {
    let mut plane = plane().await;
    let types = [type_url::ADDRESS, type_url::AUTHORIZATION];
    let mut subscriber = Subscriber::new(plane.token("zt1"), ztunnel(), &types)
        .await
        .unwrap();
    let first = subscriber.next().await;
    assert_eq!(first.type_url, type_url::ADDRESS);
    assert_eq!(
        names(&first),
        [
            "Kubernetes//Pod/app/echo",
            "Kubernetes//Pod/app/wp",
            "app/echo.app.svc.cluster.local",
            "app/wp.app.svc.cluster.local"
        ]
    );
    subscriber.answer(&first, None).await;
    let policies = subscriber.next().await;
    assert_eq!(
        (policies.type_url.as_str(), policies.resources.len()),
        (type_url::AUTHORIZATION, 0)
    );
    subscriber.answer(&policies, None).await;
    plane.edit("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: none, namespace: app}, spec: {}}");
    let push = subscriber.next().await;
    assert_eq!(
        (push.type_url.as_str(), names(&push)),
        (type_url::AUTHORIZATION, vec!["app/none"])
    );
    subscriber.answer(&push, Some("app/none: no thanks")).await;
    plane.edit("{apiVersion: v1, kind: Pod, metadata: {name: echo, namespace: app, labels: {app: echo}}, spec: {nodeName: node2, serviceAccountName: echo}, status: {podIPs: [{ip: 10.0.0.1}]}}");
    let push = subscriber.next().await;
    assert_eq!(
        names(&push),
        ["Kubernetes//Pod/app/echo"],
        "only what changed"
    );
    let status = plane.status.to_json();
    assert!(status.contains("app/none: no thanks"), "{status}");
    subscriber.answer(&push, None).await;
    // A newer version is taken; the subscriber is asked again so that its ACK has arrived for sure.
    plane.edit("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: none, namespace: app}, spec: {action: DENY}}");
    let push = subscriber.next().await;
    subscriber.answer(&push, None).await;
    plane.edit("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: more, namespace: app}, spec: {}}");
    subscriber.next().await;
    let status = plane.status.to_json();
    assert!(!status.contains("no thanks"), "{status}");
    assert!(status.contains(&ztunnel().id), "{status}");
    drop(subscriber);
    while plane.status.to_json().contains(&ztunnel().id) {
        tokio::task::yield_now().await;
    }
    plane.shutdown.force();
}

#[tokio::test]
async fn a_waypoint_sees_its_own_configuration() {
    let mut plane = plane().await;
    let types = [type_url::CLUSTER, type_url::LISTENER];
    let mut subscriber = Subscriber::new(plane.token("wp"), waypoint("app"), &types)
        .await
        .unwrap();
    let clusters = subscriber.next().await;
    assert_eq!(clusters.type_url, type_url::CLUSTER);
    assert!(
        names(&clusters).contains(&"inbound-vip|80|http|echo.app.svc.cluster.local"),
        "{:?}",
        names(&clusters)
    );
    subscriber.answer(&clusters, None).await;
    let listeners = subscriber.next().await;
    assert_eq!(
        names(&listeners),
        [
            "connect_originate",
            "connect_terminate",
            "inner_connect_originate",
            "main_internal",
            "outer_connect_originate"
        ]
    );
    subscriber.answer(&listeners, None).await;
    plane.edit("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: none, namespace: app}, spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}]}}");
    assert_eq!(
        names(&subscriber.next().await),
        ["main_internal"],
        "only what changed"
    );
    plane.shutdown.force();
}

#[tokio::test]
async fn a_waypoint_of_another_namespace_is_refused() {
    let plane = plane().await;
    let mut subscriber =
        Subscriber::new(plane.token("wp"), waypoint("other"), &[type_url::CLUSTER])
            .await
            .unwrap();
    let refused = subscriber.pushes.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.message(),
        "node metadata says namespace other, but the caller is spiffe://cluster.local/ns/app/sa/wp"
    );
    plane.shutdown.force();
}

#[tokio::test]
async fn streams_end_when_drained() {
    let plane = plane().await;
    let mut subscriber = Subscriber::new(plane.token("zt1"), ztunnel(), &[type_url::ADDRESS])
        .await
        .unwrap();
    subscriber.next().await;
    plane.shutdown.drain();
    let ended = subscriber.pushes.message().await.unwrap_err();
    assert_eq!(
        (ended.code(), ended.message()),
        (Code::Unavailable, "the control plane is stopping")
    );
}
