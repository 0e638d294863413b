//! The life of one ztunnel connection: hello, snapshot, then orders one at a time, each with its
//! answer. Spawned by the accept loop; ends when the peer goes away or breaks the protocol.
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use sys::Netns;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Order, Pod, ServerError, Shared};
use crate::codec::{self, ProtocolError};
use crate::socket::Socket;

/// How long ztunnel may take to say hello, and to answer.
pub(super) const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one connection until it ends; the caller removes its link then.
pub(super) async fn run(
    mut socket: Socket,
    shared: &Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> ServerError {
    if let Err(error) = greet(&mut socket, shared).await {
        return error;
    }
    shared.connected.send_modify(|count| *count += 1);
    let ended = serve(&mut socket, &mut orders).await;
    shared.connected.send_modify(|count| *count -= 1);
    ended
}

/// Hello, every pod of the node, snapshot_sent. A pod that ztunnel refuses does not stop the
/// others: it keeps that pod as pending and tries again by itself.
async fn greet(socket: &mut Socket, shared: &Shared) -> Result<(), ServerError> {
    let hello = timeout(ACK_TIMEOUT, socket.recv())
        .await
        .map_err(|_| ServerError::Timeout)??;
    codec::decode_hello(hello.ok_or(ServerError::NoZtunnel)?)?;
    for Pod { uid, info, netns } in shared.pods.snapshot() {
        let payload = if netns.is_some() {
            codec::add(&uid, &info)
        } else {
            codec::keep(&uid)
        };
        let sent = exchange(socket, &codec::encode_request(payload)?, netns.as_ref()).await;
        match sent {
            Err(ServerError::Refused(why)) => {
                tracing::warn!(
                    uid,
                    pod = info.name,
                    namespace = info.namespace,
                    why,
                    "ztunnel does not serve a pod yet"
                );
            }
            other => other?,
        }
    }
    exchange(
        socket,
        &codec::encode_request(codec::snapshot_sent())?,
        None,
    )
    .await
}

async fn serve(socket: &mut Socket, orders: &mut mpsc::UnboundedReceiver<Order>) -> ServerError {
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            packet = socket.recv() => return match packet {
                Ok(Some(_)) => ProtocolError::Unsolicited.into(),
                Ok(None) => ServerError::NoZtunnel,
                Err(error) => error.into(),
            },
        };
        let Some(Order {
            bytes,
            netns,
            answer,
        }) = order
        else {
            return ServerError::NoZtunnel;
        };
        match exchange(socket, &bytes, netns.as_ref()).await {
            // Whoever asked may have given up waiting; the pod's state is the agent's to repair.
            done @ (Ok(()) | Err(ServerError::Refused(_))) => _ = answer.send(done),
            // The peer went away: dropping `answer` lets the asker try another connection.
            Err(gone @ (ServerError::NoZtunnel | ServerError::Io(_))) => return gone,
            Err(ServerError::Timeout) => {
                let _ = answer.send(Err(ServerError::Timeout));
                return ServerError::Timeout;
            }
            Err(ServerError::Protocol(error)) => {
                let _ = answer.send(Err(ServerError::Refused(error.to_string())));
                return error.into();
            }
        }
    }
}

/// One request and its answer. After any error but `Refused` the connection is of no use.
async fn exchange(
    socket: &mut Socket,
    bytes: &[u8],
    netns: Option<&Netns>,
) -> Result<(), ServerError> {
    let asked = async {
        socket.send(bytes, netns.map(AsFd::as_fd)).await?;
        let packet = socket.recv().await?.ok_or(ServerError::NoZtunnel)?;
        Ok::<_, ServerError>(codec::decode_ack(packet)?)
    };
    let answer = timeout(ACK_TIMEOUT, asked)
        .await
        .map_err(|_| ServerError::Timeout)??;
    answer.map_err(ServerError::Refused)
}
