//! Routes, calls, and what must become of them. Used by `main`.
//!
//! A case that is called as in the conformance suite (v1.6.3, `tests/mesh`) states the facts of that test; the others
//! state what the Gateway API says beyond the suite's mesh tests.
//! Long because it is one table.

use crate::backend::SILENT;
use crate::client::{Ask, Spoken, Who};

/// A namespace with a waypoint and three services: `echo` in front of both applications, and one for each.
pub const WORLD: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: app, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp, namespace: app},
 spec: {gatewayClassName: causeway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: wp, namespace: app}, spec: {clusterIP: 10.96.1.9, ports: [{port: 15008}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: echo, namespace: app}, spec: {clusterIP: 10.96.1.1, selector: {app: echo}, ports: [
 {name: http, port: 80, appProtocol: http, targetPort: 8080}, {name: http-alt, port: 8080, appProtocol: http}, {name: https, port: 443, targetPort: 8443},
 {name: tcp, port: 9090}, {name: grpc, port: 7070, appProtocol: kubernetes.io/h2c}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: echo-v1, namespace: app}, spec: {clusterIP: 10.96.1.2, selector: {app: echo, version: v1}, ports: [
 {name: http, port: 80, appProtocol: http, targetPort: 8080}, {name: http-alt, port: 8080, appProtocol: http}, {name: https, port: 443, targetPort: 8443},
 {name: tcp, port: 9090}, {name: grpc, port: 7070}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: echo-v2, namespace: app}, spec: {clusterIP: 10.96.1.3, selector: {app: echo, version: v2}, ports: [
 {name: http, port: 80, appProtocol: http, targetPort: 8080}, {name: http-alt, port: 8080, appProtocol: http}, {name: https, port: 443, targetPort: 8443},
 {name: tcp, port: 9090}, {name: grpc, port: 7070}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: echo-v1, namespace: app, labels: {app: echo, version: v1}}, spec: {nodeName: n1, serviceAccountName: echo}, status: {podIPs: [{ip: 10.244.1.5}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: echo-v2, namespace: app, labels: {app: echo, version: v2}}, spec: {nodeName: n2, serviceAccountName: echo}, status: {podIPs: [{ip: 10.244.2.5}]}}
";

const ECHO: &str = "10.96.1.1:80";
const ECHO_GRPC: &str = "10.96.1.1:7070";
const V1: &str = "10.96.1.2:80";
const V1_ALT: &str = "10.96.1.2:8080";
const V2: &str = "10.96.1.3:80";
const V2_ALT: &str = "10.96.1.3:8080";

/// One request, and what must become of it (in the words of `outcome.rs`).
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub to: &'static str,
    pub path: &'static str,
    pub want: &'static str,
    method: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

/// Routes, and calls while they are in force.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub routes: &'static str,
    pub calls: &'static [Call],
}

type Headers = &'static [(&'static str, &'static str)];

const GRPC: Headers = &[("content-type", "application/grpc"), ("te", "trailers")];

impl Call {
    const fn at(self, to: &'static str) -> Call {
        Call { to, ..self }
    }

    const fn with(self, headers: Headers) -> Call {
        Call { headers, ..self }
    }

    const fn method_is(self, method: &'static str) -> Call {
        Call { method, ..self }
    }

    /// A gRPC call to the port for that.
    const fn over_grpc(self) -> Call {
        self.at(ECHO_GRPC).with(GRPC).method_is("POST")
    }

    pub fn method(&self) -> &'static str {
        self.method
    }

    pub fn grpc(&self) -> bool {
        self.headers.contains(&GRPC[0])
    }

    pub fn host(&self) -> &'static str {
        let host = self.headers.iter().find(|(name, _)| *name == "host");
        host.map_or("echo", |(_, host)| host)
    }

    /// All but the host.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.headers
            .iter()
            .copied()
            .filter(|(name, _)| *name != "host")
    }

    /// As the caller sends it. Shares are asked on one HTTP/1.1 connection.
    pub fn ask(&self) -> Ask {
        let single = crate::outcome::shares(self.want).is_empty();
        Ask {
            to: self.to,
            method: self.method,
            path: self.path,
            headers: self.headers,
            body: b"",
            who: Who::App,
            spoken: if self.grpc() && single {
                Spoken::Http2
            } else {
                Spoken::Http11
            },
        }
    }
}

