//! Tables of routes: who matches, where it goes, what becomes of paths and headers.

use super::*;
use crate::envoy::route::from_bytes;
use crate::model::route::{RouteAction, SetHeader};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn cluster_route(name: &str, matches: pb::RouteMatch) -> pb::Route {
    let action = pb::RouteAction {
        cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster("c".into())),
        ..Default::default()
    };
    pb::Route {
        name: name.into(),
        r#match: Some(matches),
        action: Some(pb::route::Action::Route(action)),
        ..Default::default()
    }
}

fn path(specifier: pb::route_match::PathSpecifier) -> pb::RouteMatch {
    pb::RouteMatch {
        path_specifier: Some(specifier),
        ..Default::default()
    }
}

fn table(hosts: Vec<(&str, Vec<pb::Route>)>) -> RouteTable {
    let hosts = hosts.into_iter().map(|(domains, routes)| pb::VirtualHost {
        name: domains.into(),
        domains: domains.split(',').map(str::to_owned).collect(),
        routes,
        ..Default::default()
    });
    let config = pb::RouteConfiguration {
        virtual_hosts: hosts.collect(),
        ..Default::default()
    };
    from_bytes(&config.encode_to_vec()).unwrap()
}

fn view<'a>(authority: &'a str, path: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView {
        method: "GET",
        path,
        authority,
        scheme: "http",
        headers,
    }
}

fn chosen(table: &RouteTable, authority: &str, path: &str, headers: &HeaderMap) -> Option<String> {
    select(table, &view(authority, path, headers)).map(|(_, route)| route.name.to_string())
}

#[test]
fn the_most_specific_domain_wins() {
    use pb::route_match::PathSpecifier::Prefix;
    let all = |name: &str| vec![cluster_route(name, path(Prefix("/".into())))];
    let table = table(vec![
        ("*", all("any")),
        ("*.example.com", all("suffix")),
        ("*.a.example.com", all("longer suffix")),
        ("www.example.com", all("exact")),
        ("www.*", all("prefix")),
    ]);
    let none = HeaderMap::new();
    let cases = [
        ("WWW.example.com", "exact"),
        ("x.example.com", "suffix"),
        ("x.a.example.com", "longer suffix"),
        ("www.other", "prefix"),
        ("other", "any"),
        (".example.com", "any"),
    ];
    for (authority, want) in cases {
        assert_eq!(
            chosen(&table, authority, "/", &none).as_deref(),
            Some(want),
            "{authority}"
        );
    }
}

#[test]
fn paths_match_by_their_kind() {
    use pb::route_match::PathSpecifier::{Path, PathSeparatedPrefix, Prefix, SafeRegex};
    let regex = RegexMatcher {
        regex: "/r/[0-9]+".into(),
        engine_type: None,
    };
    let insensitive = pb::RouteMatch {
        case_sensitive: Some(envoy_types::pb::google::protobuf::BoolValue { value: false }),
        ..path(Prefix("/Case".into()))
    };
    let table = table(vec![(
        "*",
        vec![
            cluster_route("exact", path(Path("/exact".into()))),
            cluster_route("separated", path(PathSeparatedPrefix("/v1".into()))),
            cluster_route("regex", path(SafeRegex(regex))),
            cluster_route("case", insensitive),
            cluster_route("prefix", path(Prefix("/p".into()))),
            cluster_route("escape", path(Path("/caf%c3%a9".into()))),
            cluster_route("under", path(PathSeparatedPrefix("/%2f".into()))),
        ],
    )]);
    let none = HeaderMap::new();
    let cases = [
        ("/exact?x=1", Some("exact")),
        ("/exact/", None),
        ("/v1", Some("separated")),
        ("/v1/x?y", Some("separated")),
        ("/v1?y", Some("separated")),
        ("/v1x", None),
        ("/r/12", Some("regex")),
        ("/r/12/x", None),
        ("/x/r/12", None),
        ("/cASE/1", Some("case")),
        ("/pfx", Some("prefix")),
        ("/caf%c3%a9", Some("escape")),
        ("/caf%C3%A9?%c3", Some("escape")),
        ("/%2Fx", None),
        ("/%2F/x", Some("under")),
        ("/", None),
    ];
    for (path, want) in cases {
        assert_eq!(chosen(&table, "h", path, &none).as_deref(), want, "{path}");
    }
}

