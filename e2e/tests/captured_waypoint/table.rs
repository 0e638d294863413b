//! The table of requests with what a real Envoy 1.40 answered to them on the same resources, and where ours answers
//! something else, with the reason. Used by `main`.

use crate::backend::SILENT;
use crate::client::{Answer, Ask, Spoken, Who};

/// The services' addresses; echo's differs between the two sets.
pub const ECHO_BASE: &str = "10.96.105.179:80";
const ECHO: &str = "10.96.187.17:80";
const HTTPBIN: &str = "10.96.250.174:80";
const GRPC: &str = "10.96.33.220:7070";
const EXT: &str = "240.240.0.1:80";
const EXT2: &str = "240.240.0.2:80";
const ECHO_METHOD: &str = "/proto.EchoTestService/Echo";

/// What of an answer a row looks at, besides the status.
#[derive(Clone, Copy, Debug)]
pub enum Look {
    /// The body.
    Body,
    /// The reason phrase.
    Reason,
    /// A header (or trailer) of the answer.
    Head(&'static str),
    /// A field of what the application saw.
    Up(&'static str),
    /// A header as the application saw it.
    UpHead(&'static str),
    /// Whether the answer took at least so many ms.
    Took(u64),
}

/// One request, and what it must come to.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub ask: Ask,
    pub look: &'static [Look],
    /// What Envoy answered, as [`Row::seen`] writes it.
    pub envoy: &'static str,
    /// What ours answers instead, and why.
    pub ours: Option<(&'static str, &'static str)>,
}

/// A row of Envoy's table that cannot be asked of ours, with the reason.
pub const NOT_REACHED: [(&str, &str); 7] = [
    ("httpbin: a token that is none", NO_TOKENS),
    ("httpbin: a token of another key", NO_TOKENS),
    ("httpbin: an expired token", NO_TOKENS),
    ("httpbin: a token of another issuer", NO_TOKENS),
    ("httpbin: a good token, its claim in a header", NO_TOKENS),
    ("httpbin: HEAD with an administrator's token", NO_TOKENS),
    (
        "httpbin: one x-user stays with one endpoint",
        "ring hash is not supported: the cluster is refused",
    ),
];
const NO_TOKENS: &str = "jwt_authn is not supported: the listener is refused";

impl Row {
    /// Status and what the row looks at, in one line; `-` for what is not there.
    pub fn seen(&self, answer: &Answer) -> String {
        let mut text = answer.outcome.clone();
        if answer.headers.is_empty() && answer.body.is_empty() {
            return text;
        }
        for look in self.look {
            let part = match look {
                Look::Body => Some(answer.body.clone()).filter(|body| !body.is_empty()),
                Look::Reason => Some(answer.reason.clone()),
                Look::Head(name) => answer
                    .headers
                    .get(*name)
                    .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
                Look::Up(field) => answer.up[field].as_str().map(str::to_owned),
                Look::UpHead(name) => answer.up["headers"][name].as_str().map(str::to_owned),
                Look::Took(least) => {
                    Some((answer.took.as_millis() >= u128::from(*least)).to_string())
                }
            };
            text += " ";
            text += part.as_deref().unwrap_or("-");
        }
        text
    }

    /// What ours must answer.
    pub fn want(&self) -> &'static str {
        self.ours.map_or(self.envoy, |(ours, _)| ours)
    }

    const fn to(self, authority: &'static str) -> Self {
        let ask = Ask {
            to: authority,
            ..self.ask
        };
        Self { ask, ..self }
    }

    const fn method(self, method: &'static str, body: &'static [u8]) -> Self {
        let ask = Ask {
            method,
            body,
            ..self.ask
        };
        Self { ask, ..self }
    }

    const fn with(self, headers: &'static [(&'static str, &'static str)]) -> Self {
        let ask = Ask {
            headers,
            ..self.ask
        };
        Self { ask, ..self }
    }

    const fn from(self, who: Who) -> Self {
        let ask = Ask { who, ..self.ask };
        Self { ask, ..self }
    }

    const fn spoken(self, spoken: Spoken) -> Self {
        let ask = Ask { spoken, ..self.ask };
        Self { ask, ..self }
    }

    const fn but(self, ours: &'static str, why: &'static str) -> Self {
        Self {
            ours: Some((ours, why)),
            ..self
        }
    }
}

const fn get(
    name: &'static str,
    path: &'static str,
    look: &'static [Look],
    envoy: &'static str,
) -> Row {
    let ask = Ask {
        to: ECHO,
        method: "GET",
        path,
        headers: &[],
        body: b"",
        who: Who::App,
        spoken: Spoken::Http11,
    };
    Row {
        name,
        ask,
        look,
        envoy,
        ours: None,
    }
}

const PATH: &[Look] = &[Look::Up("path")];
const ADDED: &[Look] = &[Look::Up("path"), Look::UpHead("x-added")];
const BODY: &[Look] = &[Look::Body];
const POD: &[Look] = &[Look::Up("pod")];
const DENIED: &str = "403 RBAC: access denied";
const ALICE: &[(&str, &str)] = &[("x-user", "alice")];

/// Routes and policies of echo, in both sets.
pub const ROUTES: &[Row] = &[
    get("echo: any path", "/hello", PATH, "200 /hello"),
    get(
        "echo: alice's /v1 is replaced",
        "/v1/x?y=1",
        ADDED,
        "200 /x?y=1 1",
    )
    .with(ALICE),
    get(
        "echo: what a rewrite tells upstream",
        "/v1/x?y=1",
        TOLD,
        "200 /v1/x?y=1 5000",
    )
    .with(ALICE),
    get("echo: /v1x is not below /v1", "/v1x", ADDED, "200 /v1x -").with(ALICE),
    get(
        "echo: bob's /v1 is not replaced",
        "/v1/x",
        ADDED,
        "200 /v1/x -",
    )
    .with(&[("x-user", "bob")]),
    get(
        "echo: dots are resolved, slashes kept",
        "/a/../b//c",
        PATH,
        "200 /b//c",
    ),
    get("echo: POST is not allowed", "/", BODY, DENIED).method("POST", b"x"),
    get("echo: DELETE is denied", "/", BODY, DENIED).method("DELETE", b""),
    get("echo: x-deny is denied", "/", BODY, DENIED).with(&[("x-deny", "yes")]),
    get("echo: from another namespace", "/", BODY, DENIED).from(Who::Other),
    get("echo: from another trust domain", "/", BODY, "closed").from(Who::Foreign),
];
const TOLD: &[Look] = &[
    Look::UpHead("x-envoy-original-path"),
    Look::UpHead("x-envoy-expected-rq-timeout-ms"),
];

/// Headers and protocols, asked of echo in both sets.
pub const HEADERS: &[Row] = &[
    get(
        "headers: of the answer",
        "/",
        &[
            Look::Head("server"),
            Look::Head("x-envoy-decorator-operation"),
        ],
        "200 istio-envoy echo.app.svc.cluster.local:80/*",
    ),
    get(
        "headers: of a refusal",
        "/",
        &[
            Look::Head("server"),
            Look::Head("x-envoy-decorator-operation"),
        ],
        "403 istio-envoy echo.app.svc.cluster.local:80/*",
    )
    .with(&[("x-deny", "yes")]),
    get(
        "headers: x-forwarded-proto is set",
        "/",
        &[Look::UpHead("x-forwarded-proto")],
        "200 http",
    ),
    get(
        "headers: x-forwarded-for is passed on",
        "/",
        &[Look::UpHead("x-forwarded-for")],
        "200 10.1.2.3",
    )
    .with(&[("x-forwarded-for", "10.1.2.3")]),
    get(
        "headers: x-forwarded-client-cert is removed",
        "/",
        &[Look::UpHead("x-forwarded-client-cert")],
        "200 -",
    )
    .with(&[("x-forwarded-client-cert", "By=spiffe://a/ns/b/sa/c")]),
    get(
        "headers: x-envoy-* of the caller is removed",
        "/",
        &[Look::UpHead("x-envoy-upstream-rq-timeout-ms")],
        "200 -",
    )
    .with(&[("x-envoy-upstream-rq-timeout-ms", "1")]),
    get(
        "headers: x-request-id is kept",
        "/",
        &[Look::UpHead("x-request-id")],
        "200 mine",
    )
    .with(&[("x-request-id", "mine")]),
    get(
        "headers: traceparent is passed on",
        "/",
        &[Look::UpHead("traceparent")],
        "200 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    .with(&[(
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )]),
    get(
        "headers: the host keeps its case",
        "/",
        &[Look::UpHead("host")],
        "200 Some.Host",
    )
    .with(&[("host", "Some.Host")]),
    get(
        "protocol: HTTP/2 without an upgrade",
        "/h2",
        PATH,
        "200 /h2",
    )
    .spoken(Spoken::Http2),
    get("protocol: HTTP/1.0", "/", &[], "426").spoken(Spoken::Http10),
];

