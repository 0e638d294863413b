//! The callers: `keep` holds a connection and opens another when that one was closed, as HTTP clients do; `new` opens one per
//! request. They end after a time, or when there is a file `/stop`. Printed at the end: requests, failed ones with their
//! reasons, connections that could not be made, and cuts.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(5);
const STOP: &str = "/stop";
/// Between two requests of a caller.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Counts {
    requests: u64,
    /// Connections that were made.
    connections: u64,
    /// Kept connections that the other side ended between two requests.
    ended_between: u64,
    /// Kept connections that ended while a request was on them, by how; the request itself was sent again only if not a
    /// byte of an answer had come, on a new connection, once.
    cut: BTreeMap<String, u64>,
    /// Requests that got no answer.
    failed: BTreeMap<String, u64>,
}

/// Calls until the time is over and prints the counts.
#[expect(clippy::print_stdout, reason = "the counts are its output")]
pub fn run(mode: &str, url: &str, (seconds, callers): (&str, &str)) -> Result<(), Box<dyn Error>> {
    let keep = match mode {
        "keep" => true,
        "new" => false,
        _ => return Err(format!("{mode:?} is neither keep nor new").into()),
    };
    let authority = url
        .strip_prefix("http://")
        .ok_or("the URL begins with http://")?
        .trim_end_matches('/');
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds.parse()?);
    let callers: Vec<_> = (0..callers.parse::<usize>()?)
        .map(|_| {
            let authority = authority.clone();
            thread::spawn(move || calls(&authority, keep, (start, end)))
        })
        .collect();
    let mut all = Counts::default();
    for caller in callers {
        let one = caller.join().map_err(|_| "a caller died")?;
        all.requests += one.requests;
        all.connections += one.connections;
        all.ended_between += one.ended_between;
        for (how, count) in one.cut {
            *all.cut.entry(how).or_default() += count;
        }
        for (why, count) in one.failed {
            *all.failed.entry(why).or_default() += count;
        }
    }
    let failed: u64 = all.failed.values().sum();
    println!(
        "requests={} failed={failed} connections={} ended_between={} cut={:?} reasons={:?}",
        all.requests, all.connections, all.ended_between, all.cut, all.failed
    );
    Ok(())
}

fn calls(authority: &str, keep: bool, (start, end): (Instant, Instant)) -> Counts {
    let mut counts = Counts::default();
    let mut kept: Option<TcpStream> = None;
    while Instant::now() < end && !Path::new(STOP).exists() {
        counts.requests += 1;
        if let Err(error) = one(authority, &mut kept, &mut counts) {
            let why = format!("{error}, told at {} s", start.elapsed().as_secs());
            *counts.failed.entry(why).or_default() += 1;
            kept = None;
        }
        if !keep {
            kept = None;
        }
        thread::sleep(PAUSE);
    }
    counts
}

fn one(authority: &str, kept: &mut Option<TcpStream>, counts: &mut Counts) -> io::Result<()> {
    if let Some(mut connection) = kept.take() {
        if ended(&connection) {
            counts.ended_between += 1;
        } else {
            match exchange(&mut connection, authority) {
                Ok(()) => {
                    *kept = Some(connection);
                    return Ok(());
                }
                Err(Lost {
                    any_answer: false,
                    error,
                }) => *counts.cut.entry(error.kind().to_string()).or_default() += 1,
                Err(Lost { error, .. }) => return Err(error),
            }
        }
    }
    let mut connection = connect(authority)?;
    counts.connections += 1;
    exchange(&mut connection, authority).map_err(|lost| lost.error)?;
    *kept = Some(connection);
    Ok(())
}

fn connect(authority: &str) -> io::Result<TcpStream> {
    let address: SocketAddr = authority
        .to_socket_addrs()?
        .next()
        .ok_or(ErrorKind::NotFound)?;
    let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Did the other side end a connection that lies still?
fn ended(connection: &TcpStream) -> bool {
    if connection.set_nonblocking(true).is_err() {
        return true;
    }
    let looked = connection.peek(&mut [0]);
    let open = matches!(&looked, Err(error) if error.kind() == ErrorKind::WouldBlock);
    connection.set_nonblocking(false).is_err() || !open
}

struct Lost {
    error: io::Error,
    any_answer: bool,
}

/// One request; the whole answer must come, with status 200.
fn exchange(connection: &mut TcpStream, authority: &str) -> Result<(), Lost> {
    let lost = |error, any_answer| Lost { error, any_answer };
    let request = format!("GET / HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    connection
        .write_all(request.as_bytes())
        .map_err(|error| lost(error, false))?;
    let mut answer = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        match connection.read(&mut buffer) {
            Ok(0) => return Err(lost(ErrorKind::UnexpectedEof.into(), !answer.is_empty())),
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) => return Err(lost(error, !answer.is_empty())),
        }
        if let Some(complete) = judged(&answer) {
            return complete.map_err(|error| lost(error, true));
        }
    }
}

/// Is the answer complete, and good?
fn judged(answer: &[u8]) -> Option<io::Result<()>> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    let length = lines.find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length:")
            .and_then(|n| n.trim().parse::<usize>().ok())
    });
    if body.len() < length.unwrap_or(0) {
        return None;
    }
    let good = status.split_whitespace().nth(1) == Some("200");
    Some(if good {
        Ok(())
    } else {
        Err(io::Error::other(status.to_owned()))
    })
}
