//! RFC 7541 Appendix C, limits, and round trips; our decoder against the h2 crate's encoder is in `tests/interop.rs`.

use super::{Decoder, Encoder};

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decoder
        .decode(block, |name, value| fields.push((text(name), text(value))))
        .ok()?;
    Some(fields)
}

fn pairs(fields: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    Some(
        fields
            .iter()
            .map(|(n, v)| ((*n).to_string(), (*v).to_string()))
            .collect(),
    )
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| b.is_ascii_hexdigit()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn requests_of_rfc_7541_c4_decode_with_huffman_and_dynamic_table() {
    let mut decoder = Decoder::new();
    let first = decoded(
        &mut decoder,
        &hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"),
    );
    let common = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ];
    assert_eq!(first, pairs(&common));
    let second = decoded(&mut decoder, &hex("8286 84be 5886 a8eb 1064 9cbf"));
    assert_eq!(
        second,
        pairs(&[&common[..], &[("cache-control", "no-cache")]].concat())
    );
    let third = decoded(
        &mut decoder,
        &hex("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf"),
    );
    let expected = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    assert_eq!(third, pairs(&expected));
}

#[test]
fn entries_are_evicted_at_the_size_that_the_peer_set() {
    let mut decoder = Decoder::new();
    // Size 40; "a: bcdefgh" is 1 + 7 + 32 = 40 and fits, the next evicts it.
    assert!(decoded(&mut decoder, &hex("3f09 4001 61 07 62636465666768")).is_some());
    assert_eq!(
        decoded(&mut decoder, &hex("be")),
        pairs(&[("a", "bcdefgh")])
    );
    assert!(decoded(&mut decoder, &hex("4001 62 01 63")).is_some());
    assert_eq!(decoded(&mut decoder, &hex("be")), pairs(&[("b", "c")]));
    assert_eq!(decoded(&mut decoder, &hex("bf")), None);
    // An entry larger than the table empties it.
    assert!(decoded(&mut decoder, &hex("4001 64 09 636363636363636363")).is_some());
    assert_eq!(decoded(&mut decoder, &hex("be")), None);
}

#[test]
fn broken_blocks_are_refused() {
    let table = [
        ("index 0", "80"),
        ("index beyond the tables", "be"),
        ("name index beyond the tables", "7f 00 00"),
        ("string longer than the block", "00 05 61"),
        ("integer of six bytes", "ff 80 80 80 80 80 01"),
        ("integer that ends early", "ff 80"),
        ("size above the limit", "3f e2 1f"),
        ("size update behind a field", "82 20"),
        ("three size updates", "20 20 20"),
        ("no value", "00 01 61"),
    ];
    for (what, block) in table {
        assert_eq!(decoded(&mut Decoder::new(), &hex(block)), None, "{what}");
    }
}

#[test]
fn the_acknowledged_limit_bounds_size_updates() {
    let mut decoder = Decoder::new();
    decoder.limit(0);
    assert_eq!(
        decoded(&mut decoder, &hex("20 82")),
        pairs(&[(":method", "GET")])
    );
    assert_eq!(decoded(&mut decoder, &hex("21")), None);
}

#[test]
fn what_we_encode_decodes_and_size_update_comes_once() {
    let mut encoder = Encoder::default();
    let mut block = Vec::new();
    encoder.peer_table_size(0);
    encoder.begin(&mut block);
    encoder.connect(&mut block);
    encoder.field(&mut block, ":authority", b"10.0.0.1:80");
    encoder.field(&mut block, "baggage", "k=v,".repeat(100).as_bytes());
    assert_eq!(block[0], 0x20);
    let fields = decoded(&mut Decoder::new(), &block).unwrap();
    assert_eq!(fields[0], (":method".into(), "CONNECT".into()));
    assert_eq!(fields[1], (":authority".into(), "10.0.0.1:80".into()));
    assert_eq!(fields[2].1.len(), 400);
    block.clear();
    encoder.peer_table_size(0);
    encoder.begin(&mut block);
    encoder.status(&mut block, 200);
    encoder.status(&mut block, 401);
    assert_eq!(block[0], 0x88);
    assert_eq!(
        decoded(&mut Decoder::new(), &block),
        pairs(&[(":status", "200"), (":status", "401")])
    );
}
