use proptest::prelude::*;

use super::*;

fn read(pieces: &[&[u8]]) -> Framing {
    let mut framing = Framing::new(1 << 10, 10);
    for piece in pieces {
        framing.take(piece);
    }
    framing
}

fn head(headers: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes()
}

#[test]
fn messages_are_told_apart() {
    let mut all = head("Content-Length: 3\r\n");
    all.extend_from_slice(b"abc\r\n");
    all.extend(head("Transfer-Encoding: Chunked\r\n"));
    all.extend_from_slice(b"3;x=y\r\nabc\r\n0\r\nT: 1\r\nU: 2\r\n\r\n");
    all.extend(head(""));
    let framing = read(&[&all]);
    assert_eq!((framing.heads(), framing.flaw(), framing.resting()), (3, None, true));
    assert!(!read(&[&all[..all.len() - 1]]).resting());
}

#[test]
fn what_can_be_read_in_two_ways_is_a_flaw() {
    let cases: [(&str, Flaw); 17] = [
        ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Flaw::BothLengths),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Flaw::BothLengths),
        ("Content-Length: 3\r\nContent-Length: 3\r\n", Flaw::Length),
        ("Content-Length: 3\r\ncontent-length: 4\r\n", Flaw::Length),
        ("Content-Length: 3, 3\r\n", Flaw::Length),
        ("Content-Length: +3\r\n", Flaw::Length),
        ("Content-Length: -3\r\n", Flaw::Length),
        ("Content-Length: 0x3\r\n", Flaw::Length),
        ("Content-Length:\r\n", Flaw::Length),
        ("Content-Length: 18446744073709551616\r\n", Flaw::Length),
        ("Transfer-Encoding: gzip, chunked\r\n", Flaw::Coding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Flaw::Coding),
        ("Transfer-Encoding: xchunked\r\n", Flaw::Coding),
        ("X: 1\nContent-Length: 3\r\n", Flaw::Line),
        ("Host: y\r\n", Flaw::Host),
        ("content_length: 3\r\n", Flaw::Disguise),
        ("Transfer_Encoding: chunked\r\n", Flaw::Disguise),
    ];
    for (headers, flaw) in cases {
        let framing = read(&[&head(headers)]);
        assert_eq!((framing.heads(), framing.flaw()), (0, Some(flaw)), "{headers:?}");
    }
    for host in ["", "a b", "a/b", "u@h", "a,b"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(read(&[request.as_bytes()]).flaw(), Some(Flaw::Host), "{host}");
    }
    assert_eq!(read(&[b"GET / HTTP/1.1\r\n\r\n"]).flaw(), Some(Flaw::Host));
    assert_eq!(read(&[b"GET / HTTP/1.0\r\n\r\n"]).flaw(), None);
}

#[test]
fn broken_chunks_are_flaws() {
    for body in [
        "x\r\n",
        "\r\n",
        "3\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\n",
        "0\r\n\n",
        "0\r\nT: 1\n\r\n",
        "0\r\nT: 1\n\n",
        "0\r\nT: 1\rU: 2\r\n\r\n",
        "0\r\nT: 1\r\r\n\r\n",
        "fffffffffffffffff\r\n",
        "-1\r\n",
        "3;a\nb\r\n",
    ] {
        let mut all = head("Transfer-Encoding: chunked\r\n");
        all.extend_from_slice(body.as_bytes());
        assert_eq!(read(&[&all]).flaw(), Some(Flaw::Chunk), "{body:?}");
    }
}

#[test]
fn a_head_beyond_the_limits_is_not_kept() {
    let framing = read(&[b"GET / HTTP/1.1\r\nX: ", &[b'x'; 4096]]);
    assert_eq!(framing.flaw(), Some(Flaw::TooLarge));
    assert_eq!(framing.partial.capacity(), 0);
    assert_eq!(read(&[&head(&"X: 1\r\n".repeat(10))]).flaw(), Some(Flaw::TooLarge));
    assert_eq!(read(&[&head(&"X: 1\r\n".repeat(9))]).flaw(), None);
}

#[test]
fn http2_is_left_alone() {
    assert!(read(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0"]).opaque());
    assert!(read(&[b"PRI * HT", b"TP/2.0\r\n", b"\r\nSM"]).opaque());
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_reading(
        text in prop::collection::vec(prop_oneof![
            Just(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
            Just(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
            Just(b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec()),
            Just(b"POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\nX: y\r\n\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
        ], 0..6),
        cuts in prop::collection::vec(1_usize..40, 0..30),
    ) {
        let all = text.concat();
        let whole = read(&[&all]);
        let mut framing = Framing::new(1 << 10, 10);
        let mut rest = &all[..];
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            framing.take(piece);
            rest = after;
        }
        framing.take(rest);
        prop_assert_eq!(framing.heads(), whole.heads());
        prop_assert_eq!(framing.flaw(), whole.flaw());
        prop_assert_eq!(framing.resting(), whole.resting());
    }
}
