use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::Extensions;
use super::Transcript;
use crate::model::Micros;

/// A frame as a server sends it, or with a mask as a client does.
fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        n @ 0..126 => bytes.push(bit | n as u8),
        n @ 126..0x1_0000 => {
            bytes.push(bit | 126);
            bytes.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            bytes.push(bit | 127);
            bytes.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    bytes.extend(mask.into_iter().flatten());
    bytes.extend(payload.iter().enumerate().map(|(i, b)| mask.map_or(*b, |mask| b ^ mask[i % 4])));
    bytes
}

const MASK: Option<[u8; 4]> = Some([1, 2, 3, 200]);

fn text(payload: &str) -> Vec<u8> {
    frame(0x81, payload.as_bytes(), MASK)
}

fn written(mut transcript: Transcript, pieces: &[&[u8]]) -> String {
    let mut all = Vec::new();
    for piece in pieces {
        all.extend_from_slice(&transcript.read(piece, Micros(7)));
    }
    all.extend_from_slice(&transcript.end(Micros(8)));
    String::from_utf8(all).unwrap()
}

fn lines(extensions: Extensions, bytes: &[u8]) -> Vec<Value> {
    let all = written(Transcript::new(extensions, false), &[bytes]);
    all.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn deflated(compressor: &mut Compress, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 2 + 100);
    compressor.compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync).unwrap();
    // Nothing new, nothing flushed: such a message is one empty block (RFC 7692 §7.2.3.6).
    out.strip_suffix(&[0, 0, 0xff, 0xff]).map_or_else(|| vec![0], <[u8]>::to_vec)
}

#[test]
fn each_message_is_a_line() {
    let close = [&1000u16.to_be_bytes()[..], b"bye \"now\""].concat();
    let bytes = [
        text("{\"a\": \"\\n\"}\n\u{1}"),
        frame(0x82, b"\x00\xffbin", None),
        frame(0x89, b"hi", MASK),
        frame(0x8a, b"", None),
        frame(0x88, &close, MASK),
    ]
    .concat();
    let expected = [
        json!({"at": 7, "type": "text", "text": "{\"a\": \"\\n\"}\n\u{1}"}),
        json!({"at": 7, "type": "binary", "base64": "AP9iaW4=", "bytes": 5}),
        json!({"at": 7, "type": "ping", "bytes": 2}),
        json!({"at": 7, "type": "pong", "bytes": 0}),
        json!({"at": 7, "type": "close", "code": 1000, "reason": "bye \"now\""}),
    ];
    assert_eq!(lines(Extensions::None, &bytes), expected);
}

#[test]
fn fragments_are_one_message_and_control_frames_within_follow_it() {
    let long = "x y".repeat(30_000);
    let bytes = [
        frame(0x01, "caf\u{e9}".as_bytes().split_last().unwrap().1, MASK),
        frame(0x89, b"", MASK),
        frame(0x00, b"\xa9 ", MASK),
        frame(0x80, long.as_bytes(), MASK),
        frame(0x81, b"", MASK),
    ]
    .concat();
    let got = lines(Extensions::None, &bytes);
    assert_eq!(got[0]["text"], format!("caf\u{e9} {long}"));
    assert_eq!(got[1]["type"], "ping");
    assert_eq!(got[2], json!({"at": 7, "type": "text", "text": ""}));
}

#[test]
fn compressed_messages_are_read_with_and_without_context_takeover() {
    for takeover in [true, false] {
        let mut compressor = Compress::new(Compression::default(), false);
        let texts =
            ["{\"type\": \"response.create\"}", "{\"type\": \"response.create\"}", "", "plain \u{4e16}"];
        let mut bytes = Vec::new();
        for text in texts {
            let body = deflated(&mut compressor, text);
            // In two fragments, of which only the first bears the bit.
            let (a, b) = body.split_at(body.len() / 2);
            bytes.extend(frame(0x41, a, MASK));
            bytes.extend(frame(0x80, b, MASK));
            if !takeover {
                compressor.reset();
            }
        }
        bytes.extend(text("not compressed"));
        let got: Vec<Value> = lines(Extensions::Deflate, &bytes).iter().map(|l| l["text"].clone()).collect();
        assert_eq!(
            got,
            ["{\"type\": \"response.create\"}", texts[1], "", "plain \u{4e16}", "not compressed"]
        );
    }
}

#[test]
fn long_runs_of_base64_are_shortened_unless_they_are_asked_for() {
    let audio = "UklGRg+/".repeat(1000);
    let bytes = [text(&format!("{{\"audio\":\"{audio}\"}}")), frame(0x82, &[7; 9000], None)].concat();
    let got = lines(Extensions::None, &bytes);
    assert_eq!(got[0]["text"], format!("{{\"audio\":\"{}…[5952 more]\"}}", &audio[..2048]));
    assert_eq!(got[1]["bytes"], 9000);
    assert_eq!(got[1]["base64"].as_str().unwrap().len(), 4096_usize.div_ceil(3) * 4);
    let whole = written(Transcript::new(Extensions::None, true), &[&bytes]);
    assert!(whole.contains(&audio) && whole.len() > 8000 + 12_000);
}

