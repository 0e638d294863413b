//! HTTPRoutes.
//! Long because all its tables write and read a route in the same few ways.

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::route::v3::{
    RouteAction,
    redirect_action::PathRewriteSpecifier,
    route::Action,
    route_action::{ClusterSpecifier, HostRewriteSpecifier},
    route_match::PathSpecifier,
    weighted_cluster::cluster_weight,
};

use super::*;

fn route(name: &str, parent: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}, namespace: app}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, name: s{parent}}}], rules: [{rules}]}}}}\n---\n"
    )
}

fn rules(rules: &str) -> Result {
    waypoint(&route("r", ", port: 80", rules))
}

const TO_S: &str = "backendRefs: [{name: s, port: 80}]";

fn forwarded(action: &Option<Action>) -> &RouteAction {
    match action {
        Some(Action::Route(action)) => action,
        other => panic!("forwarded: {other:?}"),
    }
}

fn status(action: &Option<Action>) -> Option<u32> {
    match action {
        Some(Action::DirectResponse(response)) => Some(response.status),
        _ => None,
    }
}

/// Clusters with weights of the only rule.
fn clusters(result: &Result) -> Vec<(String, u32)> {
    match &forwarded(&result.routes(S80)[0].action).cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![(name.clone(), 1)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted
            .clusters
            .iter()
            .map(|c| (c.name.clone(), c.weight.map_or(0, |w| w.value)))
            .collect(),
        other => panic!("clusters: {other:?}"),
    }
}

#[test]
fn the_most_specific_match_goes_first() {
    let wants = [
        "path: {type: RegularExpression, value: '/r.*'}",
        "path: {value: /}",
        "path: {value: /long/prefix}",
        "path: {value: /}, headers: [{name: a, value: b}]",
        "path: {value: /}, method: GET",
        "path: {type: Exact, value: /e}",
        "path: {value: /}, queryParams: [{name: q, value: v}]",
    ];
    let list: Vec<String> = wants
        .iter()
        .map(|want| format!("{{matches: [{{{want}}}], {TO_S}}}"))
        .collect();
    let names: Vec<String> = rules(&list.join(", "))
        .routes(S80)
        .into_iter()
        .map(|route| route.name)
        .collect();
    assert_eq!(
        names,
        [
            "app.r.5", "app.r.2", "app.r.0", "app.r.4", "app.r.3", "app.r.6", "app.r.1"
        ]
    );
}

#[test]
fn matches_have_envoys_form() {
    let path = |want: &str| {
        let result = rules(&format!("{{matches: [{{path: {{{want}}}}}], {TO_S}}}"));
        result
            .routes(S80)
            .remove(0)
            .r#match
            .expect("a match")
            .path_specifier
    };
    assert_eq!(path("value: /"), Some(PathSpecifier::Prefix("/".into())));
    assert_eq!(
        path("value: /a/"),
        Some(PathSpecifier::PathSeparatedPrefix("/a".into()))
    );
    assert_eq!(
        path("type: Exact, value: /a"),
        Some(PathSpecifier::Path("/a".into()))
    );
    let result = rules(&format!(
        "{{matches: [{{method: PUT, headers: [{{name: X-User, value: a}}]}}], {TO_S}}}"
    ));
    let wanted = result.routes(S80).remove(0).r#match.expect("a match");
    let names: Vec<&str> = wanted
        .headers
        .iter()
        .map(|header| header.name.as_str())
        .collect();
    assert_eq!(names, ["x-user", ":method"]);
}

#[test]
fn a_service_without_route_has_a_default_one_and_with_a_route_only_its_rules() {
    assert_eq!(waypoint("").routes(S80)[0].name, "default");
    assert_eq!(
        rules(&format!(
            "{{matches: [{{path: {{value: /only}}}}], {TO_S}}}"
        ))
        .routes(S80)
        .len(),
        1
    );
}