/// Other destinations, in both sets.
pub const DESTINATIONS: &[Row] = &[
    get(
        "ext: an endpoint outside of the mesh",
        "/",
        POD,
        "200 10.244.1.2:80",
    )
    .to(EXT),
    get(
        "direct: to a pod's address",
        "/",
        POD,
        "200 10.244.2.5:8080",
    )
    .to("10.244.2.5:8080"),
];

const REFUSED: &str = "CONNECT 503";
const REFUSED_WHY: &str =
    "the caller's log can say why there is no tunnel (docs/decisions/0005-waypoint-and-envoy.md)";

/// TCP, in the rich set.
pub const TCP: &[Row] = &[
    get("echo:90: HTTP rules deny all of TCP", "/", &[], "closed").to("10.96.187.17:90"),
    get(
        "vm:9000: HTTP rules allow nothing of TCP",
        "/",
        &[],
        "closed",
    )
    .to("240.240.1.1:9000"),
    get("echo:9000: a port that is not", "/", &[], "closed")
        .to("10.96.187.17:9000")
        .but(REFUSED, REFUSED_WHY),
];

/// TCP, in the base set.
pub const TCP_BASE: &[Row] = &[
    get(
        "echo:90: HTTP rules allow nothing of TCP",
        "/",
        &[],
        "closed",
    )
    .to("10.96.105.179:90"),
    get("echo:9000: a port that is not", "/", &[], "closed")
        .to("10.96.105.179:9000")
        .but(REFUSED, REFUSED_WHY),
];

