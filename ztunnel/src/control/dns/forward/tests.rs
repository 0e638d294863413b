//! Against name servers on the loopback that follow a script.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::TcpListener;

use super::*;

fn packet() -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(
        Name::from_ascii("www.example.com.").unwrap(),
        RecordType::A,
    ));
    message.to_vec().unwrap()
}

/// What a server makes of a question.
type Script = fn(&Request, &[u8]) -> Vec<Vec<u8>>;

fn answered(request: &Request, asked: &[u8]) -> Vec<Vec<u8>> {
    let mut reply = request.addresses(None, &[Ipv4Addr::new(192, 0, 2, 1).into()], 512);
    reply[..2].copy_from_slice(&asked[..2]);
    vec![reply]
}

fn failing(request: &Request, asked: &[u8]) -> Vec<Vec<u8>> {
    let mut reply = request.empty(ResponseCode::ServFail);
    reply[..2].copy_from_slice(&asked[..2]);
    vec![reply]
}

/// Others' answers first, as somebody would send who guesses.
fn forged_then_answered(request: &Request, asked: &[u8]) -> Vec<Vec<u8>> {
    let good = answered(request, asked).remove(0);
    let mut forged = good.clone();
    forged[0] ^= 0x55;
    let mut other = good.clone();
    other[14] ^= 0x01;
    vec![b"no message".to_vec(), forged, other, good]
}

fn silent(_: &Request, _: &[u8]) -> Vec<Vec<u8>> {
    Vec::new()
}

/// One packet longer than anybody takes.
fn huge(request: &Request, asked: &[u8]) -> Vec<Vec<u8>> {
    let mut reply = answered(request, asked).remove(0);
    reply.resize(MAX_UDP + 100, 0);
    vec![reply]
}

struct Server {
    address: SocketAddr,
    socket: UdpSocket,
    script: Script,
}

impl Server {
    async fn udp(script: Script) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        Self {
            address,
            socket,
            script,
        }
    }

    /// Answers until the test is over; how many questions came is counted.
    async fn run(&self, questions: &std::cell::Cell<u32>) {
        let mut buffer = [0; 600];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer).await.unwrap();
            questions.set(questions.get() + 1);
            let request = wire::read(&buffer[..length]).unwrap();
            for reply in (self.script)(&request, &buffer[..length]) {
                self.socket.send_to(&reply, from).await.unwrap();
            }
        }
    }
}

/// Asks two servers; the outcome, and how many questions each got.
async fn ask(first: Script, second: Script) -> (Result<Message, Failure>, [u32; 2]) {
    let (one, two) = (Server::udp(first).await, Server::udp(second).await);
    let counts = [std::cell::Cell::new(0), std::cell::Cell::new(0)];
    let upstream = Upstream::new(&[one.address, two.address], None);
    let packet = packet();
    let request = wire::read(&packet).unwrap();
    let outcome = tokio::select! {
        outcome = upstream.ask(&None, Transport::Udp, &request, &packet) => outcome,
        () = one.run(&counts[0]) => unreachable!(),
        () = two.run(&counts[1]) => unreachable!(),
    };
    let outcome = outcome.map(|bytes| Message::from_vec(&bytes).unwrap());
    (outcome, counts.map(|count| count.get()))
}

#[tokio::test]
async fn the_first_server_that_can_tell_is_believed() {
    let (answer, asked) = ask(answered, answered).await;
    let answer = answer.unwrap();
    assert_eq!((answer.metadata.id, answer.answers.len()), (7, 1));
    assert_eq!(asked, [1, 0]);
    let (answer, asked) = ask(failing, answered).await;
    assert_eq!(answer.unwrap().answers.len(), 1);
    assert_eq!(asked, [1, 1]);
}

#[tokio::test]
async fn a_fault_of_all_is_passed_on_and_nobody_is_asked_twice_for_it() {
    let (answer, asked) = ask(failing, failing).await;
    assert_eq!(
        answer.unwrap().metadata.response_code,
        ResponseCode::ServFail
    );
    assert_eq!(asked, [1, 1]);
}

#[tokio::test]
async fn forged_replies_are_not_taken() {
    let (answer, asked) = ask(forged_then_answered, silent).await;
    assert_eq!(answer.unwrap().answers.len(), 1);
    assert_eq!(asked, [1, 0]);
}

#[tokio::test]
async fn a_reply_that_is_too_long_is_to_be_asked_for_over_tcp() {
    let (answer, _) = ask(huge, silent).await;
    let answer = answer.unwrap();
    assert!(answer.metadata.truncation && answer.answers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_after_five_seconds_and_names_the_server() {
    let begin = Instant::now();
    let (answer, asked) = ask(silent, silent).await;
    let text = answer.unwrap_err().to_string();
    assert!(text.starts_with("name server 127.0.0.1:"), "{text}");
    assert_eq!(begin.elapsed(), DEADLINE);
    assert_eq!(asked, [2, 2]);
}

#[tokio::test]
async fn nobody_to_ask_and_nobody_there_fail_at_once() {
    let packet = packet();
    let request = wire::read(&packet).unwrap();
    let none = Upstream::new(&[], None);
    let outcome = none.ask(&None, Transport::Udp, &request, &packet).await;
    assert!(matches!(outcome, Err(Failure::NoServer)));
    let gone = Server::udp(silent).await.address;
    for transport in [Transport::Udp, Transport::Tcp] {
        let absent = Upstream::new(&[gone], None);
        let outcome = absent.ask(&None, transport, &request, &packet).await;
        let Err(Failure::Server { source, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
    }
}

#[tokio::test]
async fn what_came_over_tcp_goes_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::new(&[listener.local_addr().unwrap()], None);
    let packet = packet();
    let request = wire::read(&packet).unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut asked = vec![0; length.into()];
        stream.read_exact(&mut asked).await.unwrap();
        let many: Vec<_> = (0..=255)
            .map(|n| Ipv4Addr::new(192, 0, 2, n).into())
            .collect();
        let read = wire::read(&asked).unwrap();
        let mut reply = read.addresses(None, &many, wire::MAX_TCP);
        reply[..2].copy_from_slice(&asked[..2]);
        stream.write_all(&framed(&reply)).await.unwrap();
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = upstream.ask(&None, Transport::Tcp, &request, &packet) => outcome,
        () = serve => unreachable!(),
    };
    assert_eq!(
        Message::from_vec(&outcome.unwrap()).unwrap().answers.len(),
        256
    );
}
