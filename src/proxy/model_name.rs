//! Finds the `model` of a JSON request while its body arrives, without building a tree of it.

use std::io::{self, Write};

use http::{HeaderMap, header};

/// Bytes of a body, decoded, in which `model` is looked for. Much: a popular client library puts the whole conversation,
/// pictures included, before it.
pub(super) const LOOKED_AT: usize = 16 << 20;

/// The largest window of zstd in HTTP, as the binary logarithm ([RFC 9659](https://www.rfc-editor.org/rfc/rfc9659)).
const ZSTD_WINDOW_LOG: u32 = 23;

/// What is known of the model so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// More of the body has to be seen.
    NotYet,
    Model(String),
    /// There is none: no JSON object, no such key, not a string, or it comes too late.
    None,
}

/// Reads a body piece by piece, undoing its content encoding on the way.
pub(super) enum Reader {
    Plain(Scanner),
    Gzip(Box<flate2::write::GzDecoder<Scanner>>),
    Zlib(Box<flate2::write::ZlibDecoder<Scanner>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Scanner>>),
    Brotli(Box<brotli_decompressor::DecompressorWriter<Scanner>>),
}

impl Reader {
    /// A reader for a body with these headers; none where it is no JSON, or encoded in a way that we do not undo.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let value = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
        // Without a type it may be JSON; with another one (a form, audio) it is not.
        let kind = value(header::CONTENT_TYPE).unwrap_or("application/json");
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !(kind == "application/json" || kind == "text/json" || kind.ends_with("+json")) {
            return None;
        }
        let scanner = Scanner::default();
        Some(match value(header::CONTENT_ENCODING).unwrap_or("identity").to_ascii_lowercase().as_str() {
            "identity" | "" => Self::Plain(scanner),
            "gzip" | "x-gzip" => Self::Gzip(Box::new(flate2::write::GzDecoder::new(scanner))),
            "deflate" => Self::Zlib(Box::new(flate2::write::ZlibDecoder::new(scanner))),
            "zstd" => {
                let mut decoder = zstd::stream::write::Decoder::new(scanner).ok()?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).ok()?;
                Self::Zstd(Box::new(decoder))
            }
            "br" => Self::Brotli(Box::new(brotli_decompressor::DecompressorWriter::new(scanner, 4096))),
            _ => return None,
        })
    }

    /// Reads the next piece.
    pub fn read(&mut self, piece: &[u8]) -> Found {
        // Flushed, so that what can be known is.
        let done = match self {
            Self::Plain(scanner) => scanner.write_all(piece),
            Self::Gzip(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()),
            Self::Zlib(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()),
            Self::Zstd(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()),
            Self::Brotli(decoder) => decoder.write_all(piece).and_then(|()| decoder.flush()),
        };
        let scanner = match self {
            Self::Plain(scanner) => scanner,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zlib(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
            Self::Brotli(decoder) => decoder.get_mut(),
        };
        match (scanner.found(), done) {
            (Found::NotYet, Err(_)) => Found::None,
            (found, _) => found,
        }
    }
}

/// Walks through JSON text: knows where it is, keeps only keys of the outermost object and the value that it looks for.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    state: State,
    /// Open brackets.
    depth: usize,
    /// The string under way, quotes included, where it is kept.
    text: Vec<u8>,
    seen: usize,
}

/// A key of this many bytes, as it is written, is not `model`; a model's name is shorter, too.
const LONGEST: usize = 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the outermost `{`.
    #[default]
    Start,
    /// In the outermost object, where a key may begin.
    Key,
    /// Within a key; whether the last byte was a backslash.
    InKey(bool),
    /// After a key; whether it is the one.
    Colon(bool),
    /// Where the value of the key begins; whether it is the one.
    Value(bool),
    /// Within the string that we look for.
    InModel(bool),
    /// Within any other value, outside strings.
    Skip,
    /// Within a string of one.
    SkipString(bool),
    Done(Option<String>),
}

impl Scanner {
    fn found(&self) -> Found {
        match &self.state {
            State::Done(Some(model)) => Found::Model(model.clone()),
            State::Done(None) => Found::None,
            _ => Found::NotYet,
        }
    }