/// The Gateway API: without a port a route is for all ports, whatever others there are.
#[test]
fn routes_for_a_port_and_for_all_ports_count_together() {
    let rule = |path: &str| format!("{{matches: [{{path: {{value: {path}}}}}], {TO_S}}}");
    let all = route("all", "", &rule("/all/longer"));
    let number = route("number", ", port: 80", &rule("/number"));
    let name = route("name", ", sectionName: http", &rule("/n"));
    let other = route("other", ", sectionName: http, port: 70", &rule("/o"));
    let udp = route("udp", ", sectionName: dns", &rule("/u"));
    let result = waypoint(&[all, number, name, other, udp].concat());
    let names = |chain: &str| -> Vec<String> {
        result
            .routes(chain)
            .into_iter()
            .map(|route| route.name)
            .collect()
    };
    assert_eq!(names(S80), ["app.all.0", "app.number.0", "app.name.0"]);
    assert_eq!(
        names("inbound-vip|70|http|s.app.svc.cluster.local"),
        ["app.all.0"]
    );
}

#[test]
fn a_rule_that_has_a_name_is_called_so_and_operations_tell_the_backend() {
    let rule = "{name: mine, matches: [{path: {type: RegularExpression, value: '/r+'}}], backendRefs: [{name: s, port: 70}]}";
    let result = waypoint(&route("r", "", rule));
    let route = result.routes(S80).remove(0);
    assert_eq!(route.name, "mine");
    assert_eq!(
        route.decorator.expect("an operation").operation,
        "s.app.svc.cluster.local:70/r+"
    );
    let split = "{backendRefs: [{name: s, port: 70}, {name: s, port: 80}]}";
    let operation = |parent: &str| {
        let result = waypoint(&self::route("r", parent, split));
        let route = result.routes(S80).remove(0);
        route.decorator.expect("an operation").operation
    };
    assert_eq!(operation(""), "app~s.app.svc.cluster.local:80/*");
    assert_eq!(
        operation(", port: 80"),
        "app~80~s.app.svc.cluster.local:80/*"
    );
}

#[test]
fn routes_of_other_parents_and_namespaces_do_not_count() {
    let consumer = route("r", ", namespace: app", &format!("{{{TO_S}}}"))
        .replace("name: r, namespace: app", "name: r, namespace: other");
    let gateway =
        route("r", "", &format!("{{{TO_S}}}")).replace("group: '', kind: Service", "kind: Gateway");
    for more in [consumer, gateway] {
        assert_eq!(waypoint(&more).routes(S80)[0].name, "default", "{more}");
    }
}

#[test]
fn bad_backends_answer_500_and_are_reported() {
    let unknown = ("UnknownService".to_owned(), 10);
    let good = (S80.to_owned(), 90);
    let result = rules(
        "{backendRefs: [{name: s, port: 80, weight: 90}, {name: gone, port: 80, weight: 10}]}",
    );
    assert_eq!(clusters(&result), [good, unknown]);
    assert_eq!(
        result.faults,
        [
            "HTTPRoute app/r: spec.rules[0]: backend gone: there is no such Service; its requests are answered with 500"
        ]
    );
    for (rule, why) in [
        (
            "{backendRefs: [{name: gone, port: 80}]}",
            "backend gone: there is no such Service; its requests are answered with 500",
        ),
        (
            "{backendRefs: [{name: s, port: 81}]}",
            "backend s: it has no port 81; its requests are answered with 500",
        ),
        (
            "{backendRefs: [{name: s, port: 80, namespace: other}]}",
            "backend s: no ReferenceGrant in namespace other allows this reference; its requests are answered with 500",
        ),
        (
            "{backendRefs: [{name: s, kind: Bucket}]}",
            "backend s: kind Bucket is not supported; its requests are answered with 500",
        ),
        (
            "{backendRefs: [{name: s, port: 80, weight: 0}]}",
            "no backend has a weight above 0; this rule answers 500",
        ),
        (
            "{}",
            "no backend has a weight above 0; this rule answers 500",
        ),
        (
            "{filters: [{type: ExtensionRef}], backendRefs: [{name: s, port: 80}]}",
            "filter ExtensionRef is not supported; this rule answers 500",
        ),
        (
            "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: Host, value: x}]}}], backendRefs: [{name: s, port: 80}]}",
            "filter RequestHeaderModifier for Host other than `set` is not supported; this rule answers 500",
        ),
        (
            "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [hOst]}}], backendRefs: [{name: s, port: 80}]}",
            "filter RequestHeaderModifier for Host other than `set` is not supported; this rule answers 500",
        ),
        (
            "{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: host, value: x}]}}], backendRefs: [{name: s, port: 80}]}",
            "filter ResponseHeaderModifier for Host other than `set` is not supported; this rule answers 500",
        ),
        (
            "{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}], backendRefs: [{name: s, port: 80}]}",
            "ReplacePrefixMatch needs a PathPrefix match; this rule answers 500",
        ),
    ] {
        let result = rules(rule);
        assert_eq!(status(&result.routes(S80)[0].action), Some(500), "{rule}");
        assert_eq!(
            result.faults,
            [format!("HTTPRoute app/r: spec.rules[0]: {why}")],
            "{rule}"
        );
    }
}