#[test]
fn headers_and_query_narrow_a_route() {
    use pb::route_match::PathSpecifier::Prefix;
    let exact = |text: &str| StringMatcher {
        ignore_case: false,
        match_pattern: Some(MatchPattern::Exact(text.into())),
    };
    let by_header = pb::RouteMatch {
        headers: vec![
            pb::HeaderMatcher {
                name: "x-user".into(),
                header_match_specifier: Some(
                    pb::header_matcher::HeaderMatchSpecifier::StringMatch(exact("alice")),
                ),
                ..Default::default()
            },
            pb::HeaderMatcher {
                name: "x-no".into(),
                invert_match: true,
                ..Default::default()
            },
        ],
        ..path(Prefix("/".into()))
    };
    let by_query = pb::RouteMatch {
        query_parameters: vec![pb::QueryParameterMatcher {
            name: "q".into(),
            query_parameter_match_specifier: Some(
                pb::query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch(exact("1")),
            ),
        }],
        ..path(Prefix("/".into()))
    };
    let table = table(vec![(
        "*",
        vec![
            cluster_route("header", by_header),
            cluster_route("query", by_query),
        ],
    )]);
    let headers = |list: &[(&'static str, &str)]| -> HeaderMap {
        list.iter()
            .map(|(k, v)| {
                (
                    http::HeaderName::from_static(k),
                    HeaderValue::from_str(v).unwrap(),
                )
            })
            .collect()
    };
    assert_eq!(
        chosen(&table, "h", "/", &headers(&[("x-user", "alice")])).as_deref(),
        Some("header")
    );
    assert_eq!(
        chosen(
            &table,
            "h",
            "/",
            &headers(&[("x-user", "alice"), ("x-no", "")])
        ),
        None
    );
    assert_eq!(
        chosen(&table, "h", "/", &headers(&[("x-user", "bob")])),
        None
    );
    assert_eq!(
        chosen(&table, "h", "/?a=2&q=1", &headers(&[])).as_deref(),
        Some("query")
    );
    assert_eq!(chosen(&table, "h", "/?q=2", &headers(&[])), None);
}

#[test]
fn weights_are_kept() {
    let mut rng = rng();
    let mut counts = [0u32; 3];
    for _ in 0..10_000 {
        counts[weighted([90, 0, 10].into_iter(), &mut rng).unwrap()] += 1;
    }
    assert_eq!(counts[1], 0);
    assert!((8_800..9_200).contains(&counts[0]), "{counts:?}");
    assert_eq!(weighted([0].into_iter(), &mut rng), None);
}

#[test]
fn rewrites_keep_the_query() {
    let regex = PathRewrite::Regex(regex::Regex::new("^/v1(/?)(.*)").unwrap(), "/${2}".into());
    let separated = PathMatch::Separated("/v1".into(), true);
    let cases = [
        (&regex, "/v1/x?y=1", "/x?y=1"),
        (&regex, "/v1", "/"),
        (&PathRewrite::Prefix("/new".into()), "/v1/x?y", "/new/x?y"),
        (&PathRewrite::Full("/all".into()), "/v1/x?y", "/all?y"),
    ];
    for (change, target, want) in cases {
        assert_eq!(rewrite(change, &separated, target), want, "{target}");
    }
    // A regular expression matches the whole path, so that is what a prefix rewrite replaces.
    let whole = PathMatch::Regex(regex::Regex::new("^(?:/v[0-9]/.*)$").unwrap());
    let prefix = PathRewrite::Prefix("/new".into());
    assert_eq!(rewrite(&prefix, &whole, "/v1/x?y"), "/new?y");
}

#[test]
fn redirects_name_the_new_place() {
    let plain = || Redirect {
        status: http::StatusCode::FOUND,
        scheme: None,
        host: None,
        port: None,
        path: None,
        strip_query: false,
    };
    let none = HeaderMap::new();
    let request = view("svc:8080", "/old/x?q=1", &none);
    let matched = PathMatch::Prefix("/old".into(), true);
    let cases = [
        (plain(), "http://svc:8080/old/x?q=1"),
        (
            Redirect {
                scheme: Some("https".into()),
                ..plain()
            },
            "https://svc/old/x?q=1",
        ),
        (
            Redirect {
                host: Some("other".into()),
                ..plain()
            },
            "http://other/old/x?q=1",
        ),
        (
            Redirect {
                port: Some(80),
                ..plain()
            },
            "http://svc/old/x?q=1",
        ),
        (
            Redirect {
                path: Some(PathRewrite::Full("/new".into())),
                strip_query: true,
                ..plain()
            },
            "http://svc:8080/new",
        ),
        (
            Redirect {
                path: Some(PathRewrite::Prefix("/n".into())),
                ..plain()
            },
            "http://svc:8080/n/x?q=1",
        ),
    ];
    for (redirect, want) in cases {
        assert_eq!(location(&redirect, &matched, &request), want);
    }
}

/// istiod always names a path, an empty one where it stays.
#[test]
fn a_redirect_with_an_empty_path_keeps_the_path() {
    use pb::redirect_action::PathRewriteSpecifier::{PathRedirect, PrefixRewrite};
    let to = |path| {
        let redirect = pb::RedirectAction {
            response_code: 2,
            path_rewrite_specifier: Some(path),
            ..Default::default()
        };
        let route = pb::Route {
            r#match: Some(path_of("/old")),
            action: Some(pb::route::Action::Redirect(redirect)),
            ..Default::default()
        };
        let table = table(vec![("*", vec![route])]);
        let none = HeaderMap::new();
        let request = view("svc", "/old/x?q=1", &none);
        let (_, route) = select(&table, &request).unwrap();
        let RouteAction::Redirect(redirect) = &route.action else {
            panic!("a redirect")
        };
        assert_eq!(redirect.status, 303);
        location(redirect, &route.matches.path, &request)
    };
    assert_eq!(to(PathRedirect(String::new())), "http://svc/old/x?q=1");
    assert_eq!(to(PrefixRewrite(String::new())), "http://svc/old/x?q=1");
    assert_eq!(to(PathRedirect("/new".into())), "http://svc/new?q=1");
}

fn path_of(prefix: &str) -> pb::RouteMatch {
    path(pb::route_match::PathSpecifier::Prefix(prefix.into()))
}

#[test]
fn headers_change_by_their_mode() {
    let name = http::HeaderName::from_static("x-a");
    let run = |mode, keep_empty, value: &str, present: bool| {
        let set = SetHeader {
            name: name.clone(),
            value: Format::parse(value).unwrap(),
            mode,
            keep_empty,
        };
        let changes = Changes {
            remove: vec![http::HeaderName::from_static("x-gone")],
            set: vec![set],
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-gone", HeaderValue::from_static("1"));
        if present {
            headers.insert(&name, HeaderValue::from_static("old"));
        }
        change_headers(&changes, &mut headers, &|_, _| String::new());
        assert!(!headers.contains_key("x-gone"));
        headers
            .get_all(&name)
            .iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join(",")
    };
    assert_eq!(run(SetMode::Append, false, "new", true), "old,new");
    assert_eq!(run(SetMode::Overwrite, false, "new", true), "new");
    assert_eq!(run(SetMode::IfAbsent, false, "new", true), "old");
    assert_eq!(run(SetMode::OverwriteIfPresent, false, "new", false), "");
    assert_eq!(run(SetMode::Overwrite, false, "%REQ(x)%", true), "old");
}

#[test]
fn a_route_table_without_routes_matches_nothing() {
    assert_eq!(
        chosen(&RouteTable::default(), "h", "/", &HeaderMap::new()),
        None
    );
    let direct = pb::Route {
        r#match: Some(path(pb::route_match::PathSpecifier::Prefix("/".into()))),
        action: Some(pb::route::Action::DirectResponse(
            pb::DirectResponseAction {
                status: 418,
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let table = table(vec![("*", vec![direct])]);
    let none = HeaderMap::new();
    let (_, route) = select(&table, &view("h", "/", &none)).unwrap();
    assert!(matches!(route.action, RouteAction::Direct { status, .. } if status == 418));
}