/// A GET to `echo`.
const fn get(path: &'static str, want: &'static str) -> Call {
    Call {
        to: ECHO,
        path,
        want,
        method: "GET",
        headers: &[("host", "echo")],
    }
}

const fn case(name: &'static str, routes: &'static str, calls: &'static [Call]) -> Case {
    Case {
        name,
        routes,
        calls,
    }
}

/// The head of an HTTPRoute or GRPCRoute for a service, up to its rules.
macro_rules! route {
    (@ $kind:literal, $name:literal, $parent:literal, $($rules:literal),*) => {
        concat!(
            "{apiVersion: gateway.networking.k8s.io/v1, kind: ", $kind, ", metadata: {name: ", $name,
            ", namespace: app}, spec: {parentRefs: [{group: '', kind: Service, ", $parent, "}], rules: [",
            $($rules,)* "]}}\n---\n"
        )
    };
    ($($rules:literal),*) => { route!(@ "HTTPRoute", "r", "name: echo, port: 80", $($rules),*) };
}

pub const CASES: &[Case] = &[
    case("MeshBasic", "", &[get("/", "echo"), get("/", "echo").over_grpc()]),
    case(
        "MeshHTTPRouteSimpleSameNamespace",
        route!("{backendRefs: [{name: echo-v1, port: 8080}]}"),
        &[get("/", "echo-v1")],
    ),
    case(
        "MeshHTTPRouteMatching",
        route!(
            "{matches: [{path: {type: PathPrefix, value: /}}, {headers: [{name: version, value: one}]}], backendRefs: [{name: echo-v1, port: 8080}]}, ",
            "{matches: [{path: {type: PathPrefix, value: /v2}}, {headers: [{name: version, value: two}]}], backendRefs: [{name: echo-v2, port: 8080}]}"
        ),
        &[
            get("/", "echo-v1"),
            get("/example", "echo-v1"),
            get("/", "echo-v1").with(&[("version", "one")]),
            get("/v2", "echo-v2"),
            get("/v2/example", "echo-v2"),
            get("/", "echo-v2").with(&[("version", "two")]),
            get("/v2/", "echo-v2"),
            get("/v2example", "echo-v1"),
            get("/foo/v2/example", "echo-v1"),
        ],
    ),
    case(
        "MeshHTTPRouteQueryParamMatching",
        route!(
            "{matches: [{queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: echo-v1, port: 8080}]}, ",
            "{matches: [{queryParams: [{name: animal, value: dolphin}]}], backendRefs: [{name: echo-v2, port: 8080}]}, ",
            "{matches: [{path: {value: /path1}, queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: echo-v1, port: 8080}]}, ",
            "{matches: [{headers: [{name: version, value: one}], queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: echo-v2, port: 8080}]}, ",
            "{matches: [{path: {value: /path3}, queryParams: [{name: animal, value: shark}]}, {path: {value: /path4}, headers: [{name: version, value: three}], queryParams: [{name: animal, value: kraken}]}], backendRefs: [{name: echo-v1, port: 8080}]}, ",
            "{matches: [{path: {value: /path5}}], backendRefs: [{name: echo-v1, port: 8080}]}, ",
            "{matches: [{queryParams: [{name: animal, value: hydra}]}], backendRefs: [{name: echo-v2, port: 8080}]}"
        ),
        &[
            get("/?animal=whale", "echo-v1"),
            get("/?animal=dolphin", "echo-v2"),
            get("/?animal=whale&otherparam=irrelevant", "echo-v1"),
            get("/?animal=dolphin&color=yellow", "echo-v2"),
            get("/?color=blue", "404"),
            get("/?animal=dog", "404"),
            get("/?animal=whaledolphin", "404"),
            get("/", "404"),
            get("/path1?animal=whale", "echo-v1"),
            get("/?animal=whale", "echo-v2").with(&[("version", "one")]),
            get("/path3?animal=shark", "echo-v1"),
            get("/path4?animal=kraken", "echo-v1").with(&[("version", "three")]),
            get("/?animal=shark", "404"),
            get("/path4?animal=kraken", "404"),
            get("/path5?animal=hydra", "echo-v1"),
        ],
    ),
    case(
        "MeshHTTPRouteNamedRule",
        route!(
            "{name: named-rule, matches: [{path: {value: /named}}], backendRefs: [{name: echo-v1, port: 8080}]}, ",
            "{matches: [{path: {value: /unnamed}}], backendRefs: [{name: echo-v2, port: 8080}]}"
        ),
        &[
            get("/named", "echo-v1 path=/named"),
            get("/unnamed", "echo-v2 path=/unnamed"),
        ],
    ),
    case(
        "MeshHTTPRouteWeight",
        route!("{backendRefs: [{name: echo-v1, port: 8080, weight: 70}, {name: echo-v2, port: 8080, weight: 30}]}"),
        &[get("/", "echo-v1:70,echo-v2:30")],
    ),
    case(
        "MeshTrafficSplit",
        route!(@ "HTTPRoute",
            "split",
            "name: echo",
            "{matches: [{path: {type: Exact, value: /v1}}], backendRefs: [{name: echo-v1, port: 80}]}, ",
            "{matches: [{path: {type: Exact, value: /v2}}], backendRefs: [{name: echo-v2, port: 80}]}"
        ),
        &[get("/v1", "echo-v1"), get("/v2", "echo-v2"), get("/v2/", "404")],
    ),
    case(
        "MeshHTTPRouteRedirectHostAndStatus",
        route!(
            "{matches: [{path: {value: /host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]}, ",
            "{matches: [{path: {value: /both}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 301}}]}"
        ),
        &[
            get("/host", "302 back.location=http://example.org/host"),
            get("/both", "301 back.location=http://example.org/both"),
        ],
    ),
    case(
        "MeshHTTPRouteRedirectPath",
        route!(
            "{matches: [{path: {value: /original-prefix}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}}}]}, ",
            "{matches: [{path: {value: /full}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /full-path-replacement}}}]}, ",
            "{matches: [{path: {value: /path-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}}}]}, ",
            "{matches: [{path: {value: /path-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}}}]}, ",
            "{matches: [{path: {value: /full-path-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, path: {type: ReplaceFullPath, replaceFullPath: /replacement-full}}}]}, ",
            "{matches: [{path: {value: /full-path-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /replacement-full}}}]}"
        ),
        &[
            get("/original-prefix/lemon", "302 back.location=http://echo/replacement-prefix/lemon"),
            get("/full/path/original", "302 back.location=http://echo/full-path-replacement"),
            get("/path-and-host", "302 back.location=http://example.org/replacement-prefix"),
            get("/path-and-status", "301 back.location=http://echo/replacement-prefix"),
            get("/full-path-and-host", "302 back.location=http://example.org/replacement-full"),
            get("/full-path-and-status", "301 back.location=http://echo/replacement-full"),
        ],
    ),
    case(
        "MeshHTTPRouteRedirectPort",
        route!(
            "{matches: [{path: {value: /port}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8083}}]}, ",
            "{matches: [{path: {value: /port-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, port: 8083}}]}, ",
            "{matches: [{path: {value: /port-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8083, statusCode: 301}}]}, ",
            "{matches: [{path: {value: /all}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, port: 8083, statusCode: 302}}]}"
        ),
        &[
            get("/port", "302 back.location=http://echo:8083/port"),
            get("/port-and-host", "302 back.location=http://example.org:8083/port-and-host"),
            get("/port-and-status", "301 back.location=http://echo:8083/port-and-status"),
            get("/all", "302 back.location=http://example.org:8083/all"),
        ],
    ),
    case(
        "MeshHTTPRouteSchemeRedirect",
        route!(
            "{matches: [{path: {value: /scheme}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}, ",
            "{matches: [{path: {value: /scheme-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, scheme: https}}]}, ",
            "{matches: [{path: {value: /scheme-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]}, ",
            "{matches: [{path: {value: /all}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: example.org, statusCode: 302}}]}"
        ),
        &[
            get("/scheme", "302 back.location=https://echo/scheme"),
            get("/scheme-and-host", "302 back.location=https://example.org/scheme-and-host"),
            get("/scheme-and-status", "301 back.location=https://echo/scheme-and-status"),
            get("/all", "302 back.location=https://example.org/all"),
        ],
    ),
    case(
        "MeshHTTPRoute303Redirect, 307, 308",
        route!(
            "{matches: [{path: {value: /other}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 303}}]}, ",
            "{matches: [{path: {value: /temporary}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 307}}]}, ",
            "{matches: [{path: {value: /permanent}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 308}}]}"
        ),
        &[
            get("/other", "303 back.location=http://echo/other"),
            get("/temporary", "307 back.location=http://echo/temporary"),
            get("/permanent", "308 back.location=http://echo/permanent"),
        ],
    ),
    case(
        "MeshHTTPRouteRequestHeaderModifier",
        route!(
            "{matches: [{path: {value: /set}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}]}}], backendRefs: [{name: echo-v1, port: 8080}]}, ",
            "{matches: [{path: {value: /add}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Header-Add, value: add-appends-values}]}}], backendRefs: [{name: echo-v1, port: 8080}]}, ",
            "{matches: [{path: {value: /remove}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Header-Remove]}}], backendRefs: [{name: echo-v1, port: 8080}]}, ",
            "{matches: [{path: {value: /multiple}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}], add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}], remove: [X-Header-Remove-1, X-Header-Remove-2]}}], backendRefs: [{name: echo-v1, port: 8080}]}"
        ),
        HEADERS,
    ),
    case(
        "MeshHTTPRouteBackendRequestHeaderModifier",
        route!(
            "{matches: [{path: {value: /set}}], backendRefs: [{name: echo-v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}]}}]}]}, ",
            "{matches: [{path: {value: /add}}], backendRefs: [{name: echo-v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Header-Add, value: add-appends-values}]}}]}]}, ",
            "{matches: [{path: {value: /remove}}], backendRefs: [{name: echo-v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Header-Remove]}}]}]}, ",
            "{matches: [{path: {value: /multiple}}], backendRefs: [{name: echo-v1, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}], add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}], remove: [X-Header-Remove-1, X-Header-Remove-2]}}]}]}"
        ),
        HEADERS,
    ),
    case(
        "MeshHTTPRouteRewritePath",
        route!(
            "{matches: [{path: {value: /prefix/one}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}}}], backendRefs: [{name: echo-v1, port: 80}]}, ",
            "{matches: [{path: {value: /strip-prefix}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: echo-v1, port: 80}]}, ",
            "{matches: [{path: {value: /full/one}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}], backendRefs: [{name: echo-v1, port: 80}]}, ",
            "{matches: [{path: {value: /full/headers}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /test}}}, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}], add: [{name: X-Header-Add, value: header-val-1}, {name: X-Header-Add-Append, value: header-val-2}], remove: [X-Header-Remove]}}], backendRefs: [{name: echo-v1, port: 80}]}, ",
            "{matches: [{path: {value: /prefix/headers}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /prefix}}}, {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}], add: [{name: X-Header-Add, value: header-val-1}, {name: X-Header-Add-Append, value: header-val-2}], remove: [X-Header-Remove]}}], backendRefs: [{name: echo-v1, port: 80}]}"
        ),
        &[
            get("/prefix/one/two", "echo-v1 path=/one/two"),
            get("/strip-prefix/three", "echo-v1 path=/three"),
            get("/strip-prefix", "echo-v1 path=/"),
            get("/full/one/two", "echo-v1 path=/one"),
            get(
                "/full/headers/test",
                "echo-v1 path=/test to.x-header-add=header-val-1 to.x-header-add-append=append-val-1,header-val-2 to.x-header-set=set-overwrites-values to.x-header-remove=-",
            )
            .with(REWRITTEN),
            get(
                "/prefix/headers/one",
                "echo-v1 path=/prefix/one to.x-header-add=header-val-1 to.x-header-add-append=append-val-1,header-val-2 to.x-header-set=set-overwrites-values to.x-header-remove=-",
            )
            .with(REWRITTEN),
        ],
    ),
    case(
        "MeshFrontend, MeshFrontendHostname (MeshClusterIPMatching)",
        route!(@ "HTTPRoute",
            "front",
            "name: echo-v2",
            "{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: set}]}}], backendRefs: [{name: echo-v2, port: 80}]}"
        ),
        &[
            get("/", "echo-v2 back.x-header-set=set").at(V2),
            get("/", "echo-v2 back.x-header-set=set").at(V2).with(&[("host", "echo-v1")]),
            get("/", "echo-v1 back.x-header-set=-").at(V1).with(&[("host", "echo-v2")]),
        ],
    ),
    case(
        "MeshPorts (HTTPRouteParentRefPort)",
        concat!(
            route!(@ "HTTPRoute",
                "one",
                "name: echo-v1, port: 80",
                "{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: v1}]}}], backendRefs: [{name: echo-v1, port: 80}]}"
            ),
            route!(@ "HTTPRoute",
                "two",
                "name: echo-v2",
                "{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: v2}]}}], backendRefs: [{name: echo-v2, port: 80}]}"
            )
        ),
        &[
            get("/", "echo-v1 back.x-header-set=v1").at(V1),
            get("/", "echo-v1 back.x-header-set=-").at(V1_ALT),
            get("/", "echo-v2 back.x-header-set=v2").at(V2),
            get("/", "echo-v2 back.x-header-set=v2").at(V2_ALT),
        ],
    ),
    case(
        "MeshGRPCRouteWeight",
        route!(@ "GRPCRoute",
            "weight",
            "name: echo, port: 7070",
            "{backendRefs: [{name: echo-v1, port: 7070, weight: 70}, {name: echo-v2, port: 7070, weight: 30}, {name: echo-v3, port: 7070, weight: 0}]}"
        ),
        &[
            get("/proto.EchoTestService/Echo", "echo-v1:70,echo-v2:30").over_grpc(),
            get("/", "echo"),
        ],
    ),
    case(
        "gRPC methods, headers, and no backend",
        route!(@ "GRPCRoute",
            "methods",
            "name: echo",
            "{matches: [{method: {service: proto.EchoTestService, method: Echo}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set}]}}], backendRefs: [{name: echo-v1, port: 7070}]}, ",
            "{matches: [{method: {service: proto.EchoTestService}}], backendRefs: [{name: echo-v2, port: 7070}]}, ",
            "{matches: [{method: {method: Lost}}], backendRefs: [{name: gone, port: 7070}]}, ",
            "{matches: [{method: {type: RegularExpression, service: 'other.+', method: 'A|B'}, headers: [{name: version, value: two}]}], backendRefs: [{name: echo-v2, port: 7070}]}"
        ),
        &[
            get("/proto.EchoTestService/Echo", "echo-v1 to.x-header-set=set").over_grpc(),
            get("/proto.EchoTestService/Other", "echo-v2 to.x-header-set=-").over_grpc(),
            get("/any.Service/Lost", "200 back.grpc-status=14").over_grpc(),
            get("/other.Service/B", "echo-v2").over_grpc().with(&[("content-type", "application/grpc"), ("version", "two")]),
        ],
    ),
    case(
        "references that lead nowhere",
        route!(
            "{matches: [{path: {value: /gone}}], backendRefs: [{name: gone, port: 80}]}, ",
            "{matches: [{path: {value: /port}}], backendRefs: [{name: echo-v1, port: 81}]}, ",
            "{matches: [{path: {value: /kind}}], backendRefs: [{name: echo-v1, kind: Bucket}]}, ",
            "{matches: [{path: {value: /other}}], backendRefs: [{name: echo-v1, port: 80, namespace: other}]}, ",
            "{matches: [{path: {value: /none}}]}, ",
            "{matches: [{path: {value: /nought}}], backendRefs: [{name: echo-v1, port: 80, weight: 0}]}, ",
            "{matches: [{path: {value: /extension}}], filters: [{type: ExtensionRef}], backendRefs: [{name: echo-v1, port: 80}]}"
        ),
        &[
            get("/gone", "500"),
            get("/port", "500"),
            get("/kind", "500"),
            get("/other", "500"),
            get("/none", "500"),
            get("/nought", "500"),
            get("/extension", "500"),
            get("/", "404"),
        ],
    ),
    case(
        "the most specific match goes first, then the older route",
        concat!(
            route!(@ "HTTPRoute",
                "b",
                "name: echo",
                "{matches: [{path: {value: /same}}], backendRefs: [{name: echo-v2, port: 80}]}, {matches: [{path: {value: /same/longer}}], backendRefs: [{name: echo-v2, port: 80}]}"
            ),
            route!(@ "HTTPRoute",
                "a",
                "name: echo, port: 80",
                "{matches: [{path: {value: /same}}, {path: {value: /same/longer/still}, method: PUT}], backendRefs: [{name: echo-v1, port: 80}]}"
            )
        ),
        &[
            get("/same", "echo-v1"),
            get("/same/longer", "echo-v2"),
            get("/same/longer/still", "echo-v2"),
            get("/same/longer/still", "echo-v1").method_is("PUT"),
        ],
    ),
    case(
        "headers and paths by regular expression, host rewritten",
        route!(
            "{matches: [{path: {type: RegularExpression, value: '/r[0-9]+'}, headers: [{name: a, type: RegularExpression, value: 'b|c'}]}], filters: [{type: URLRewrite, urlRewrite: {hostname: other.example}}], backendRefs: [{name: echo-v2, port: 80}]}"
        ),
        &[
            get("/r12", "echo-v2 to.host=other.example path=/r12").with(&[("a", "c")]),
            get("/r12", "404").with(&[("a", "cc")]),
            get("/r12/x", "404").with(&[("a", "c")]),
        ],
    ),
    case(
        "CORS",
        route!(
            "{filters: [{type: CORS, cors: {allowOrigins: ['https://*.a.example'], allowMethods: [GET, PUT], allowHeaders: [x-a], maxAge: 60, allowCredentials: true}}], backendRefs: [{name: echo-v1, port: 80}]}"
        ),
        &[
            get(
                "/",
                "200 back.access-control-allow-origin=https://b.a.example back.access-control-allow-methods=GET,PUT back.access-control-allow-headers=x-a back.access-control-max-age=60 back.access-control-allow-credentials=true",
            )
            .method_is("OPTIONS")
            .with(&[("origin", "https://b.a.example"), ("access-control-request-method", "PUT")]),
            get("/", "200 back.access-control-allow-origin=- back.access-control-allow-methods=-")
                .method_is("OPTIONS")
                .with(&[("origin", "https://a.example.evil"), ("access-control-request-method", "PUT")]),
            get("/", "echo-v1").with(&[("origin", "https://a.example.evil")]),
        ],
    ),
];