#[test]
fn weights_of_zero_are_left_out() {
    let result =
        rules("{backendRefs: [{name: s, port: 80, weight: 0}, {name: s, port: 90, weight: 3}]}");
    assert_eq!(clusters(&result), [(S90.to_owned(), 1)]);
}

#[test]
fn redirects_say_where_to() {
    let redirect = |redirect: &str| {
        let result = rules(&format!(
            "{{matches: [{{path: {{value: /old}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]}}"
        ));
        match result.routes(S80).remove(0).action {
            Some(Action::Redirect(action)) => action,
            other => panic!("a redirect: {other:?}"),
        }
    };
    let codes = [(301, 0), (302, 1), (303, 2), (307, 3), (308, 4)];
    for (code, envoy) in codes {
        assert_eq!(
            redirect(&format!("statusCode: {code}")).response_code,
            envoy
        );
    }
    assert_eq!(
        redirect("hostname: a.example").response_code,
        1,
        "302 when it says nothing"
    );
    assert_eq!(
        redirect("scheme: https").port_redirect,
        0,
        "the scheme's own port goes without saying"
    );
    assert_eq!(
        redirect("port: 80").port_redirect,
        80,
        "the client may have come to another"
    );
    assert_eq!(redirect("scheme: https, port: 443").port_redirect, 443);
    assert_eq!(redirect("scheme: https, port: 8443").port_redirect, 8443);
    assert_eq!(redirect("port: 443").port_redirect, 443);
    let on_70 = route(
        "r",
        "",
        "{filters: [{type: RequestRedirect, requestRedirect: {hostname: a.example}}]}, \
         {filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}",
    );
    let ports = |chain: &str| -> Vec<u32> {
        let routes = waypoint(&on_70).routes(chain).into_iter();
        routes
            .map(|route| match route.action {
                Some(Action::Redirect(action)) => action.port_redirect,
                other => panic!("a redirect: {other:?}"),
            })
            .collect()
    };
    assert_eq!(
        ports("inbound-vip|70|http|s.app.svc.cluster.local"),
        [70, 0],
        "the port stays while the scheme does"
    );
    assert_eq!(ports(S80), [0, 0]);
    let path = |path: &str| redirect(&format!("path: {{{path}}}")).path_rewrite_specifier;
    assert_eq!(
        path("type: ReplaceFullPath, replaceFullPath: /new"),
        Some(PathRewriteSpecifier::PathRedirect("/new".into()))
    );
    assert_eq!(
        path("type: ReplacePrefixMatch, replacePrefixMatch: /new"),
        Some(PathRewriteSpecifier::PrefixRewrite("/new".into()))
    );
    assert!(matches!(
        path("type: ReplacePrefixMatch, replacePrefixMatch: /"),
        Some(PathRewriteSpecifier::RegexRewrite(_))
    ));
}