    /// Takes one byte outside skipped strings.
    fn step(&mut self, byte: u8) {
        let space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let none = || State::Done(None);
        let state = std::mem::take(&mut self.state);
        self.state = match (state, byte) {
            (State::Start, b'{') => State::Key,
            (state @ (State::Start | State::Key | State::Colon(_) | State::Value(_)), _) if space => state,
            (State::Key, b',') => State::Key,
            (State::Key, b'"') => {
                self.text = vec![byte];
                State::InKey(false)
            }
            (State::InKey(false), b'"') => {
                self.text.push(byte);
                State::Colon(self.text == b"\"model\"" || unquoted(&self.text).as_deref() == Some("model"))
            }
            (State::InModel(false), b'"') => {
                self.text.push(byte);
                State::Done(unquoted(&self.text))
            }
            (State::InKey(escaped), _) => {
                // Beyond the longest, the rest of a key is no longer kept: it is not the one.
                if self.text.len() < LONGEST {
                    self.text.push(byte);
                }
                State::InKey(byte == b'\\' && !escaped)
            }
            (State::InModel(escaped), _) => {
                self.text.push(byte);
                if self.text.len() > LONGEST { none() } else { State::InModel(byte == b'\\' && !escaped) }
            }
            (State::Colon(it), b':') => State::Value(it),
            (State::Value(true), b'"') => {
                self.text = vec![byte];
                State::InModel(false)
            }
            (State::Value(true), _) => none(),
            (State::Value(false) | State::Skip, b'"') => State::SkipString(false),
            (State::Value(false) | State::Skip, b'{' | b'[') => {
                self.depth += 1;
                State::Skip
            }
            (State::Skip, b'}' | b']') if self.depth > 0 => {
                self.depth -= 1;
                State::Skip
            }
            (State::Skip, b',') if self.depth == 0 => State::Key,
            (State::Skip, b'}') => none(),
            (State::Value(false) | State::Skip, _) => State::Skip,
            (State::SkipString(_), _) => unreachable!("skipped by `skip_string`"),
            (done @ State::Done(_), _) => done,
            // Not JSON, or the end of the object.
            (State::Start | State::Key | State::Colon(_), _) => none(),
        };
    }

    /// Takes bytes up to the end of a string that is not kept; gives how many.
    fn skip_string(&mut self, bytes: &[u8], mut escaped: bool) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    self.state = State::Skip;
                    return at + 1;
                }
                _ => {}
            }
        }
        self.state = State::SkipString(escaped);
        bytes.len()
    }
}

fn unquoted(text: &[u8]) -> Option<String> {
    serde_json::from_slice(text).ok()
}

