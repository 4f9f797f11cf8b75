//! However a stream is cut, the same events come out of it.

use remora::wire::sse::{Decoder, events};

/// The first byte chooses how the rest is cut: 0 by itself, byte by byte; else in pieces of lengths that the last bytes
/// give, over and over.
pub fn holds(input: &[u8]) {
    let Some((how, body)) = input.split_first() else { return };
    let whole = events(body);
    let lengths: Vec<usize> = match how {
        0 => vec![1],
        n => body.iter().rev().take(usize::from(*n)).map(|b| usize::from(*b % 32)).collect(),
    };
    let (mut decoder, mut got) = (Decoder::default(), Vec::new());
    let mut rest = body;
    let mut lengths = lengths.iter().cycle();
    while !rest.is_empty() {
        // A length of zero is an empty piece: allowed, but not only those.
        let length = lengths.next().copied().unwrap_or(1);
        let (piece, after) = rest.split_at(length.min(rest.len()));
        decoder.push(piece, &mut got);
        decoder.push(&[], &mut got);
        let (one, after) = after.split_at(usize::from(!after.is_empty()));
        decoder.push(one, &mut got);
        rest = after;
    }
    got.extend(decoder.finish());
    assert_eq!(got, whole);
}
