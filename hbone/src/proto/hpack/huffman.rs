//! The Huffman code of HPACK (RFC 7541 Appendix B), decoding only: we send literals as they are.
//! The code is canonical, so the lengths alone define it; the rows below are computed at compile time.

/// Bits of the code of each symbol; 256 is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const SYMBOLS: usize = 257;
const EOS: u16 = 256;
/// How many different lengths there are: 5–8, 10–15, 19–28, 30.
const ROWS: usize = 21;

/// All codes of one length: they are consecutive numbers.
#[derive(Clone, Copy)]
struct Row {
    bits: u32,
    /// The first code that is too great for this row, moved to the top of 32 bits.
    end: u64,
    /// The first code of the row.
    first: u32,
    /// Where the row's symbols begin in `SORTED`.
    index: usize,
}

const TABLE: ([Row; ROWS], [u16; SYMBOLS]) = build();
const ROW: [Row; ROWS] = TABLE.0;
const SORTED: [u16; SYMBOLS] = TABLE.1;

const fn build() -> ([Row; ROWS], [u16; SYMBOLS]) {
    let mut rows = [Row {
        bits: 0,
        end: 0,
        first: 0,
        index: 0,
    }; ROWS];
    let mut sorted = [0; SYMBOLS];
    let (mut row, mut at, mut code, mut bits) = (0, 0, 0u64, 1u32);
    while bits <= 30 {
        code <<= 1;
        let (first, index) = (code, at);
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as u32 == bits {
                sorted[at] = symbol as u16;
                at += 1;
                code += 1;
            }
            symbol += 1;
        }
        if at > index {
            rows[row] = Row {
                bits,
                end: code << (32 - bits),
                first: first as u32,
                index,
            };
            row += 1;
        }
        bits += 1;
    }
    assert!(row == ROWS && at == SYMBOLS);
    (rows, sorted)
}

/// Appends the decoded text to `out`; none if the code is broken (EOS inside, wrong padding).
pub(super) fn decode(mut code: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut window, mut held) = (0u64, 0u32);
    loop {
        while held <= 56
            && let Some((&byte, rest)) = code.split_first()
        {
            window |= u64::from(byte) << (56 - held);
            held += 8;
            code = rest;
        }
        if held == 0 {
            return Some(());
        }
        // Behind the last bit stand ones, as padding has them: a symbol that needs them is padding.
        let top = ((window | (u64::MAX >> 1 >> (held - 1))) >> 32) & 0xffff_ffff;
        let row = ROW.iter().find(|row| top < row.end)?;
        if row.bits > held {
            let padding = window >> (64 - held);
            return (held < 8 && padding == (1 << held) - 1).then_some(());
        }
        let value = u32::try_from(top >> (32 - row.bits)).ok()?;
        let symbol = SORTED[row.index + (value - row.first) as usize];
        if symbol == EOS {
            return None;
        }
        out.push(symbol as u8);
        window <<= row.bits;
        held -= row.bits;
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    fn decoded(code: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(code, &mut out).map(|()| out)
    }

    #[test]
    fn rfc_examples_decode() {
        let code = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decoded(&code).as_deref(), Some(&b"www.example.com"[..]));
        assert_eq!(
            decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).as_deref(),
            Some(&b"no-cache"[..])
        );
        assert_eq!(decoded(&[]).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn broken_padding_and_eos_are_refused() {
        assert_eq!(decoded(&[0xff]), None, "eight bits of padding");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None, "EOS");
        assert_eq!(decoded(&[0x18]), None, "padding of zeros: a, then 000");
        assert_eq!(decoded(&[0x1f]).as_deref(), Some(&b"a"[..]));
    }
}