#[test]
fn redirects_replace_prefixes_as_rewrites_do() {
    let prefix = |matched: &str, new: &str| {
        let result = rules(&format!(
            "{{matches: [{{path: {{value: {matched}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: {new}}}}}}}]}}"
        ));
        match result.routes(S80).remove(0).action {
            Some(Action::Redirect(action)) => action.path_rewrite_specifier,
            other => panic!("a redirect: {other:?}"),
        }
    };
    for (matched, new, expected) in [
        ("/", "/xyz", "/xyz/"),
        ("/foo", "/xyz/", "/xyz"),
        ("/foo/", "/xyz", "/xyz"),
    ] {
        assert_eq!(
            prefix(matched, new),
            Some(PathRewriteSpecifier::PrefixRewrite(expected.into())),
            "{matched} to {new}"
        );
    }
    assert_eq!(
        prefix("/", "/"),
        Some(PathRewriteSpecifier::PathRedirect(String::new())),
        "nothing changes"
    );
}

/// What a path becomes by a rewrite, worked out as Envoy does it.
fn rewritten(prefix: &str, replacement: &str, path: &str) -> String {
    let result = rules(&format!(
        "{{matches: [{{path: {{value: {prefix}}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{{replacement}}}}}}}], {TO_S}}}"
    ));
    let routes = result.routes(S80);
    let action = forwarded(&routes[0].action);
    if let Some(rewrite) = &action.regex_rewrite {
        let pattern = rewrite.pattern.as_ref().expect("a pattern").regex.clone();
        // `/.*` and `^/prefix(/?)(.*)` are the two that we write.
        return match pattern.strip_prefix('^') {
            None => rewrite.substitution.clone(),
            Some(_) => rewrite.substitution.replace(
                r"\2",
                path[prefix.trim_end_matches('/').len()..].trim_start_matches('/'),
            ),
        };
    }
    if action.prefix_rewrite.is_empty() {
        return path.into();
    }
    let matched = match &routes[0].r#match.as_ref().expect("a match").path_specifier {
        Some(PathSpecifier::Prefix(prefix) | PathSpecifier::PathSeparatedPrefix(prefix)) => {
            prefix.len()
        }
        other => panic!("a prefix: {other:?}"),
    };
    format!("{}{}", action.prefix_rewrite, &path[matched..])
}

#[test]
fn prefixes_are_replaced_as_the_gateway_api_says() {
    let prefix = |new: &str| format!("type: ReplacePrefixMatch, replacePrefixMatch: {new}");
    for (matched, new, path, expected) in [
        ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo", "/"),
        ("/", "/xyz", "/bar", "/xyz/bar"),
        ("/", "/", "/bar", "/bar"),
    ] {
        assert_eq!(
            rewritten(matched, &prefix(new), path),
            expected,
            "{matched} to {new}"
        );
    }
    assert_eq!(
        rewritten(
            "/foo",
            "type: ReplaceFullPath, replaceFullPath: /all",
            "/foo/x"
        ),
        "/all"
    );
}

#[test]
fn retries_and_timeouts() {
    let action = |rest: &str| {
        let result = rules(&format!("{{{TO_S}, {rest}}}"));
        forwarded(&result.routes(S80)[0].action).clone()
    };
    let default = action("name: x");
    let policy = default.retry_policy.expect("retries by default");
    assert_eq!(policy.num_retries.map(|n| n.value), Some(2));
    assert_eq!(default.timeout.map(|time| time.seconds), Some(0), "none");
    assert!(action("retry: {attempts: 0}").retry_policy.is_none());
    let once = action("retry: {attempts: 0}, timeouts: {backendRequest: 2s}");
    let once = once.retry_policy.expect("a policy for its time");
    assert_eq!(
        (
            once.num_retries.map(|n| n.value),
            once.retry_on.as_str(),
            once.per_try_timeout.map(|time| time.seconds)
        ),
        (Some(0), "", Some(2))
    );
    let policy = action("retry: {attempts: 5, codes: [500, 503], backoff: 100ms}")
        .retry_policy
        .expect("retries");
    assert_eq!(
        (
            policy.num_retries.map(|n| n.value),
            policy.retriable_status_codes
        ),
        (Some(5), vec![500, 503])
    );
    assert_eq!(
        policy
            .retry_back_off
            .and_then(|b| b.base_interval)
            .map(|b| b.nanos),
        Some(100_000_000)
    );
    let timed = action("timeouts: {request: 10s, backendRequest: 2s}");
    assert_eq!(timed.timeout.map(|time| time.seconds), Some(10));
    assert_eq!(
        timed
            .retry_policy
            .and_then(|policy| policy.per_try_timeout)
            .map(|time| time.seconds),
        Some(2)
    );
}

