use super::*;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;

fn socket_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("causeway-seqpacket-{}-{name}", std::process::id()))
}

#[test]
fn a_message_arrives_whole_with_its_descriptor() {
    let (a, b) = Connection::pair().unwrap();
    let mut file = tempfile();
    file.write_all(b"through the socket").unwrap();
    a.send(b"one", Some(file.as_fd())).unwrap();
    a.send(b"two", None).unwrap();
    let mut buffer = [0; 64];
    let first = b.recv(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..first.len], first.fds.len(), first.truncated),
        (&b"one"[..], 1, false)
    );
    let mut received = File::from(first.fds.into_iter().next().unwrap());
    received.rewind().unwrap();
    let mut text = String::new();
    received.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the socket");
    let second = b.recv(&mut buffer).unwrap();
    assert_eq!((&buffer[..second.len], second.fds.len()), (&b"two"[..], 0));
    assert_eq!(
        b.recv(&mut buffer).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    drop(a);
    assert_eq!(b.recv(&mut buffer).unwrap().len, 0);
}

#[test]
fn lost_bytes_and_lost_descriptors_are_reported_and_leak_nothing() {
    let (a, b) = Connection::pair().unwrap();
    a.send(&[7; 100], None).unwrap();
    let mut small = [0; 10];
    let cut = b.recv(&mut small).unwrap();
    assert!(cut.truncated && cut.len == 10);
    let (mut read, write) = std::io::pipe().unwrap();
    a.send_many(b"x", &[write.as_fd(); MAX_FDS + 3]).unwrap();
    let many = b.recv(&mut small).unwrap();
    assert!(many.truncated);
    assert_eq!(many.fds.len(), MAX_FDS);
    drop((many, write));
    // End of file comes only when no copy of the write end is left anywhere.
    assert_eq!(read.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_listener_is_found_by_path_and_its_absence_is_told_apart() {
    let path = socket_path("listen");
    assert_eq!(
        Connection::connect(&path).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    let listener = Listener::bind(&path).unwrap();
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    let client = Connection::connect(&path).unwrap();
    let server = listener.accept().unwrap();
    client.send(b"hi", None).unwrap();
    assert_eq!(server.recv(&mut [0; 8]).unwrap().len, 2);
    assert_eq!(
        Listener::bind(&path).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
    drop(listener);
    // The file outlives the listener: a stale socket refuses.
    assert_eq!(
        Connection::connect(&path).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    std::fs::remove_file(&path).unwrap();
}

fn tempfile() -> File {
    let path = socket_path("file");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path);
    std::fs::remove_file(&path).unwrap();
    file.unwrap()
}
