//! Packets to messages and back, without I/O. A packet that breaks a rule of the protocol is an
//! error that ends the connection; nothing here panics on peer bytes.
use std::os::fd::OwnedFd;

use prost::Message;
use proto::zds::{
    Ack, AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, Version, WorkloadInfo,
    WorkloadRequest, WorkloadResponse, ZdsHello, workload_request, workload_response,
};

/// Longest packet in bytes, both ways.
pub const MAX_PACKET: usize = 1024;

/// Who a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodInfo {
    /// Pod name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
}

/// What the node agent asks of ztunnel. Each is answered before the next is sent.
#[derive(Debug)]
pub enum Request {
    /// Serve this pod.
    Add {
        /// Kubernetes uid of the pod.
        uid: String,
        /// Who it is; an older agent may leave it out.
        info: Option<PodInfo>,
        /// Its network namespace.
        netns: OwnedFd,
    },
    /// Go on serving this pod; the agent has lost its namespace.
    Keep {
        /// Kubernetes uid of the pod.
        uid: String,
    },
    /// The pod is gone or has left the mesh.
    Del {
        /// Kubernetes uid of the pod.
        uid: String,
    },
    /// All pods of the node have been named since the connection began; others are to be dropped.
    SnapshotSent,
}

/// A packet that breaks the protocol; the connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Bytes or descriptors were cut off.
    #[error("a packet was longer than {MAX_PACKET} bytes or carried too many descriptors")]
    Truncated,
    /// Our own message does not fit in a packet.
    #[error("a message of {0} bytes does not fit in a packet of {MAX_PACKET}")]
    TooLong(usize),
    /// Descriptors where none belong, or not exactly one with an add.
    #[error("{message} came with {found} descriptors instead of {expected}")]
    Descriptors {
        /// Which message.
        message: &'static str,
        /// How many came.
        found: usize,
        /// How many belong.
        expected: usize,
    },
    /// Not a message of the protocol.
    #[error("a packet cannot be decoded")]
    Malformed(#[from] prost::DecodeError),
    /// A message without content, or of a kind that we do not know.
    #[error("a {0} without known content")]
    Unknown(&'static str),
    /// A version of the protocol that we do not speak.
    #[error("version {0} of the protocol is not spoken here")]
    Version(i32),
    /// A packet where none was due.
    #[error("a packet came where none was due")]
    Unsolicited,
}

/// One packet as it came from the socket.
#[derive(Debug, Default)]
pub struct Packet<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// The descriptors.
    pub fds: Vec<OwnedFd>,
    /// Something was cut off.
    pub truncated: bool,
}

impl Packet<'_> {
    fn without_fds<M: Message + Default>(self, message: &'static str) -> Result<M, ProtocolError> {
        self.whole(message, 0)?;
        Ok(M::decode(self.bytes)?)
    }

    fn whole(&self, message: &'static str, expected: usize) -> Result<(), ProtocolError> {
        if self.truncated || self.bytes.len() > MAX_PACKET {
            return Err(ProtocolError::Truncated);
        }
        let found = self.fds.len();
        if found != expected {
            return Err(ProtocolError::Descriptors {
                message,
                found,
                expected,
            });
        }
        Ok(())
    }
}

/// The client's first packet.
#[must_use]
pub fn encode_hello() -> Vec<u8> {
    ZdsHello {
        version: Version::V1.into(),
    }
    .encode_to_vec()
}

/// Reads the client's first packet.
///
/// # Errors
/// Anything but version 1.
pub fn decode_hello(packet: Packet<'_>) -> Result<(), ProtocolError> {
    let hello: ZdsHello = packet.without_fds("hello")?;
    if hello.version == i32::from(Version::V1) {
        return Ok(());
    }
    Err(ProtocolError::Version(hello.version))
}

/// The bytes of a request; the descriptor of an add travels beside them.
///
/// # Errors
/// [`ProtocolError::TooLong`] with names far beyond Kubernetes' limits.
pub fn encode_request(payload: workload_request::Payload) -> Result<Vec<u8>, ProtocolError> {
    let bytes = WorkloadRequest {
        payload: Some(payload),
    }
    .encode_to_vec();
    if bytes.len() > MAX_PACKET {
        return Err(ProtocolError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

pub(crate) fn add(uid: &str, info: &PodInfo) -> workload_request::Payload {
    let workload_info = WorkloadInfo {
        name: info.name.clone(),
        namespace: info.namespace.clone(),
        service_account: info.service_account.clone(),
    };
    workload_request::Payload::Add(AddWorkload {
        uid: uid.to_owned(),
        workload_info: Some(workload_info),
    })
}

pub(crate) fn keep(uid: &str) -> workload_request::Payload {
    workload_request::Payload::Keep(KeepWorkload {
        uid: uid.to_owned(),
    })
}

pub(crate) fn del(uid: &str) -> workload_request::Payload {
    workload_request::Payload::Del(DelWorkload {
        uid: uid.to_owned(),
    })
}

pub(crate) fn snapshot_sent() -> workload_request::Payload {
    workload_request::Payload::SnapshotSent(SnapshotSent {})
}

/// Reads a request.
///
/// # Errors
/// See [`ProtocolError`]; descriptors of a refused packet are closed.
pub fn decode_request(mut packet: Packet<'_>) -> Result<Request, ProtocolError> {
    use workload_request::Payload;
    let request = WorkloadRequest::decode(packet.bytes)?;
    let payload = request.payload.ok_or(ProtocolError::Unknown("request"))?;
    let (message, expected) = match &payload {
        Payload::Add(_) => ("add", 1),
        Payload::Keep(_) => ("keep", 0),
        Payload::Del(_) => ("del", 0),
        Payload::SnapshotSent(_) => ("snapshot_sent", 0),
    };
    packet.whole(message, expected)?;
    Ok(match payload {
        Payload::Add(add) => Request::Add {
            uid: add.uid,
            info: add.workload_info.map(|info| PodInfo {
                name: info.name,
                namespace: info.namespace,
                service_account: info.service_account,
            }),
            netns: packet
                .fds
                .pop()
                .expect("whole() has counted one descriptor"),
        },
        Payload::Keep(keep) => Request::Keep { uid: keep.uid },
        Payload::Del(del) => Request::Del { uid: del.uid },
        Payload::SnapshotSent(_) => Request::SnapshotSent,
    })
}

/// The answer to a request: `None` = done; an error text is shortened to fit.
#[must_use]
pub fn encode_ack(error: Option<&str>) -> Vec<u8> {
    // An empty text would mean success.
    let text = error.map(|text| {
        if text.is_empty() {
            "unknown error"
        } else {
            text
        }
    });
    let mut error = text.unwrap_or_default().to_owned();
    let mut end = error.len().min(MAX_PACKET - 16);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error.truncate(end);
    let payload = Some(workload_response::Payload::Ack(Ack { error }));
    WorkloadResponse { payload }.encode_to_vec()
}

/// Reads the answer to a request: done, or the client's error text.
///
/// # Errors
/// See [`ProtocolError`].
pub fn decode_ack(packet: Packet<'_>) -> Result<Result<(), String>, ProtocolError> {
    let response: WorkloadResponse = packet.without_fds("ack")?;
    let Some(workload_response::Payload::Ack(ack)) = response.payload else {
        return Err(ProtocolError::Unknown("response"));
    };
    Ok(if ack.error.is_empty() {
        Ok(())
    } else {
        Err(ack.error)
    })
}

#[cfg(test)]
mod tests;
