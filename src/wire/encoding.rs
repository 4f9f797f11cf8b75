//! Undoes content encodings: `gzip`, `deflate`, `br`, `zstd`, `identity`, also several on top of each other
//! ([RFC 9110 §8.4](https://www.rfc-editor.org/rfc/rfc9110#section-8.4)).

use std::borrow::Cow;
use std::io::{Cursor, Read};

use crate::model::Headers;

/// The most bytes that a body may grow to; what lies beyond is left out. A thousandfold bomb of a few megabytes must
/// not take the machine's memory.
pub const MAX_DECODED: usize = 64 << 20;

/// More encodings than anybody stacks; each costs a pass over up to [`MAX_DECODED`] bytes.
const MAX_STACKED: usize = 4;

/// Binary logarithm of the largest zstd window: 8 MiB, the bound for HTTP
/// ([RFC 9659](https://www.rfc-editor.org/rfc/rfc9659)).
const ZSTD_WINDOW_LOG: u32 = 23;

/// A body without the encodings that its headers name. Of a torn or damaged body this is what decodes; a body that
/// does not decode at all, or whose encoding is unknown, is given as it is.
#[must_use]
pub fn decode<'a>(body: &'a [u8], headers: &Headers) -> Cow<'a, [u8]> {
    decode_within(body, headers, MAX_DECODED)
}

fn decode_within<'a>(body: &'a [u8], headers: &Headers, limit: usize) -> Cow<'a, [u8]> {
    let lines = headers.0.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
    let codings: Vec<&str> = lines.flat_map(|(_, value)| value.split(',')).map(str::trim).collect();
    let mut decoded = Cow::Borrowed(body);
    // the last one named was put on last
    for coding in codings.iter().rev().take(MAX_STACKED) {
        match undo(coding, &decoded, limit) {
            Some(plain) if !plain.is_empty() => decoded = Cow::Owned(plain),
            Some(_) => {}
            None => break,
        }
    }
    decoded
}

/// One encoding undone; empty where nothing decodes, none where the encoding is unknown.
fn undo(coding: &str, body: &[u8], limit: usize) -> Option<Vec<u8>> {
    let is = |names: &[&str]| names.iter().any(|n| coding.eq_ignore_ascii_case(n));
    Some(if is(&["gzip", "x-gzip"]) {
        take(flate2::bufread::MultiGzDecoder::new(body), limit)
    } else if is(&["deflate"]) {
        inflate(body, limit)
    } else if is(&["br"]) {
        take(brotli_decompressor::Decompressor::new(Cursor::new(body), 4096), limit)
    } else if is(&["zstd"]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(body).and_then(|mut d| {
            d.window_log_max(ZSTD_WINDOW_LOG)?;
            Ok(d)
        });
        decoder.map(|d| take(d, limit)).unwrap_or_default()
    } else if is(&["identity", ""]) {
        Vec::new()
    } else {
        return None;
    })
}

/// `deflate` is the zlib format by the standard, and the bare one by the habit of some servers.
fn inflate(body: &[u8], limit: usize) -> Vec<u8> {
    let zlib =
        body.len() > 1 && body[0] & 0x0f == 8 && u16::from_be_bytes([body[0], body[1]]).is_multiple_of(31);
    let plain = if zlib { take(flate2::bufread::ZlibDecoder::new(body), limit) } else { Vec::new() };
    if plain.is_empty() { take(flate2::bufread::DeflateDecoder::new(body), limit) } else { plain }
}

