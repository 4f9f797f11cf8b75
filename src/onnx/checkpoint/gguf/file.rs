//! The container (specification: `docs/gguf.md` of ggml): a header, metadata, the list of tensors, their bytes.
//!
//! A file may come from anywhere, so nothing in it is believed: every length is compared with what is left of the file
//! before anything is reserved, and all arithmetic on numbers of the file is checked.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use crate::onnx::checkpoint::CheckpointError;

const MAGIC: &[u8; 4] = b"GGUF";

/// Arrays within arrays; real files have none.
const DEPTH: usize = 3;

/// A file's head: its metadata, and where its tensors are.
pub(super) struct File<'a> {
    path: &'a Path,
    metadata: HashMap<&'a str, Value<'a>>,
    pub tensors: Vec<Tensor<'a>>,
}

#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    pub name: &'a str,
    pub rows: usize,
    pub columns: usize,
    /// `enum ggml_type`.
    pub kind: u32,
    /// Where its bytes begin.
    pub start: usize,
}

/// A value of the metadata.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(&'a [u8]),
    Array(Array<'a>),
}

#[derive(Clone, Debug)]
pub(super) struct Array<'a> {
    kind: u32,
    count: usize,
    bytes: &'a [u8],
}

/// What is wrong, without the file's name.
type Read<T> = Result<T, String>;

impl<'a> File<'a> {
    /// # Errors
    /// When the file is no GGUF of version 2 or 3, little-endian and in one piece, or is damaged.
    pub fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self, CheckpointError> {
        parse(bytes)
            .map(|(metadata, tensors)| Self { path, metadata, tensors })
            .map_err(|reason| CheckpointError::Unreadable { path: path.to_owned(), reason })
    }

    pub fn path(&self) -> &'a Path {
        self.path
    }

    pub fn unreadable(&self, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Unreadable { path: self.path.to_owned(), reason: reason.into() }
    }

    fn wrong(&self, key: &str, wanted: &str) -> CheckpointError {
        self.unreadable(format!("its metadata {key} is not {wanted}: the file is damaged or of another kind"))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => {
                std::str::from_utf8(text).map(Some).map_err(|_| self.wrong(key, "UTF-8 text"))
            }
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        let number = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Float(number)) => Some(*number),
            Some(Value::Unsigned(number)) => Some(*number as f64),
            Some(Value::Signed(number)) => Some(*number as f64),
            Some(_) => None,
        };
        number.filter(|n| n.is_finite()).map(Some).ok_or_else(|| self.wrong(key, "a number"))
    }

    /// A whole number below 2³¹; where a file gives one for each layer, they have to be the same.
    pub fn count(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        let whole = |value: &Value<'_>| match value {
            Value::Unsigned(number) => usize::try_from(*number).ok().filter(|n| *n < 1 << 31),
            Value::Signed(number) => usize::try_from(*number).ok().filter(|n| *n < 1 << 31),
            _ => None,
        };
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => {
                let all: Option<Vec<usize>> = array.values().map(|value| whole(&value)).collect();
                match all.as_deref() {
                    Some([first, rest @ ..]) if rest.iter().all(|n| n == first) => Ok(Some(*first)),
                    _ => {
                        Err(self.unreadable(format!("{key} differs between layers, which is not supported")))
                    }
                }
            }
            Some(value) => whole(value).map(Some).ok_or_else(|| self.wrong(key, "a whole number below 2^31")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// An array's elements, empty where there is none.
    pub fn list<T>(
        &self,
        key: &str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Vec<T>, CheckpointError> {
        match self.metadata.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(array)) => {
                array.values().map(read).collect::<Option<_>>().ok_or_else(|| self.wrong(key, "such a list"))
            }
            Some(_) => Err(self.wrong(key, "a list")),
        }
    }
}

impl<'a> Value<'a> {
    pub fn into_text(self) -> Option<&'a str> {
        if let Self::Text(text) = self { std::str::from_utf8(text).ok() } else { None }
    }

    pub fn into_float(self) -> Option<f32> {
        if let Self::Float(number) = self { Some(number as f32) } else { None }
    }

    pub fn into_integer(self) -> Option<i64> {
        match self {
            Self::Unsigned(number) => i64::try_from(number).ok(),
            Self::Signed(number) => Some(number),
            _ => None,
        }
    }
}

impl<'a> Array<'a> {
    /// The bytes were walked over when the file was parsed: what is read here is there.
    fn values(&self) -> impl Iterator<Item = Value<'a>> {
        let (mut cursor, kind) = (Cursor { bytes: self.bytes, at: 0 }, self.kind);
        (0..self.count).map_while(move |_| cursor.value(kind, DEPTH).ok())
    }
}