impl Write for Scanner {
    /// Fails when nothing more has to be read, so that decoders stop.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = &bytes[..bytes.len().min(LOOKED_AT - self.seen)];
        self.seen += rest.len();
        while let [byte, more @ ..] = rest {
            match self.state {
                State::SkipString(escaped) => rest = &rest[self.skip_string(rest, escaped)..],
                State::Done(_) => return Err(io::ErrorKind::Other.into()),
                _ => {
                    self.step(*byte);
                    rest = more;
                }
            }
        }
        if self.seen == LOOKED_AT && self.found() == Found::NotYet {
            self.state = State::Done(None);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(body: &[u8], piece: usize) -> Found {
        let mut reader = Reader::of(&HeaderMap::new()).expect("it may be JSON");
        body.chunks(piece)
            .map(|piece| reader.read(piece))
            .find(|f| *f != Found::NotYet)
            .unwrap_or(Found::NotYet)
    }

    #[test]
    fn the_model_of_the_outermost_object_is_found_wherever_it_stands() {
        let model = |name: &str| Found::Model(name.into());
        for (body, expected) in [
            (r#"{"model":"gpt-4o"}"#, model("gpt-4o")),
            (" \n{ \"model\"\t: \"m\" ", model("m")),
            (
                r#"{"messages":[{"model":"x","content":"\"model\":\"y\\\""}],"n":1.5e3,"b":null,"model":"z"#,
                Found::NotYet,
            ),
            (
                r#"{"messages":[{"model":"x","content":"\"model\":\"y\\\""}],"n":1.5e3,"b":null,"model":"z""#,
                model("z"),
            ),
            (r#"{"a":{"model":"x"},"model":"z"}"#, model("z")),
            (r#"{"a":"model","model":"z"}"#, model("z")),
            (r#"{"\u006dodel":"a\"b"}"#, model("a\"b")),
            (r#"{"model":7}"#, Found::None),
            (r#"{"input":"x"}"#, Found::None),
            (r#"{}"#, Found::None),
            (r#"[{"model":"x"}]"#, Found::None),
            ("--boundary\r\n", Found::None),
            (r#"{"a":1"#, Found::NotYet),
            ("", Found::NotYet),
        ] {
            for piece in [1, 2, 7, 4096] {
                assert_eq!(scan(body.as_bytes(), piece), expected, "{body} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_model_that_comes_too_late_is_none() {
        let body = [b"{\"a\":\"".as_slice(), &vec![b'x'; LOOKED_AT], b"\",\"model\":\"m\"}"].concat();
        assert_eq!(scan(&body, 1 << 20), Found::None);
    }

    #[test]
    fn encoded_bodies_are_read_as_they_arrive() {
        let body = format!(r#"{{"messages":["{}"],"model":"m"}}"#, "hello ".repeat(10_000));
        let gzip = |level| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body.as_bytes()).expect("in memory");
            encoder.finish().expect("in memory")
        };
        let zlib = {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body.as_bytes()).expect("in memory");
            encoder.finish().expect("in memory")
        };
        let zstd = zstd::encode_all(body.as_bytes(), 3).expect("in memory");
        for (coding, encoded) in
            [("gzip", gzip(flate2::Compression::best())), ("deflate", zlib), ("zstd", zstd)]
        {
            let mut headers = HeaderMap::new();
            headers.insert("content-encoding", coding.parse().expect("a value"));
            let mut reader = Reader::of(&headers).expect("known");
            let found = encoded.chunks(50).map(|p| reader.read(p)).find(|f| *f != Found::NotYet);
            assert_eq!(found, Some(Found::Model("m".into())), "{coding}");
            // What is no such encoding has no model.
            let mut reader = Reader::of(&headers).expect("known");
            let found = body.as_bytes().chunks(50).map(|p| reader.read(p)).find(|f| *f != Found::NotYet);
            assert_eq!(found, Some(Found::None), "{coding}");
        }
    }

    #[test]
    fn forms_and_unknown_encodings_are_not_looked_at() {
        for (name, value) in
            [("content-type", "multipart/form-data; boundary=x"), ("content-encoding", "gzip, br")]
        {
            let headers = HeaderMap::from_iter([(
                name.parse::<http::HeaderName>().expect("a name"),
                value.parse().expect("a value"),
            )]);
            assert!(Reader::of(&headers).is_none(), "{name}: {value}");
        }
    }

    proptest! {
        #[test]
        fn any_object_in_any_pieces_gives_its_model(
            before in prop::collection::vec(("[a-z\"\\\\]{0,4}", any::<String>(), prop::collection::vec(any::<f64>().prop_filter("finite", |n| n.is_finite()), 0..3)), 0..4),
            model in any::<Option<String>>(),
            piece in 1usize..40,
        ) {
            let mut object = serde_json::Map::new();
            for (key, text, list) in before {
                if key != "model" {
                    object.insert(key, serde_json::json!({"model": text, "list": list, "t": [text]}));
                }
            }
            if let Some(model) = &model {
                object.insert("model".into(), model.clone().into());
            }
            let body = serde_json::to_vec(&object).expect("plain data");
            let expected = match model {
                Some(model) if serde_json::to_string(&model).expect("text").len() <= LONGEST => Found::Model(model),
                _ => Found::None,
            };
            prop_assert_eq!(scan(&body, piece), expected);
        }
    }
}
