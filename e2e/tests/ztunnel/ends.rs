//! Ends on real sockets: what kernels do with bytes that are on their way when somebody closes.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hbone::headers::ConnectRequest;
use hbone::proto::Config;
use hbone::tokio::client;
use identity::handshake;
use nix::sys::signal::Signal;
use testkit::echo;
use testkit::mesh::{LIMIT, Mesh};
use testkit::topology::Namespace;
use tokio::io::AsyncWriteExt as _;
use tokio::task::LocalSet;

/// Calls per way: what lies in one look at the sockets and what in two is the scheduler's choice.
const CALLS: usize = 20;
/// Of a certificate.
const LIFE: Duration = Duration::from_secs(3600);

/// An application that answers after the first byte and closes with the rest unread, which its kernel makes a reset.
fn answer_early(server: &Namespace, to: SocketAddr, answer: &'static [u8]) -> Result<()> {
    let listener = server.listen(to)?;
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let answered = stream
                .read_exact(&mut [0])
                .and_then(|()| stream.write_all(answer));
            if answered.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Uploads without end and reads what comes meanwhile, until the connection ends. True: in order.
fn upload(mut stream: TcpStream) -> Result<(Vec<u8>, bool)> {
    let mut writer = stream.try_clone()?;
    let writing = thread::spawn(move || {
        let chunk = vec![7; 64 << 10];
        for _ in 0..1000 {
            if writer.write_all(&chunk).is_err() {
                return;
            }
        }
    });
    let mut got = Vec::new();
    let ended = stream.read_to_end(&mut got);
    // The writer may have been told of the reset instead: then what was read ends as if in order.
    drop(stream);
    ensure!(writing.join().is_ok(), "the writer does not panic");
    Ok((got, ended.is_ok()))
}

#[test]
fn an_answer_that_an_application_gives_before_it_resets_arrives() -> Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\n\r\n";
    testkit::root_or_skip!();
    let mesh = Mesh::start(2)?;
    let (client, near, far) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(0, "near", "server")?,
        mesh.pod(1, "far", "server")?,
    );
    mesh.settle()?;
    for server in [&near, &far] {
        answer_early(&server.net.ns, server.at(8080), ANSWER)?;
    }
    let outside = mesh.topology.control();
    for (way, from, to) in [
        ("tunnel", &client.net.ns, far.at(8080)),
        ("same node", &client.net.ns, near.at(8080)),
        ("plain", outside, far.at(8080)),
    ] {
        for call in 0..CALLS {
            let (got, _) = upload(echo::connect(from, to)?)?;
            ensure!(got == ANSWER, "{way}, call {call}: {} bytes", got.len());
        }
    }
    Ok(())
}

/// Reads everything, after it has closed its own half.
fn sink(server: &Namespace, to: SocketAddr) -> Result<JoinHandle<Result<usize>>> {
    let listener = server.listen(to)?;
    Ok(thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(2 * LIMIT))?;
        stream.read_exact(&mut [0])?;
        stream.write_all(b"y")?;
        stream.shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).context("read")?;
        Ok(all.len())
    }))
}

#[test]
fn an_upload_over_a_slow_link_arrives_although_its_tunnel_drains() -> Result<()> {
    const UPLOAD: usize = 4 << 20;
    testkit::root_or_skip!();
    let mut mesh = Mesh::start_with(2, &[("CONNECTION_TERMINATION_DEADLINE", "20s")])?;
    let (client, server) = (
        mesh.pod(0, "client", "client")?,
        mesh.pod(1, "server", "server")?,
    );
    mesh.settle()?;
    let sink = sink(&server.net.ns, server.at(8080))?;
    let mut stream = echo::connect(&client.net.ns, server.at(8080))?;
    assert_eq!(echo::ping(&mut stream, b"x")?, b"y");
    assert_eq!(stream.read(&mut [0])?, 0);
    let shaped = "qdisc add dev eth0 root tbf rate 40mbit burst 64kb latency 2s";
    let shaped: Vec<&str> = shaped.split(' ').collect();
    mesh.nodes[0].net.ns.command("tc", &shaped)?;
    mesh.nodes[1].ztunnel().signal(Signal::SIGTERM)?;
    mesh.nodes[1].log_line(&["drain"])?;
    stream.write_all(&vec![7; UPLOAD])?;
    stream.shutdown(Shutdown::Write)?;
    let arrived = sink.join().expect("the application does not panic")?;
    assert_eq!(arrived, UPLOAD);
    Ok(())
}

/// Sends `upload` bytes before it reads anything, then reads to the end.
fn talks_first(
    server: &Namespace,
    to: SocketAddr,
    upload: usize,
) -> Result<JoinHandle<Result<usize>>> {
    let listener = server.listen(to)?;
    Ok(thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.write_all(&vec![7; upload]).context("write")?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).context("read")?;
        Ok(all.len())
    }))
}

#[test]
fn what_a_peer_sent_before_it_took_leave_of_its_stream_arrives() -> Result<()> {
    const SENT: usize = 1 << 20;
    const UPLOAD: usize = 8 << 20;
    testkit::root_or_skip!();
    let mesh = Mesh::start(1)?;
    let server = mesh.pod(0, "server", "server")?;
    // Without a ztunnel of its own: it speaks for itself, as a waypoint does.
    let peer = mesh.bare_pod(0, "peer", "peer")?;
    mesh.publish(&peer.workload);
    mesh.settle()?;
    let application = talks_first(&server.net.ns, server.at(8080), UPLOAD)?;
    let certificate = mesh.ca.issue(&mesh.ca.identity("app", "peer"), LIFE);
    let accepted = [mesh.ca.identity("app", "server")];
    let carrier = echo::connect(&peer.net.ns, server.at(15008))?;
    carrier.set_nonblocking(true)?;
    let request = ConnectRequest::new(server.at(8080).to_string().parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let arrived = LocalSet::new().block_on(&runtime, async {
        let carrier = tokio::net::TcpStream::from_std(carrier)?;
        let (carrier, _) = handshake::connect(carrier, &certificate, &accepted, LIMIT).await?;
        let (handle, driver) = client::connect(carrier, Config::client());
        tokio::task::spawn_local(driver);
        let (mut stream, _) = handle.open(&request).await?;
        stream.write_all(&vec![7; SENT]).await?;
        stream.shutdown().await?;
        // END_STREAM is said, and now CANCEL: it does not want the answer.
        drop(stream);
        tokio::task::spawn_blocking(move || application.join())
            .await?
            .expect("no panic")
    })?;
    assert_eq!(arrived, SENT);
    Ok(())
}