type Head<'a> = (HashMap<&'a str, Value<'a>>, Vec<Tensor<'a>>);

fn parse(bytes: &[u8]) -> Read<Head<'_>> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.take(4)? != MAGIC {
        return Err("this is no GGUF file".into());
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        let why = if version.swap_bytes() <= 3 { "big-endian" } else { "not version 2 or 3" };
        return Err(format!("this GGUF file is {why}: convert the model with a newer llama.cpp"));
    }
    let tensors = cursor.u64()?;
    let pairs = cursor.u64()?;
    // The least that one takes: a length, a byte of name, a type, a value; and for a tensor dimensions and an offset.
    let tensors = cursor.fits(tensors, 8 + 1 + 4 + 8 + 4 + 8)?;
    let pairs = cursor.fits(pairs, 8 + 4 + 1)?;
    let mut metadata = HashMap::new();
    for _ in 0..pairs {
        let key = cursor.name()?;
        let kind = cursor.u32()?;
        metadata.insert(key, cursor.value(kind, DEPTH)?);
    }
    if let Some(Value::Unsigned(2..)) = metadata.get("split.count") {
        return Err(
            "this is one piece of a GGUF model: join the pieces with `llama-gguf-split --merge`".into()
        );
    }
    let mut listed = Vec::new();
    for _ in 0..tensors {
        listed.push(cursor.tensor()?);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n as usize,
        Some(_) => return Err("its alignment is no power of two".into()),
    };
    let base = cursor.at.next_multiple_of(alignment);
    for tensor in &mut listed {
        tensor.start =
            tensor.start.checked_add(base).ok_or_else(|| format!("tensor {} begins nowhere", tensor.name))?;
    }
    Ok((metadata, listed))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn span(&mut self, length: usize) -> Read<Range<usize>> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("the file ends too early: it was not downloaded whole, or is damaged")?;
        Ok(std::mem::replace(&mut self.at, end)..end)
    }

    fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        self.span(length).map(|range| &self.bytes[range])
    }

    fn fixed<const N: usize>(&mut self) -> Read<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many bytes were taken"))
    }

    fn u32(&mut self) -> Read<u32> {
        self.fixed().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Read<u64> {
        self.fixed().map(u64::from_le_bytes)
    }

    /// A number of things that take at least `least` bytes each and so cannot be more than the file has room for.
    fn fits(&self, count: u64, least: usize) -> Read<usize> {
        let room = (self.bytes.len() - self.at) / least;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= room)
            .ok_or_else(|| format!("it claims {count} entries where {room} have room: it is damaged"))
    }

    fn text(&mut self) -> Read<&'a [u8]> {
        let length = self.u64()?;
        let length = self.fits(length, 1)?;
        self.take(length)
    }

    fn name(&mut self) -> Read<&'a str> {
        std::str::from_utf8(self.text()?).map_err(|_| "a name in it is not UTF-8: it is damaged".into())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Read<Value<'a>> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(u8::from_le_bytes(self.fixed()?))),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.fixed()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.fixed()?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.fixed()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.fixed()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.fixed()?))),
            7 => Value::Bool(self.fixed::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            9 if depth > 0 => Value::Array(self.array(depth - 1)?),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.fixed()?)),
            12 => Value::Float(f64::from_le_bytes(self.fixed()?)),
            other => return Err(format!("its metadata has a value of unknown type {other}")),
        })
    }

    fn array(&mut self, depth: usize) -> Read<Array<'a>> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let size = match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        };
        // A text takes at least its length, an array its type and length.
        let count = self.fits(count, size.unwrap_or(8))?;
        let start = self.at;
        match size {
            Some(size) => {
                self.take(count * size)?;
            }
            None => {
                for _ in 0..count {
                    self.value(kind, depth)?;
                }
            }
        }
        Ok(Array { kind, count, bytes: &self.bytes[start..self.at] })
    }

    fn tensor(&mut self) -> Read<Tensor<'a>> {
        let name = self.name()?;
        let damaged = || format!("the shape of tensor {name} makes no sense: the file is damaged");
        let dimensions = self.u32()?;
        if !(1..=4).contains(&dimensions) {
            return Err(damaged());
        }
        // The first dimension is the one along which elements lie side by side.
        let columns = usize::try_from(self.u64()?).map_err(|_| damaged())?;
        let mut rows = 1usize;
        for _ in 1..dimensions {
            let more = usize::try_from(self.u64()?).map_err(|_| damaged())?;
            rows = rows.checked_mul(more).ok_or_else(damaged)?;
        }
        let kind = self.u32()?;
        let start = usize::try_from(self.u64()?).map_err(|_| damaged())?;
        Ok(Tensor { name, rows, columns, kind, start })
    }
}
