//! One turn of a tunnel: read, open, act on what the codec said, then fill, seal and send one batch. The heart of the
//! data path; docs/decisions/0003 says why it is shaped like this.

use std::io::IoSlice;
use std::ops::Range;

use hbone::proto::StreamId;

use super::api::Reason;
use super::io::Io;
use super::slots::Key;
use super::state::Worker;
use super::tunnel::{Act, Loss, Phase, Received, Role, Tunnel};

/// Reads and batches per tunnel and turn: a firehose must not starve its neighbours.
const ROUNDS: usize = 4;
/// Bytes of answers that may wait while the socket takes none: who asks on without reading is hostile. The codec counts
/// only answers of its own.
const ANSWERS: usize = 256 << 10;
/// Slices of one stream's bytes per vectored write.
const RUN: usize = 64;

impl<I: Io> Worker<I> {
    /// One turn of a queued tunnel.
    pub(super) fn run_tunnel(&mut self, key: Key, io: &mut I) {
        let room = self
            .tunnels
            .get(key)
            .map_or(0, |tunnel| self.room(tunnel.pod));
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return;
        };
        tunnel.queued = false;
        if let Some(h2) = &mut tunnel.h2 {
            h2.set_room(room);
        }
        if let Err(loss) = self.turn(key, io) {
            self.lose(key, loss, io);
        }
    }

    fn turn(&mut self, key: Key, io: &mut I) -> Result<(), Loss> {
        let closing = |tunnel: &Tunnel<I::Socket>| tunnel.phase == Phase::Closing;
        if self.tunnels.get(key).is_some_and(closing) {
            self.leave_taking(key, io);
            return Ok(());
        }
        let closed = self.receive(key, io)?;
        self.send(key, io)?;
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return Ok(());
        };
        if closed {
            tunnel.peer_closed = true;
            let idle = tunnel.members.is_empty()
                && tunnel.waiting.is_empty()
                && tunnel.phase == Phase::Open;
            if idle {
                self.close_tunnel(key, io);
                return Ok(());
            }
            let reason = if tunnel.phase == Phase::Handshake {
                Reason::Tls
            } else {
                Reason::TunnelLost
            };
            return Err(Loss::new(reason, "the peer closed the connection"));
        }
        // One that waits for its certificate reads nothing yet, however much has arrived.
        let reads = tunnel.readable && tunnel.tls.is_some();
        let again = reads || (!tunnel.blocked && !tunnel.ready.is_empty());
        let drained = tunnel.phase == Phase::Open
            && tunnel.members.is_empty()
            && tunnel.backlog.is_empty()
            && (tunnel.h2.as_ref().is_some_and(|h2| h2.is_drained())
                || (tunnel.going_away && tunnel.is_client()));
        if drained {
            self.close_tunnel(key, io);
        } else if again {
            self.queue_tunnel(key);
        }
        Ok(())
    }

    /// Reads and acts until the socket is empty or the turn is over. True: the peer has closed.
    fn receive(&mut self, key: Key, io: &mut I) -> Result<bool, Loss> {
        for _ in 0..ROUNDS {
            let mut received = Received::default();
            let Some(tunnel) = self.tunnels.get_mut(key) else {
                return Ok(false);
            };
            let waiting = tunnel.h2.as_mut().map_or(0, |h2| h2.output().len());
            if tunnel.blocked && waiting > ANSWERS {
                return Err(Loss::new(Reason::Http2, "answers are not read"));
            }
            let read = tunnel.read(io, &mut self.buffers, &mut received);
            if received.established && tunnel.phase == Phase::Handshake && read.is_ok() {
                self.established(key, io)?;
            }
            let more = read?;
            if let Some(nonce) = received.nonce {
                return match self.recognise(key, &nonce, io) {
                    true => Ok(false),
                    false => {
                        let why = "what came first is neither TLS nor from this process";
                        Err(Loss::new(Reason::Tls, why))
                    }
                };
            }
            if more {
                self.understand(key, io)?;
            }
            if received.closed || !more {
                return Ok(received.closed);
            }
        }
        Ok(false)
    }

    /// Parses the opened bytes, then acts on what they said. Two passes, so that acting may touch everything.
    fn understand(&mut self, key: Key, io: &mut I) -> Result<(), Loss> {
        let Some(tunnel) = self.tunnels.get_mut(key) else {
            return Ok(());
        };
        if self.buffers.plain == 0 {
            return Ok(());
        }
        let rx = std::mem::take(&mut self.buffers.rx);
        let plain = &rx[..self.buffers.plain];
        let mut acts = std::mem::take(&mut self.queues.acts);
        let parsed = tunnel.parse(plain, &mut acts, self.now);
        self.act(key, plain, &mut acts, io);
        self.queues.acts = acts;
        self.buffers.rx = rx;
        parsed
    }

    fn act(&mut self, tunnel: Key, plain: &[u8], acts: &mut Vec<Act>, io: &mut I) {
        // A run of DATA of one stream leaves by one vectored write.
        let mut run: [IoSlice<'_>; RUN] = [IoSlice::new(&[]); RUN];
        let mut filled = 0;
        let mut running: Option<(StreamId, Key)> = None;
        for act in acts.drain(..) {
            if let Act::Data(stream, key, range) = &act {
                if running.is_some_and(|(one, _)| one != *stream) || filled == RUN {
                    self.deliver(tunnel, running.take(), &run[..filled], io);
                    filled = 0;
                }
                running = Some((*stream, self.link_of(tunnel, *stream, *key)));
                run[filled] = IoSlice::new(&plain[Range::clone(range)]);
                filled += 1;
                continue;
            }
            self.deliver(tunnel, running.take(), &run[..filled], io);
            filled = 0;
            match act {
                Act::Request(stream, head) => self.inbound_request(tunnel, stream, *head, io),
                Act::Response(key, head) => self.outbound_response(Key::from_bits(key), &head, io),
                Act::End(stream, key) => self.far_end(self.link_of(tunnel, stream, key), io),
                Act::Reset(key, code) => self.far_reset(Key::from_bits(key), code, io),
                Act::Credit(key) => self.queue_reading(Key::from_bits(key)),
                Act::GoAway => self.peer_goes_away(tunnel),
                Act::Data(..) => {}
            }
        }
        self.deliver(tunnel, running, &run[..filled], io);
    }

    fn link_of(&self, tunnel: Key, stream: StreamId, key: u64) -> Key {
        self.tunnels
            .get(tunnel)
            .map_or(Key::from_bits(0), |tunnel| tunnel.link_of(stream, key))
    }

    pub(super) fn peer_goes_away(&mut self, key: Key) {
        self.leave_pool(key);
        if let Some(tunnel) = self.tunnels.get_mut(key) {
            tunnel.going_away = true;
        }
        self.queue_tunnel(key);
    }

    /// Fills, seals and sends batches until nothing is left, the socket is full, or the turn is over.
    fn send(&mut self, key: Key, io: &mut I) -> Result<(), Loss> {
        for _ in 0..ROUNDS {
            let Some(tunnel) = self.tunnels.get_mut(key) else {
                return Ok(());
            };
            if !tunnel.flush(io)? {
                return Ok(());
            }
            if tunnel.phase != Phase::Open {
                return Ok(());
            }
            self.fill(key, io)?;
            if self.buffers.tx.is_empty() {
                return Ok(());
            }
            let Some(tunnel) = self.tunnels.get_mut(key) else {
                return Ok(());
            };
            tunnel.send(io, &mut self.buffers, self.now)?;
            if tunnel.hot == Some(self.now)
                && let Role::Client(pool) = &tunnel.role
            {
                let (pod, next_hop) = (tunnel.pod, pool.next_hop);
                self.mark_hot(pod, next_hop);
            }
        }
        // More than a turn's worth: the rest after the neighbours.
        self.queue_tunnel(key);
        Ok(())
    }
}
