//! A relay between TCP and HTTP/2 CONNECT on an old `h2` crate, without TLS. Started by `e2e/tests/foreign/relay.rs`:
//! `server LISTEN` accepts CONNECT and dials the authority, `client LISTEN TARGET AUTHORITY` accepts TCP and opens CONNECT at
//! TARGET. Half-closes pass in both directions; what breaks one side resets the other.

use std::cell::RefCell;
use std::error::Error;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{Method, Request, Response, StatusCode, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Streams that a connection of the client role carries at once.
const STREAMS: usize = 100;
const WINDOW: u32 = 1 << 20;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    LocalSet::new().block_on(&runtime, async {
        match words[..] {
            ["server", listen] => accept_tunnels(listen).await,
            ["client", listen, target, authority] => open_tunnels(listen, target, authority).await,
            _ => Err("server LISTEN | client LISTEN TARGET AUTHORITY".into()),
        }
    })
}

async fn accept_tunnels(listen: &str) -> Outcome<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (io, _) = listener.accept().await?;
        io.set_nodelay(true)?;
        spawn_local(async move {
            if let Err(error) = serve(io).await {
                eprintln!("connection: {error}");
            }
        });
    }
}

async fn serve(io: TcpStream) -> Outcome<()> {
    let mut builder = server::Builder::new();
    builder.initial_window_size(WINDOW);
    builder.initial_connection_window_size(4 * WINDOW);
    builder.max_concurrent_streams(200);
    let mut connection = builder.handshake(io).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        spawn_local(async move {
            let authority = request.uri().authority().map(ToString::to_string);
            let app = match authority.filter(|_| request.method() == Method::CONNECT) {
                Some(authority) => TcpStream::connect(authority).await.ok(),
                None => None,
            };
            let mut response = Response::new(());
            if app.is_none() {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            // The peer may have reset the stream meanwhile.
            if let Ok(send) = respond.send_response(response, app.is_none())
                && let Some(app) = app
            {
                relay(app, send, request.into_body()).await;
            }
        });
    }
    Ok(())
}

async fn open_tunnels(listen: &str, target: &str, authority: &str) -> Outcome<()> {
    let listener = TcpListener::bind(listen).await?;
    let uri = Uri::builder().authority(authority).build()?;
    // How many tunnels each connection carries. None is closed before this process ends: the crate closes without reading
    // what is left, and TCP makes that a reset that discards the last bytes under way.
    let mut connections: Vec<(client::SendRequest<Bytes>, Rc<RefCell<usize>>)> = Vec::new();
    loop {
        let (app, _) = listener.accept().await?;
        app.set_nodelay(true)?;
        let free = connections
            .iter()
            .find(|(_, streams)| *streams.borrow() < STREAMS)
            .cloned();
        let (opener, streams) = match free {
            Some(connection) => connection,
            None => {
                let connection = (connect(target).await?, Rc::default());
                connections.push(connection.clone());
                connection
            }
        };
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri.clone();
        *streams.borrow_mut() += 1;
        spawn_local(async move {
            if let Err(error) = open(opener, request, app).await {
                eprintln!("tunnel: {error}");
            }
            *streams.borrow_mut() -= 1;
        });
    }
}

async fn connect(target: &str) -> Outcome<client::SendRequest<Bytes>> {
    let io = TcpStream::connect(target).await?;
    io.set_nodelay(true)?;
    let mut builder = client::Builder::new();
    builder.initial_window_size(WINDOW);
    builder.initial_connection_window_size(4 * WINDOW);
    let (opener, connection) = builder.handshake(io).await?;
    spawn_local(async move {
        if let Err(error) = connection.await {
            eprintln!("connection: {error}");
        }
    });
    Ok(opener)
}

async fn open(
    opener: client::SendRequest<Bytes>,
    request: Request<()>,
    app: TcpStream,
) -> Outcome<()> {
    let mut opener = opener.ready().await?;
    let (response, send) = opener.send_request(request, false)?;
    match response.await {
        Ok(response) if response.status() == StatusCode::OK => {
            relay(app, send, response.into_body()).await;
        }
        _ => app.set_zero_linger()?,
    }
    Ok(())
}

/// Both directions, until both have ended or one has broken.
async fn relay(app: TcpStream, send: SendStream<Bytes>, body: RecvStream) {
    let (reader, writer) = app.into_split();
    let (mut send, mut writer) = (send, writer);
    let done = tokio::try_join!(up(reader, &mut send), down(body, &mut writer));
    if let Err(error) = done {
        eprintln!("tunnel: {error}");
        send.send_reset(Reason::CONNECT_ERROR);
        // The last half closes the socket, with a reset and without a FIN in front of it.
        let _ = writer.as_ref().set_zero_linger();
        writer.forget();
    }
}

async fn up(mut reader: OwnedReadHalf, send: &mut SendStream<Bytes>) -> Outcome<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = tokio::select! {
            n = reader.read(&mut buffer) => n?,
            reason = poll_fn(|cx| send.poll_reset(cx)) => return Err(reason?.to_string().into()),
        };
        if n == 0 {
            send.send_data(Bytes::new(), true)?;
            return Ok(());
        }
        let mut part = Bytes::copy_from_slice(&buffer[..n]);
        while !part.is_empty() {
            send.reserve_capacity(part.len());
            // `poll_capacity` tells of new capacity only.
            while send.capacity() == 0 {
                poll_fn(|cx| send.poll_capacity(cx))
                    .await
                    .ok_or("the stream is gone")??;
            }
            let granted = send.capacity().min(part.len());
            send.send_data(part.split_to(granted), false)?;
        }
    }
}

async fn down(mut body: RecvStream, writer: &mut OwnedWriteHalf) -> Outcome<()> {
    while let Some(part) = body.data().await {
        let part = part?;
        writer.write_all(&part).await?;
        body.flow_control().release_capacity(part.len())?;
    }
    writer.shutdown().await?;
    Ok(())
}
