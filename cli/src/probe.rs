//! `causeway probe`: can this place be reached from here, or is it refused? Run by the pods of `helm test`, in images that hold
//! no other client. Plain blocking sockets: a pod that probes does nothing else.
use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Longest time for one attempt.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// Of an answer, only the status line matters.
const HEAD: usize = 1024;

/// Arguments of `causeway probe`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What to reach: http://HOST:PORT/PATH (answered with 200) or tcp://HOST:PORT (connected).
    #[arg(required = true)]
    targets: Vec<Target>,
    /// Try each for so many seconds before it counts as failed.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    wait: u64,
    /// Turn it round: good is that no target answers.
    #[arg(long)]
    refused: bool,
}

/// A place to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host and port.
    place: String,
    /// For HTTP; without it, connecting is enough.
    path: Option<String>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text}: wanted is http://HOST:PORT/PATH or tcp://HOST:PORT");
        let (scheme, rest) = text.split_once("://").ok_or_else(wanted)?;
        let (place, path) = match (scheme, rest.split_once('/')) {
            ("http", Some((place, path))) => (place, Some(format!("/{path}"))),
            ("http", None) => (rest, Some("/".to_owned())),
            ("tcp", None) => (rest, None),
            _ => return Err(wanted()),
        };
        let port = place.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            return Err(wanted());
        }
        Ok(Self {
            place: place.to_owned(),
            path,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "http://{}{path}", self.place),
            None => write!(f, "tcp://{}", self.place),
        }
    }
}

/// Probes every target and says what became of it, a line each; fails when one is not as it should be.
///
/// # Errors
/// When standard output is closed.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    let mut good = true;
    for target in &arguments.targets {
        let (line, fine) = judge(target, arguments);
        good &= fine;
        writeln!(out, "{} {target}: {line}", if fine { '✓' } else { '✗' })?;
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What became of a target, and whether that is as it should be.
fn judge(target: &Target, arguments: &Arguments) -> (String, bool) {
    let start = Instant::now();
    let outcome = until(target, arguments);
    let took = start.elapsed().as_millis();
    match (outcome, arguments.refused) {
        (Ok(answer), false) => (format!("{answer} after {took} ms"), true),
        (Ok(answer), true) => (format!("{answer}, but it should be refused"), false),
        (Err(why), false) => (format!("{why}, for {took} ms"), false),
        (Err(why), true) => (format!("refused: {why}"), true),
    }
}

/// Tries until there is the outcome that is hoped for, or the time is over.
fn until(target: &Target, arguments: &Arguments) -> Result<String, String> {
    let end = Instant::now() + Duration::from_secs(arguments.wait);
    loop {
        let outcome = attempt(target);
        if outcome.is_ok() != arguments.refused || Instant::now() >= end {
            return outcome;
        }
        std::thread::sleep(PAUSE);
    }
}

fn attempt(target: &Target) -> Result<String, String> {
    let addresses = target
        .place
        .to_socket_addrs()
        .map_err(|e| format!("the name is not known: {e}"))?;
    let mut fault = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, ATTEMPT) {
            Ok(stream) => {
                return match &target.path {
                    Some(path) => ask(stream, &target.place, path),
                    None => Ok("connected".to_owned()),
                };
            }
            Err(e) => fault = format!("cannot connect to {address}: {e}"),
        }
    }
    Err(fault)
}

fn ask(mut stream: TcpStream, host: &str, path: &str) -> Result<String, String> {
    let no_answer = |e: std::io::Error| format!("connected, but no answer: {e}");
    stream.set_read_timeout(Some(ATTEMPT)).map_err(no_answer)?;
    stream.set_write_timeout(Some(ATTEMPT)).map_err(no_answer)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(no_answer)?;
    let mut head = Vec::new();
    while !head.contains(&b'\n') && head.len() < HEAD {
        let mut buffer = [0; HEAD];
        match stream.read(&mut buffer).map_err(no_answer)? {
            0 => return Err("connected, but closed without an answer".to_owned()),
            n => head.extend_from_slice(&buffer[..n]),
        }
    }
    let text = String::from_utf8_lossy(&head);
    let line = text.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some("200") => Ok("answered 200".to_owned()),
        Some(status) if line.starts_with("HTTP/1.") => Err(format!("answered {status}")),
        _ => Err(format!("answered what is not HTTP: {line:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers each connection with this text and closes; its address.
    fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; HEAD]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        address
    }

    fn outcome(target: &str, refused: bool) -> (String, bool) {
        let arguments = Arguments {
            targets: Vec::new(),
            wait: 0,
            refused,
        };
        judge(&target.parse().unwrap(), &arguments)
    }

    #[test]
    fn a_200_is_good_and_anything_else_is_told() {
        let fine = server("HTTP/1.1 200 OK\r\n\r\n");
        assert!(outcome(&format!("http://{fine}/x"), false).1);
        let (line, good) = outcome(&format!("http://{fine}"), true);
        assert_eq!(
            (line.as_str(), good),
            ("answered 200, but it should be refused", false)
        );
        let denied = server("HTTP/1.1 403 Forbidden\r\n\r\n");
        let (line, good) = outcome(&format!("http://{denied}/"), false);
        assert!(line.starts_with("answered 403, for ") && !good, "{line}");
        assert_eq!(
            outcome(&format!("http://{denied}/"), true),
            ("refused: answered 403".to_owned(), true)
        );
        let silent = server("");
        assert_eq!(
            outcome(&format!("http://{silent}/"), true).0,
            "refused: connected, but closed without an answer"
        );
        let other = server("SSH-2.0\r\n");
        assert!(
            outcome(&format!("http://{other}/"), false)
                .0
                .starts_with("answered what is not HTTP: \"SSH-2.0\"")
        );
    }

    #[test]
    fn a_place_where_nobody_listens_cannot_be_connected_to() {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let (line, good) = outcome(&format!("tcp://{address}"), false);
        assert!(
            line.starts_with(&format!("cannot connect to {address}: ")) && !good,
            "{line}"
        );
    }

    #[test]
    fn a_target_that_is_no_place_is_refused_with_what_is_wanted() {
        for text in [
            "server:80",
            "http://server",
            "tcp://a:1/x",
            "udp://a:1",
            "http://a:b/",
        ] {
            assert_eq!(
                text.parse::<Target>().unwrap_err(),
                format!("{text}: wanted is http://HOST:PORT/PATH or tcp://HOST:PORT")
            );
        }
        assert_eq!(
            "http://a:1".parse::<Target>().unwrap().to_string(),
            "http://a:1/"
        );
    }
}
