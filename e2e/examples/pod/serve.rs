//! The server: HTTP/1.1, connections are kept, every answer says which node it comes from; but `/ready`, which the kubelet
//! asks in plain text, tells nothing.

use std::{
    error::Error,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    thread,
};

/// Serves for ever.
pub fn run(port: &str) -> Result<(), Box<dyn Error>> {
    let port = port.parse()?;
    // Without IPv6 in the pod, IPv4 alone.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    let node = std::env::var("NODE").unwrap_or_default();
    loop {
        let (connection, _) = listener.accept()?;
        let body = format!("plainly from {node}\n");
        thread::spawn(move || {
            // A client that goes away is its own affair.
            let _ended = answer(connection, &body);
        });
    }
}

fn answer(mut connection: TcpStream, body: &str) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let lines = BufReader::new(connection.try_clone()?).lines();
    let mut probe = false;
    for line in lines {
        let line = line?;
        if line.starts_with("GET ") {
            probe = line.starts_with("GET /ready ");
        }
        if line.is_empty() {
            let body = if probe { "ready\n" } else { body };
            // In one piece, as servers send small answers.
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            connection.write_all(answer.as_bytes())?;
        }
    }
    Ok(())
}