/// What a decoder gives before it ends, fails, or reaches the limit.
fn take(decoder: impl Read, limit: usize) -> Vec<u8> {
    let mut plain = Vec::new();
    // `read_to_end` keeps what came before an error
    let _ = decoder.take(limit as u64).read_to_end(&mut plain);
    plain
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::{decode, decode_within};
    use crate::model::Headers;

    const TEXT: &[u8] = b"{\"choices\": [{\"message\": {\"content\": \"hello hello hello\"}}]}";

    /// `hello`, as one stored block: nothing here encodes brotli.
    const BROTLI_HELLO: &[u8] = b"\x0b\x02\x80hello\x03";

    fn named(codings: &[&str]) -> Headers {
        Headers(codings.iter().map(|c| ("Content-Encoding".into(), (*c).into())).collect())
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(plain: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn bare_deflate(plain: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_of(plain: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(plain, 3).unwrap()
    }

    #[test]
    fn every_encoding_is_undone() {
        assert_eq!(&*decode(&gzip(TEXT), &named(&["gzip"])), TEXT);
        assert_eq!(&*decode(&gzip(TEXT), &named(&["X-GZip"])), TEXT);
        assert_eq!(&*decode(&zlib(TEXT), &named(&["deflate"])), TEXT);
        assert_eq!(&*decode(&bare_deflate(TEXT), &named(&["deflate"])), TEXT);
        assert_eq!(&*decode(&zstd_of(TEXT), &named(&["zstd"])), TEXT);
        assert_eq!(&*decode(BROTLI_HELLO, &named(&["br"])), b"hello");
        assert_eq!(&*decode(TEXT, &named(&["identity"])), TEXT);
        assert_eq!(&*decode(TEXT, &named(&[])), TEXT);
    }

    #[test]
    fn stacked_encodings_are_undone_from_the_last() {
        let twice = zstd_of(&gzip(TEXT));
        assert_eq!(&*decode(&twice, &named(&["gzip, zstd"])), TEXT);
        assert_eq!(&*decode(&twice, &named(&["gzip", "identity, zstd"])), TEXT);
    }

    #[test]
    fn several_members_are_one_body() {
        assert_eq!(&*decode(&[gzip(b"one "), gzip(b"two")].concat(), &named(&["gzip"])), b"one two");
        assert_eq!(&*decode(&[zstd_of(b"one "), zstd_of(b"two")].concat(), &named(&["zstd"])), b"one two");
    }

    #[test]
    fn what_is_not_encoded_in_spite_of_its_header_stays() {
        for coding in ["gzip", "deflate", "zstd", "unheard-of"] {
            assert_eq!(&*decode(TEXT, &named(&[coding])), TEXT, "{coding}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0; 1 << 20];
        for (coding, body) in [("gzip", gzip(&zeros)), ("deflate", zlib(&zeros)), ("zstd", zstd_of(&zeros))] {
            assert_eq!(decode_within(&body, &named(&[coding]), 1000).len(), 1000, "{coding}");
        }
    }

    #[test]
    fn a_torn_stream_gives_what_was_flushed() {
        let mut gz = GzEncoder::new(Vec::new(), Compression::default());
        gz.write_all(b"data: 1\n\n").unwrap();
        gz.flush().unwrap();
        let flushed = gz.get_ref().len();
        gz.write_all(b"data: 2\n\n").unwrap();
        let body = gz.finish().unwrap();
        assert_eq!(&*decode(&body[..flushed], &named(&["gzip"])), b"data: 1\n\n");

        let mut zst = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        zst.write_all(b"data: 1\n\n").unwrap();
        zst.flush().unwrap();
        assert_eq!(&*decode(zst.get_ref(), &named(&["zstd"])), b"data: 1\n\n");

        assert_eq!(&*decode(&BROTLI_HELLO[..8], &named(&["br"])), b"hello");
    }

    proptest! {
        #[test]
        fn a_torn_body_gives_a_beginning_of_the_whole(plain in prop::collection::vec(any::<u8>(), 1..2000), cut in 12usize..2000) {
            for (coding, body) in [("gzip", gzip(&plain)), ("deflate", zlib(&plain))] {
                let torn = &body[..cut.min(body.len())];
                let got = decode(torn, &named(&[coding]));
                prop_assert!(plain.starts_with(&got) || *got == *torn, "{}", coding);
            }
        }

        #[test]
        fn any_bytes_under_any_encoding_do_no_harm(body in prop::collection::vec(any::<u8>(), 0..300)) {
            for coding in ["gzip", "deflate", "br", "zstd", "gzip, br, zstd, deflate, gzip"] {
                let _ = decode_within(&body, &named(&[coding]), 10_000);
            }
        }
    }
}
