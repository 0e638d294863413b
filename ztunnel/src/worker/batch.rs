//! Fills one send batch of a tunnel: control frames, and application bytes read straight behind their DATA headers.

use std::io::{self, IoSliceMut};

use hbone::proto::{Connection, DATA_HEADER, StreamId};

use super::buffers::Buffers;
use super::io::Io;
use super::link::{Far, Link};
use super::slots::Key;
use super::state::Worker;
use super::tls::RECORD;
use super::tunnel::{Loss, Tunnel};

/// Application bytes per DATA frame: with its header exactly one record.
const FRAME: usize = RECORD - DATA_HEADER;
/// A read beyond this size says that a larger one will pay.
const LARGE: usize = 12_000;
/// Frames per read of a bulk stream: 256 KiB, so that its neighbours get their turn within one batch.
const BURST: usize = 16;
/// A batch with less room than this is sent first.
const MIN_ROOM: usize = 2048;

impl<I: Io> Worker<I> {
    /// Fills what one tunnel sends next: control frames, then the bytes of its ready streams in turn, sealed batch by
    /// batch.
    pub(super) fn fill(&mut self, key: Key, io: &mut I) -> Result<(), Loss> {
        // A tunnel that failed between sealing and sending must not leave its bytes to the next one.
        self.buffers.batch.clear();
        self.buffers.tx.clear();
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return Ok(());
        };
        for _ in 0..tunnel.ready.len() + 2 * BURST {
            control_frames(tunnel, &mut self.buffers);
            if self.buffers.batch_room() < MIN_ROOM {
                tunnel.seal(&mut self.buffers)?;
                if self.buffers.is_tx_full() {
                    break;
                }
            }
            let Some(link_key) = tunnel.ready.pop_front() else {
                break;
            };
            let Some(link) = self.links.get_mut(link_key) else {
                continue;
            };
            if !matches!(link.far, Far::Stream { tunnel, .. } if tunnel == key) {
                // It has left meanwhile, and may stand elsewhere.
                continue;
            }
            link.queued = false;
            match read_stream(tunnel, link, &mut self.buffers, io) {
                Turn::More => {
                    link.queued = true;
                    tunnel.ready.push_back(link_key);
                }
                Turn::Empty => {}
                Turn::Ended => self.queues.settled.push((link_key, None)),
                Turn::Failed(fault) => self.queues.settled.push((link_key, Some(fault))),
            }
        }
        control_frames(tunnel, &mut self.buffers);
        let sealed = match self.buffers.batch.is_empty() {
            true => Ok(()),
            false => tunnel.seal(&mut self.buffers),
        };
        for (link, fault) in std::mem::take(&mut self.queues.settled) {
            match fault {
                Some(fault) => self.near_failed(link, &fault, io),
                None => self.finish_link(link, io),
            }
        }
        sealed
    }
}

/// What a stream's turn came to.
enum Turn {
    /// It may have more.
    More,
    /// It has nothing, or no credit; an event or credit brings it back.
    Empty,
    /// End of file, passed on.
    Ended,
    Failed(io::Error),
}

/// Control frames keep their place: they go before the next DATA.
fn control_frames<S>(tunnel: &mut Tunnel<S>, buffers: &mut Buffers) {
    let Some(h2) = &mut tunnel.h2 else { return };
    let output = h2.output();
    if !output.is_empty() {
        buffers.batch.room(output.len())[..output.len()].copy_from_slice(output);
        buffers.batch.grow(output.len());
        output.clear();
    }
}

/// Reads a link's socket straight behind DATA headers in the batch.
fn read_stream<I: Io>(
    tunnel: &mut Tunnel<I::Socket>,
    link: &mut Link<I::Socket>,
    buffers: &mut Buffers,
    io: &mut I,
) -> Turn {
    let (Some(h2), Far::Stream { stream, .. }) = (&mut tunnel.h2, &link.far) else {
        return Turn::Empty;
    };
    let (stream, credit) = (*stream, h2.credit(*stream));
    let frame = FRAME.min(h2.max_payload());
    let Some(socket) = &link.near.socket else {
        return Turn::Empty;
    };
    if credit == 0 {
        // Neither an end nor a reset needs credit.
        let may_be_over = link.near.ended || link.near.broken.is_some();
        return match may_be_over.then(|| io.is_at_end(socket)) {
            Some(Ok(true)) => end_stream(h2, stream, link),
            Some(Err(fault)) => Turn::Failed(fault),
            Some(Ok(false)) | None => Turn::Empty,
        };
    }
    let frames = if link.bulk { BURST } else { 1 };
    let start = buffers.batch_room();
    let room = &mut buffers.batch.room(start)[..start];
    let (n, wanted) = match read_frames(room, credit, (frame, frames), socket, io) {
        Ok(read) => read,
        Err(fault) if fault.kind() == io::ErrorKind::WouldBlock && link.near.broken.is_none() => {
            link.near.readable = false;
            return Turn::Empty;
        }
        Err(fault) => return Turn::Failed(fault),
    };
    if n == 0 {
        return end_stream(h2, stream, link);
    }
    let mut left = n;
    let mut at = 0;
    while left > 0 {
        let len = left.min(frame);
        room[at..at + DATA_HEADER].copy_from_slice(&h2.data_header(stream, len, false));
        at += DATA_HEADER + len;
        left -= len;
    }
    buffers.batch.grow(at);
    link.count_from_near(n);
    link.bulk = n > LARGE;
    if n < wanted && !link.near.ended && link.near.broken.is_none() {
        // Edge-triggered: later bytes make a new event, unless the event was the FIN that we know of.
        link.near.readable = false;
        return Turn::Empty;
    }
    Turn::More
}

/// The application sends nothing more.
fn end_stream<S>(h2: &mut Connection, stream: StreamId, link: &mut Link<S>) -> Turn {
    if link.near.at_end() {
        link.end_sent = true;
        h2.end(stream);
    }
    match link.near.broken {
        Some(kind) => Turn::Failed(kind.into()),
        None => Turn::Ended,
    }
}

/// One read into the payload places of up to `frames` frames of `frame` bytes. Returns bytes read and bytes asked for.
fn read_frames<I: Io>(
    room: &mut [u8],
    credit: usize,
    (frame, frames): (usize, usize),
    socket: &I::Socket,
    io: &mut I,
) -> io::Result<(usize, usize)> {
    if frames == 1 {
        let wanted = credit.min(frame).min(room.len() - DATA_HEADER);
        return Ok((
            io.read(socket, &mut room[DATA_HEADER..DATA_HEADER + wanted])?,
            wanted,
        ));
    }
    let mut slices: [IoSliceMut<'_>; BURST] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let (mut rest, mut wanted, mut count) = (room, 0, 0);
    while count < frames && wanted < credit && rest.len() > DATA_HEADER {
        let len = (credit - wanted).min(frame).min(rest.len() - DATA_HEADER);
        let (place, behind) = rest.split_at_mut(DATA_HEADER + len);
        slices[count] = IoSliceMut::new(&mut place[DATA_HEADER..]);
        (rest, wanted, count) = (behind, wanted + len, count + 1);
    }
    Ok((io.read_vectored(socket, &mut slices[..count])?, wanted))
}