#[test]
fn mirrors_have_their_share() {
    let share = |share: &str| {
        let result = rules(&format!(
            "{{filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: s, port: 80}}{share}}}}}], {TO_S}}}"
        ));
        let action = forwarded(&result.routes(S80)[0].action).clone();
        let mirror = action.request_mirror_policies.into_iter().next();
        mirror
            .and_then(|mirror| mirror.runtime_fraction)
            .and_then(|fraction| fraction.default_value)
            .map(|fraction| fraction.numerator)
    };
    assert_eq!(share(""), Some(100), "of a hundred");
    assert_eq!(share(", percent: 25"), Some(250_000));
    assert_eq!(share(", percent: 0"), None);
    assert_eq!(
        share(", fraction: {numerator: 1, denominator: 3}"),
        Some(333_333)
    );
}

#[test]
fn header_changes_keep_their_meaning() {
    let result = rules(&format!(
        "{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: a, value: '5%'}}], add: [{{name: b, value: x}}], remove: [c]}}}}, {{type: ResponseHeaderModifier, responseHeaderModifier: {{remove: [server]}}}}], {TO_S}}}"
    ));
    let route = result.routes(S80).remove(0);
    let added: Vec<(String, i32)> = route
        .request_headers_to_add
        .into_iter()
        .map(|option| {
            (
                option.header.map(|h| h.value).unwrap_or_default(),
                option.append_action,
            )
        })
        .collect();
    assert_eq!(
        added,
        [("5%%".to_owned(), 2), ("x".to_owned(), 0)],
        "a percent sign is no operator"
    );
    assert_eq!(
        (
            route.request_headers_to_remove,
            route.response_headers_to_remove
        ),
        (vec!["c".into()], vec!["server".into()])
    );
}