#[test]
fn what_cannot_be_read_is_counted_from_there_on() {
    for (broken, reason) in [
        (frame(0xc1, b"x", None), "bits"),
        (frame(0x83, b"x", None), "unknown kind"),
        (frame(0x80, b"x", None), "within"),
        (frame(0x09, b"x", None), "control"),
        (vec![0x82, 127, 255, 0, 0, 0, 0, 0, 0, 0], "longer"),
    ] {
        let mut transcript = Transcript::new(Extensions::None, false);
        let mut all = transcript.read(&[text("first"), broken].concat(), Micros(7)).to_vec();
        all.extend(transcript.read(&[0; 100], Micros(7)));
        assert!(!transcript.readable());
        all.extend(transcript.end(Micros(9)));
        let got: Vec<Value> =
            String::from_utf8(all).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(got[0]["text"], "first", "{reason}");
        assert_eq!(got[1]["type"], "opaque", "{reason}");
        assert!(got[1]["reason"].as_str().unwrap().contains(reason), "{got:?}");
        assert!(got[1]["bytes"].as_u64().unwrap() >= 100, "{got:?}");
    }
    let unknown = lines(Extensions::Unknown, b"whatever");
    assert_eq!((&unknown[0]["type"], &unknown[0]["bytes"]), (&json!("opaque"), &json!(8)));
    let torn = lines(Extensions::Deflate, &frame(0xc1, b"\xff\xff\xff", None));
    assert_eq!((&torn[0]["cut"], &torn[1]["type"]), (&json!(true), &json!("opaque")));
}

#[test]
fn a_message_that_never_ends_is_marked() {
    let whole = text("hello");
    let got = lines(Extensions::None, &whole[..whole.len() - 2]);
    assert_eq!(got, [json!({"at": 7, "type": "text", "text": "hel", "cut": true})]);
}

#[test]
fn a_compressed_bomb_ends_the_reading_at_a_bound() {
    let mut compressor = Compress::new(Compression::best(), false);
    let mut body = Vec::with_capacity(1 << 20);
    let zeros = vec![b' '; 1 << 20];
    for _ in 0..65 {
        body.reserve(1 << 16);
        compressor.compress_vec(&zeros, &mut body, FlushCompress::Sync).unwrap();
    }
    let mut transcript = Transcript::new(Extensions::Deflate, false);
    let mut most = 0;
    for piece in frame(0xc1, &body, None).chunks(1000) {
        most = most.max(transcript.read(piece, Micros(7)).len());
    }
    assert!(!transcript.readable());
    assert!(most < 8 << 20, "{most}");
}

#[test]
fn the_servers_choice_of_extensions_is_read() {
    let agreed = |lines: &[&str]| Extensions::agreed(lines.iter().copied());
    assert_eq!(agreed(&[]), Extensions::None);
    assert_eq!(
        agreed(&["permessage-deflate; client_no_context_takeover; server_max_window_bits=10"]),
        Extensions::Deflate
    );
    assert_eq!(agreed(&["bbf-usp-protocol"]), Extensions::Unknown);
    assert_eq!(agreed(&["permessage-deflate", "x-mux"]), Extensions::Unknown);
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_lines(
        messages in prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 1..8),
        cuts in prop::collection::vec(1usize..40, 1..200),
    ) {
        let mut compressor = Compress::new(Compression::default(), false);
        let mut bytes = Vec::new();
        for (kind, payload, masked) in &messages {
            let mask = masked.then_some([9, 8, 7, 6]);
            bytes.extend(match kind {
                0 => frame(0x81, payload, mask),
                1 => frame(0x82, payload, mask),
                2 => frame(0xc1, &deflated(&mut compressor, &String::from_utf8_lossy(payload)), mask),
                _ => [frame(0x01, &payload[..payload.len() / 2], mask), frame(0x89, b"p", mask),
                      frame(0x80, &payload[payload.len() / 2..], mask)].concat(),
            });
        }
        let whole = written(Transcript::new(Extensions::Deflate, false), &[&bytes]);
        let mut pieces = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        prop_assert_eq!(written(Transcript::new(Extensions::Deflate, false), &pieces), whole.clone());
        for line in whole.lines() {
            prop_assert!(serde_json::from_str::<Value>(line).is_ok(), "{}", line);
        }
        prop_assert!(whole.lines().count() >= messages.len());
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        for extensions in [Extensions::None, Extensions::Deflate] {
            for line in written(Transcript::new(extensions, false), &[&bytes]).lines() {
                prop_assert!(serde_json::from_str::<Value>(line).is_ok(), "{}", line);
            }
        }
    }
}