/// httpbin, grpc and ext2, which only the rich set has.
pub const RICH: &[Row] = &[
    get(
        "httpbin: redirect",
        "/redirect/x",
        &[Look::Head("location")],
        "302 http://svc/new",
    )
    .to(HTTPBIN),
    get("httpbin: direct response", "/direct", BODY, "418 teapot").to(HTTPBIN),
    get(
        "httpbin: its reason phrase",
        "/direct",
        &[Look::Reason],
        "418 Unknown",
    )
    .to(HTTPBIN)
    .but("418 I'm a teapot", "phrases mean nothing (RFC 9112, section 4); ours are the registered ones"),
    get(
        "httpbin: headers set, removed, added",
        "/any",
        &[
            Look::UpHead("x-env"),
            Look::UpHead("x-gone"),
            Look::Head("x-resp"),
        ],
        "200 test - 1",
    )
    .to(HTTPBIN)
    .with(&[("x-gone", "1"), ("x-env", "mine")]),
    get(
        "httpbin: CORS, an origin that is allowed",
        "/any",
        ORIGIN,
        "200 https://a.example",
    )
    .to(HTTPBIN)
    .with(&[("origin", "https://a.example")]),
    get("httpbin: CORS, another origin", "/any", ORIGIN, "200 -")
        .to(HTTPBIN)
        .with(&[("origin", "https://b.example")]),
    get(
        "httpbin: CORS preflight, behind the policy",
        "/any",
        &[],
        "403",
    )
    .to(HTTPBIN)
    .method("OPTIONS", b"")
    .with(&[
        ("origin", "https://a.example"),
        ("access-control-request-method", "GET"),
    ]),
    get(
        "overlay: abort",
        "/fault/abort",
        BODY,
        "503 fault filter abort",
    )
    .to(HTTPBIN),
    get(
        "overlay: delay",
        "/fault/delay",
        &[Look::Up("path"), Look::Took(200)],
        "200 /fault/delay true",
    )
    .to(HTTPBIN),
    get(
        "overlay: time limit of 0.3 s",
        SILENT,
        BODY,
        "504 upstream request timeout",
    )
    .to(HTTPBIN),
    get(
        "grpc: by path and header",
        ECHO_METHOD,
        &[Look::Up("proto")],
        "200 HTTP/2.0",
    )
    .to(GRPC)
    .with(&[("x-a", "b1")]),
    get("grpc: no route", ECHO_METHOD, &[], "404")
        .to(GRPC)
        .with(&[("x-a", "c")]),
    get(
        "grpc: a call is denied in gRPC's words",
        ECHO_METHOD,
        &[Look::Head("grpc-status")],
        "200 7",
    )
    .to(GRPC)
    .method("POST", b"\0\0\0\0\0")
    .with(&[("x-a", "b1"), ("content-type", "application/grpc")]),
    get(
        "ext2: a name that does not resolve",
        "/",
        BODY,
        "503 no healthy upstream",
    )
    .to(EXT2)
    .but("503 -", "clusters by DNS are refused, and a route to no cluster answers without a body, as Envoy's does"),
];
const ORIGIN: &[Look] = &[Look::Head("access-control-allow-origin")];

/// The request whose answers are counted: 70 % to httpbin v1 over HTTP/2, 30 % to echo, 25 % mirrored to echo.
pub const COUNTED: Ask = Ask {
    path: "/counted",
    ..get("", "", &[], "").to(HTTPBIN).ask
};

/// `rows` asked of echo's address in the base set instead of the rich one.
pub fn at_base(rows: &[Row]) -> Vec<Row> {
    let moved = |row: &Row| match row.ask.to {
        ECHO => row.to(ECHO_BASE),
        _ => *row,
    };
    rows.iter().map(moved).collect()
}