/// The Gateway API: a backend's filters act after the rule's.
#[test]
fn what_a_backend_removes_is_gone() {
    let rule = |more: &str| {
        let filter = |what: &str| {
            format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{what}}}}}")
        };
        let result = rules(&format!(
            "{{filters: [{}], backendRefs: [{{name: s, port: 80, filters: [{}]}}{more}]}}",
            filter("set: [{name: X-A, value: a}, {name: x-b, value: b}], remove: [x-c]"),
            filter("remove: [x-a], set: [{name: x-b, value: own}]"),
        ));
        result.routes(S80).remove(0)
    };
    let added = |list: &[HeaderValueOption]| -> Vec<String> {
        let headers = list.iter().filter_map(|option| option.header.as_ref());
        headers
            .map(|header| format!("{}={}", header.key, header.value))
            .collect()
    };
    let single = rule("");
    assert_eq!(added(&single.request_headers_to_add), ["x-b=b", "x-b=own"]);
    assert_eq!(single.request_headers_to_remove, ["x-c", "x-a"]);
    let several = rule(", {name: s, port: 70}");
    assert!(several.request_headers_to_add.is_empty());
    let Some(ClusterSpecifier::WeightedClusters(weighted)) =
        &forwarded(&several.action).cluster_specifier
    else {
        panic!("two backends have weights")
    };
    let lists = weighted.clusters.iter();
    let lists: Vec<_> = lists
        .map(|one| {
            let removed = one.request_headers_to_remove.join(",");
            (added(&one.request_headers_to_add).join(","), removed)
        })
        .collect();
    let expected = [("x-b=b,x-b=own", "x-c,x-a"), ("x-a=a,x-b=b", "x-c")];
    assert_eq!(lists, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[test]
fn a_host_header_that_is_set_is_a_rewrite() {
    const SET: &str = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: other.example}, {name: a, value: b}]}}";
    let rule = |filters: &str| {
        let result = rules(&format!("{{filters: [{filters}], {TO_S}}}"));
        assert!(result.faults.is_empty(), "{:?}", result.faults);
        let route = result.routes(S80).remove(0);
        assert_eq!(route.request_headers_to_add.len(), 1, "only `a`");
        forwarded(&route.action).host_rewrite_specifier.clone()
    };
    let host = |name: &str| Some(HostRewriteSpecifier::HostRewriteLiteral(name.into()));
    assert_eq!(rule(SET), host("other.example"));
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: rewritten.example}}";
    assert_eq!(
        rule(&format!("{SET}, {rewrite}")),
        host("rewritten.example")
    );
    let result = rules(&format!(
        "{{backendRefs: [{{name: s, port: 80, filters: [{SET}]}}]}}"
    ));
    let routes = result.routes(S80);
    assert_eq!(
        forwarded(&routes[0].action).host_rewrite_specifier,
        host("other.example"),
        "what a single backend changes, the rule changes"
    );
    assert_eq!(routes[0].request_headers_to_add.len(), 1);
    let result = rules(&format!(
        "{{backendRefs: [{{name: s, port: 80, filters: [{SET}]}}, {{name: s, port: 70}}]}}"
    ));
    let routes = result.routes(S80);
    assert!(routes[0].request_headers_to_add.is_empty());
    let Some(ClusterSpecifier::WeightedClusters(weighted)) =
        &forwarded(&routes[0].action).cluster_specifier
    else {
        panic!("two backends have weights")
    };
    assert_eq!(
        weighted.clusters[0].host_rewrite_specifier,
        Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(
            "other.example".into()
        ))
    );
}

#[test]
fn of_several_entries_with_one_name_the_first_counts() {
    let result = rules(&format!(
        "{{matches: [{{headers: [{{name: X-A, value: '1'}}, {{name: x-a, value: '2'}}], queryParams: [{{name: q, value: '1'}}, {{name: q, value: '2'}}, {{name: Q, value: '3'}}]}}], \
         filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: B, value: '1'}}, {{name: b, value: '2'}}]}}}}], {TO_S}}}"
    ));
    let route = result.routes(S80).remove(0);
    let wanted = route.r#match.expect("a match");
    assert_eq!(
        (wanted.headers.len(), wanted.query_parameters.len()),
        (1, 2)
    );
    let values: Vec<String> = route
        .request_headers_to_add
        .into_iter()
        .filter_map(|option| option.header)
        .map(|header| format!("{}={}", header.key, header.value))
        .collect();
    assert_eq!(values, ["b=1"]);
}

