//! What a client tells the server at the beginning of a connection: a head of 24 bytes. Pure.

/// Length of a head.
pub const LENGTH: usize = 24;
const MAGIC: &[u8; 4] = b"CWB1";

/// What the server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reads and checks until the end.
    Sink,
    /// As [`Mode::Sink`], but reads nothing while the load says so.
    Staller,
    /// Sends until the client has ended its half.
    Source,
    /// Sends as much as it has read, message by message.
    Answer,
}

/// The head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What to do.
    pub mode: Mode,
    /// Bytes of a message; of no meaning for streams.
    pub size: u32,
    /// Seed of what the client sends.
    pub seed: u64,
}

const MODES: [Mode; 4] = [Mode::Sink, Mode::Staller, Mode::Source, Mode::Answer];

impl Head {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(MAGIC);
        let mode = MODES.iter().position(|mode| *mode == self.mode);
        bytes[4] = u8::try_from(mode.unwrap_or(0)).unwrap_or(0);
        bytes[8..12].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..].copy_from_slice(&self.seed.to_le_bytes());
        bytes
    }

    /// What `bytes` say; `None` when they are not a head, which is to say that they were altered on the way.
    #[must_use]
    pub fn decode(bytes: &[u8; LENGTH]) -> Option<Self> {
        let mode = *MODES.get(usize::from(bytes[4]))?;
        let head = Self {
            mode,
            size: u32::from_le_bytes(bytes[8..12].try_into().ok()?),
            seed: u64::from_le_bytes(bytes[16..].try_into().ok()?),
        };
        (head.encode() == *bytes).then_some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_nothing_else_is_a_head() {
        for mode in MODES {
            let head = Head {
                mode,
                size: 1024,
                seed: 0x0102_0304_0506_0708,
            };
            let bytes = head.encode();
            assert_eq!(Head::decode(&bytes), Some(head));
            for at in (0..8).chain(12..16) {
                let mut altered = bytes;
                altered[at] ^= 0x80;
                assert_eq!(Head::decode(&altered), None, "byte {at}");
            }
        }
    }
}
