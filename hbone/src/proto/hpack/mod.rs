//! HPACK (RFC 7541) under hard caps: a full decoder, and an encoder that uses only the static table and literals.

mod decode;
mod encode;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub(super) use decode::Decoder;
pub(super) use encode::Encoder;