#[test]
fn a_backend_of_another_namespace_needs_a_grant_there_unless_it_is_the_parent() {
    let other = "{apiVersion: v1, kind: Service, metadata: {name: o, namespace: other}, spec: {clusterIP: 10.1.0.3, ports: [{name: http, port: 80}]}}\n---\n";
    let to_o = route(
        "r",
        "",
        "{backendRefs: [{name: o, namespace: other, port: 80}]}",
    );
    let grant = |from: &str, to: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {{name: g, namespace: other}}, \
             spec: {{from: [{from}], to: [{{group: '', {to}}}]}}}}\n---\n"
        )
    };
    let refused = |more: &str| {
        let result = waypoint(&format!("{other}{to_o}{more}"));
        status(&result.routes(S80)[0].action) == Some(500)
    };
    let from = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: app}";
    assert!(refused(""));
    assert!(!refused(&grant(from, "kind: Service")));
    assert!(!refused(&grant(from, "kind: Service, name: o")));
    for (from, to) in [
        (from, "kind: Service, name: p"),
        (from, "kind: Secret"),
        (&from.replace("HTTPRoute", "GRPCRoute"), "kind: Service"),
        (&from.replace("app", "apps"), "kind: Service"),
        (
            &from.replace("gateway.networking.k8s.io", "''"),
            "kind: Service",
        ),
    ] {
        assert!(refused(&grant(from, to)), "{from} {to}");
    }
    let elsewhere = grant(from, "kind: Service").replace("namespace: other}", "namespace: app}");
    assert!(refused(&elsewhere), "a grant speaks for its own namespace");
    // Nor does it help to name `o` as a parent beside: anybody can, and nothing of `o` is sent this way.
    let beside = to_o.replace(
        "name: s}",
        "name: s}, {group: '', kind: Service, name: o, namespace: other}",
    );
    assert_ne!(beside, to_o);
    let result = waypoint(&format!("{other}{beside}"));
    assert_eq!(status(&result.routes(S80)[0].action), Some(500));
    // `o` is served by the waypoint of `app`, where the route stands.
    let labels = "namespace: other, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: app}}";
    let own = format!(
        "{}{}{}",
        BASE.replace(
            "protocol: HBONE}",
            "protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}"
        ),
        other.replace("namespace: other}", labels),
        to_o.replace("name: s}", "name: o, namespace: other}"),
    );
    let result = waypoint(&own);
    let routes = result.routes("inbound-vip|80|http|o.other.svc.cluster.local");
    assert_eq!(routes[0].name, "app.r.0");
    assert_eq!(status(&routes[0].action), None);
    assert_eq!(result.faults, [""; 0]);
}

#[test]
fn external_names_are_no_backends() {
    let external = "{apiVersion: v1, kind: Service, metadata: {name: e, namespace: app}, spec: {type: ExternalName, ports: [{port: 80}]}}\n---\n";
    let to = route("r", "", "{backendRefs: [{name: e, port: 80}]}");
    let result = waypoint(&format!("{external}{to}"));
    assert_eq!(status(&result.routes(S80)[0].action), Some(500));
    assert_eq!(
        result.faults,
        [
            "HTTPRoute app/r: spec.rules[0]: backend e: a Service of type ExternalName is no backend; its requests are answered with 500"
        ]
    );
}

#[test]
fn cross_origin_policies_have_envoys_form() {
    use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
    let policy = |cors: &str| {
        let result = rules(&format!(
            "{{filters: [{{type: CORS, cors: {{{cors}}}}}], {TO_S}}}"
        ));
        assert_eq!(result.faults, [""; 0]);
        let mut route = result.routes(S80).remove(0);
        let any = route
            .typed_per_filter_config
            .remove("envoy.filters.http.cors");
        unpack::<CorsPolicy>(&any.expect("a policy"))
    };
    let full = policy(
        "allowOrigins: ['https://a.example', 'https://*.b.example'], allowCredentials: true, allowMethods: [GET, PUT], allowHeaders: [x-a, x-b], exposeHeaders: [x-c], maxAge: 60",
    );
    let origins: Vec<String> = full
        .allow_origin_string_match
        .iter()
        .map(|origin| format!("{:?}", origin.match_pattern))
        .collect();
    assert!(
        origins[0].contains(r#"Exact("https://a.example")"#),
        "{origins:?}"
    );
    assert!(
        origins[1].contains(r"^https://[^/\\s?#]*\\.b\\.example$"),
        "{origins:?}"
    );
    assert_eq!(
        [
            &full.allow_methods,
            &full.allow_headers,
            &full.expose_headers,
            &full.max_age
        ],
        ["GET,PUT", "x-a,x-b", "x-c", "60"]
    );
    assert!(full.allow_credentials.is_some_and(|flag| flag.value));
    assert!(
        full.forward_not_matching_preflights
            .is_some_and(|flag| !flag.value)
    );
    let plain = policy("allowOrigins: ['*']");
    assert_eq!(
        (plain.max_age.as_str(), plain.allow_credentials),
        ("5", None)
    );
}