const HEADERS: &[Call] = &[
    get("/set", "echo-v1 to.some-other-header=val to.x-header-set=set-overwrites-values")
        .with(&[("Some-Other-Header", "val")]),
    get("/set", "echo-v1 to.some-other-header=val to.x-header-set=set-overwrites-values")
        .with(&[("Some-Other-Header", "val"), ("X-Header-Set", "some-other-value")]),
    get("/add", "echo-v1 to.some-other-header=val to.x-header-add=add-appends-values")
        .with(&[("Some-Other-Header", "val")]),
    get("/add", "echo-v1 to.x-header-add=some-other-value,add-appends-values")
        .with(&[("X-Header-Add", "some-other-value")]),
    get("/remove", "echo-v1 to.x-header-remove=-").with(&[("X-Header-Remove", "val")]),
    get(
        "/multiple",
        "echo-v1 to.x-header-set-1=header-set-1 to.x-header-set-2=header-set-2 to.x-header-add-1=header-add-1 to.x-header-add-2=add-val-2,header-add-2 to.x-header-remove-1=- to.x-header-remove-2=- to.another-header=another-header-val",
    )
    .with(&[
        ("X-Header-Set-2", "set-val-2"),
        ("X-Header-Add-2", "add-val-2"),
        ("X-Header-Remove-2", "remove-val-2"),
        ("Another-Header", "another-header-val"),
    ]),
    // The names of headers have no case.
    get("/set", "echo-v1 to.x-header-set=set-overwrites-values").with(&[("x-header-set", "original")]),
];

const REWRITTEN: Headers = &[
    ("X-Header-Remove", "remove-val"),
    ("X-Header-Add-Append", "append-val-1"),
    ("X-Header-Set", "set-val"),
];

/// Two mirrors: all requests, and a quarter of them.
pub const MIRRORS: Case = case(
    "mirrors",
    route!(
        "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}}}, {type: RequestMirror, requestMirror: {percent: 25, backendRef: {name: echo-v2, port: 8080}}}], backendRefs: [{name: echo-v1, port: 80}]}"
    ),
    &[get("/copied", "echo-v1")],
);

/// Of a whole request, and of one try: what is silent is given up, with a real clock only.
pub const TIMEOUTS: Case = case(
    "timeouts",
    route!(
        "{timeouts: {request: 200ms}, matches: [{method: GET}], backendRefs: [{name: echo-v1, port: 80}]}, ",
        "{timeouts: {backendRequest: 200ms}, matches: [{method: PUT}], backendRefs: [{name: echo-v1, port: 80}]}"
    ),
    &[
        get("/", "echo-v1"),
        get(SILENT, "504"),
        get(SILENT, "504").method_is("PUT"),
    ],
);
