use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Readiness;
use crate::metrics::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;

async fn served(router: Router) -> (SocketAddr, Shutdown) {
    let shutdown = Shutdown::new();
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address().unwrap();
    server.serve(router, &shutdown);
    (address, shutdown)
}

async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn readiness_answers_with_upstreams_text_and_status() {
    let readiness = Readiness::new();
    let pending = readiness.register("state manager");
    let (address, _shutdown) = served(Router::new().readiness(&readiness)).await;
    let text = exchange(address, &get("/healthz/ready")).await;
    assert!(text.starts_with("HTTP/1.1 500"), "{text}");
    assert!(
        text.ends_with("\r\n\r\nnot ready, pending: state manager\n"),
        "{text}"
    );
    drop(pending);
    let text = exchange(address, &get("/healthz/ready")).await;
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\nready\n"),
        "{text}"
    );
}

#[tokio::test]
async fn metrics_are_served_under_both_paths_and_unknown_paths_list_what_there_is() {
    let (address, _shutdown) = served(Router::new().metrics(&Registry::new())).await;
    for path in ["/metrics", "/stats/prometheus"] {
        let text = exchange(address, &get(path)).await;
        assert!(
            text.contains("content-type: text/plain; version=0.0.4"),
            "{text}"
        );
        assert!(text.contains("process_max_fds "), "{text}");
    }
    let text = exchange(address, &get("/nothing")).await;
    assert!(text.starts_with("HTTP/1.1 404"), "{text}");
    assert!(
        text.ends_with("not found; there is: /metrics /stats/prometheus\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_scrape_runs_beside_the_tasks_of_the_runtime_and_one_at_a_time() {
    let here = std::thread::current().id();
    let (elsewhere, running) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, at_once) = (elsewhere.clone(), running.clone());
    let before = move || {
        assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0, "two at once");
        // Whoever wants in meanwhile has the time.
        for _ in 0..1000 {
            std::thread::yield_now();
        }
        seen.fetch_add(
            usize::from(std::thread::current().id() != here),
            Ordering::SeqCst,
        );
        at_once.fetch_sub(1, Ordering::SeqCst);
    };
    let router = Router::new().metrics_after(&Registry::new(), before);
    let (address, _shutdown) = served(router).await;
    let (metrics, stats) = (get("/metrics"), get("/stats/prometheus"));
    let texts = tokio::join!(
        exchange(address, &metrics),
        exchange(address, &stats),
        exchange(address, &metrics)
    );
    for text in [texts.0, texts.1, texts.2] {
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }
    assert_eq!(elsewhere.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_changes_something_wants_a_post() {
    let shutdown = Shutdown::new();
    let (address, _server) = served(Router::new().quit(&shutdown)).await;
    let text = exchange(address, &get("/quitquitquit")).await;
    assert!(
        text.starts_with("HTTP/1.1 405") && !shutdown.is_draining(),
        "{text}"
    );
    let post = get("/quitquitquit").replace("GET", "POST");
    let text = exchange(address, &post).await;
    assert!(
        text.starts_with("HTTP/1.1 200") && shutdown.is_draining(),
        "{text}"
    );
}

#[tokio::test]
async fn a_peer_that_never_ends_its_headers_is_cut_off() {
    let (address, _shutdown) = served(Router::new()).await;
    // The connection is closed by the server's header timeout; read_to_string returns then.
    exchange(address, "GET / HTTP/1.1\r\nhost: x\r\n").await;
}

#[tokio::test]
async fn a_peer_that_never_ends_its_body_is_cut_off() {
    let ok = |_| std::future::ready(text_response(StatusCode::OK, "fine"));
    let (address, _shutdown) = served(Router::new().route("/x", ok)).await;
    let head = "POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf";
    let text = exchange(address, head).await;
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
}

/// A connection in memory, so that time may be paused, and its far end with this much room.
fn in_memory(router: Router, room: usize) -> (DuplexStream, impl Future<Output = ()>) {
    let (near, far) = tokio::io::duplex(room);
    (far, serve_connection(near, Arc::new(router)))
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_and_never_reads_is_cut_off() {
    let large = |_| std::future::ready(text_response(StatusCode::OK, vec![b'x'; 1 << 20]));
    let (mut far, served) = in_memory(Router::new().route("/x", large), 16 << 10);
    let asks = "GET /x HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    far.write_all(asks.as_bytes()).await.unwrap();
    let ended = tokio::time::timeout(HOUR, served).await;
    assert!(ended.is_ok(), "it is served for ever");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_on_for_ever_is_cut_off() {
    let ok = |_| std::future::ready(text_response(StatusCode::OK, "fine"));
    let (mut far, served) = in_memory(Router::new().route("/x", ok), 16 << 10);
    let asks = async {
        let mut answer = [0; 4096];
        let ask = b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n";
        while far.write_all(ask).await.is_ok() && far.read(&mut answer).await.is_ok_and(|n| n > 0) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let both = async { tokio::join!(served, asks) };
    let ended = tokio::time::timeout(HOUR, both).await;
    assert!(ended.is_ok(), "it is served for ever");
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let ok = |_| std::future::ready(text_response(StatusCode::OK, "fine"));
    let (address, _shutdown) = served(Router::new().route("/x", ok)).await;
    let mut taken = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        taken.push(TcpStream::connect(address).await.unwrap());
    }
    // Another address of the same machine.
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = other.connect(address).await.unwrap();
    stream.write_all(get("/x").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("fine"), "{text}");
    // Accepted in order: those before it have been dealt with.
    let held = |stream: &&TcpStream| {
        let read = stream.try_read(&mut [0; 1]);
        read.is_err_and(|fault| fault.kind() == std::io::ErrorKind::WouldBlock)
    };
    let held = taken.iter().filter(held).count();
    assert!(held <= MAX_OF_ADDRESS, "{held} of one address");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let ok = |_| std::future::ready(text_response(StatusCode::OK, "fine"));
    let (address, _shutdown) = served(Router::new().route("/x", ok)).await;
    let head = "POST /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 70000\r\n\r\n";
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; 70_000]).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[test]
fn a_query_value_is_found_by_name() {
    let request = |path: &str| {
        http::Request::builder()
            .uri(path)
            .body(Bytes::new())
            .unwrap()
    };
    assert_eq!(
        query(&request("/logging?a=1&level=debug"), "level"),
        Some("debug")
    );
    assert_eq!(query(&request("/logging?mylevel=debug"), "level"), None);
    assert_eq!(query(&request("/logging"), "level"), None);
}
