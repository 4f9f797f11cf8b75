//! Checkpoints on disk: a directory of safetensors with `config.json`, or one GGUF file, memory-mapped.
//!
//! In: a path. Out: an [`Architecture`], the tensors by the part they play, the tokenizer and the chat template.
//!
//! Always true of an opened checkpoint: it has every part that its architecture asks for and no other, each of the right
//! shape, in an encoding that can be read, wholly within its file.

mod blocks;
mod config;
mod directory;
mod encoding;
mod error;
mod gguf;
mod mapped;
mod parts;
mod precision;
mod prepared;
mod rope;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::llama::{Architecture, Family};
use super::text::{ChatTemplate, Tokenizer};
use encoding::Encoding;
pub use error::CheckpointError;
use mapped::Mapped;
use parts::Naming;
pub use precision::{Held, Precision};
pub use prepared::{Layer, Prepared};

/// The part that a tensor plays, whatever a file calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// `[vocabulary, hidden]`
    Embedding,
    /// `[hidden]`, before the output projection.
    Norm,
    /// `[vocabulary, hidden]`; absent when tied to the embedding.
    Output,
    Layer(usize, LayerPart),
}

/// A tensor of one layer. Matrices are `[out, in]`, as in Hugging Face checkpoints: GGUF's permuted rows are put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerPart {
    AttentionNorm,
    Query,
    Key,
    Value,
    AttentionOutput,
    QueryBias,
    KeyBias,
    ValueBias,
    QueryNorm,
    KeyNorm,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
}

/// A matrix in blocks of few bits: `w = scale · (q − zero) + offset`, `zero` being 8 for 4 bits and 128 for 8 bits.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// 4 or 8.
    pub bits: u8,
    /// Elements of a row that share a scale; divides `columns`.
    pub block: usize,
    pub rows: usize,
    pub columns: usize,
    /// `[rows, columns · bits / 8]`; with 4 bits the even column is in the low half.
    pub quants: Vec<u8>,
    /// `[rows, columns / block]`
    pub scales: Vec<f32>,
    /// `[rows, columns / block]`, where the format has a minimum of its own (Q4_1, Q4_K, Q5_1, Q5_K).
    pub offsets: Option<Vec<f32>>,
}

/// An opened checkpoint; its files stay mapped while it lives.
pub struct Checkpoint {
    pub architecture: Architecture,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
    path: PathBuf,
    files: Vec<Mapped>,
    parts: HashMap<Part, Stored<Encoding>>,
    hash: OnceLock<String>,
}

/// What one kind of file gives, before its tensors are compared with the architecture.
struct Contents {
    architecture: Architecture,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    naming: Naming,
    files: Vec<Mapped>,
    tensors: HashMap<String, Stored>,
    /// Rows of query and key stand in the order of GGUF's llama.
    rows_are_sorted: bool,
}

/// Where a tensor is. `encoding` is the file's word for it where it is none of ours.
#[derive(Clone, Debug)]
struct Stored<E = Result<Encoding, String>> {
    file: usize,
    start: usize,
    encoding: E,
    rows: usize,
    columns: usize,
    /// The head width within which rows (of a vector: elements) have to be put back.
    turned: Option<usize>,
}

impl Checkpoint {
    /// Opens a GGUF file, or a directory with `config.json`, `*.safetensors` and, where texts are to be understood,
    /// `tokenizer.json`.
    ///
    /// Reads no weights yet: takes the time that the tokenizer takes.
    ///
    /// # Errors
    /// When files are missing or damaged, or the family is none of those supported (both named).
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let contents = if path.is_dir() { directory::open(path)? } else { gguf::open(path)? };
        let Contents { architecture, tokenizer, template, naming, files, mut tensors, rows_are_sorted } =
            contents;
        let unreadable = |reason| CheckpointError::Unreadable { path: path.to_owned(), reason };
        let mut parts = HashMap::new();
        for (part, (rows, columns)) in parts::of(&architecture) {
            let name = naming.name(part);
            let stored = tensors.remove(&name);
            let stored = stored.ok_or_else(|| {
                unreadable(format!(
                    "tensor {name} is missing: the download is incomplete, or it is another model"
                ))
            })?;
            let encoding = stored.encoding.map_err(|encoding| CheckpointError::Encoding {
                path: path.to_owned(),
                tensor: name.clone(),
                encoding,
                supported: Encoding::NAMES.to_owned(),
            })?;
            if (stored.rows, stored.columns) != (rows, columns) {
                let found = (stored.rows, stored.columns);
                return Err(unreadable(format!(
                    "tensor {name} is {found:?} where the configuration asks for {:?}",
                    (rows, columns)
                )));
            }
            let end = encoding
                .row_bytes(columns)
                .and_then(|row| row.checked_mul(rows)?.checked_add(stored.start))
                .filter(|end| *end <= files[stored.file].bytes().len());
            if end.is_none() {
                return Err(unreadable(format!(
                    "tensor {name} ends outside of its file: the download is incomplete, or damaged"
                )));
            }
            use LayerPart::{Key, KeyBias, Query, QueryBias};
            let is_turned =
                rows_are_sorted && matches!(part, Part::Layer(_, Query | Key | QueryBias | KeyBias));
            let turned = is_turned.then_some(architecture.head_dim);
            parts.insert(
                part,
                Stored { file: stored.file, start: stored.start, encoding, rows, columns, turned },
            );
        }
        // What would be left out silently would make another model of it.
        let unknown = tensors
            .keys()
            .filter(|name| !naming.is_derived(name))
            .filter(|name| !(architecture.tied && **name == naming.name(Part::Output)));
        if let Some(name) = unknown.min() {
            return Err(unreadable(format!(
                "tensor {name} has no place in a {} model: this variant is not supported",
                architecture.family.name()
            )));
        }
        let path = path.to_owned();
        Ok(Self { architecture, tokenizer, template, path, files, parts, hash: OnceLock::new() })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A BLAKE3 hash over the parts' names, encodings and bytes, in hex: what an adapter was trained on.
    ///
    /// Reads all weights on the first call (about a second for 2 GB that are in memory), then remembers.
    ///
    /// # Errors
    /// None at present.
    pub fn hash(&self) -> Result<String, CheckpointError> {
        let hash = self.hash.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            for (part, _) in parts::of(&self.architecture) {
                let stored = &self.parts[&part];
                let head = format!(
                    "{part:?} {:?} {} {} {:?}\n",
                    stored.encoding, stored.rows, stored.columns, stored.turned
                );
                hasher.update(head.as_bytes()).update(self.bytes(stored));
            }
            hasher.finalize().to_hex().to_string()
        });
        Ok(hash.clone())
    }

    /// Rows and columns (vectors: 1 row); `None`: the model has no such part.
    #[must_use]
    pub fn shape(&self, part: Part) -> Option<(usize, usize)> {
        self.parts.get(&part).map(|stored| (stored.rows, stored.columns))
    }

    /// Writes a part's elements as f32, row-major, into `out`, which has exactly their number.
    ///
    /// # Errors
    /// When the model has no such part.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn read(&self, part: Part, out: &mut [f32]) -> Result<(), CheckpointError> {
        let stored = self.stored(part)?;
        assert_eq!(out.len(), stored.rows * stored.columns, "{part:?}");
        match stored.turned {
            None => stored.encoding.decode(self.bytes(stored), out),
            Some(head_dim) if stored.rows == 1 => {
                let mut sorted = vec![0.0; out.len()];
                stored.encoding.decode(self.bytes(stored), &mut sorted);
                for (i, out) in out.iter_mut().enumerate() {
                    *out = sorted[sorted_row(i, head_dim)];
                }
            }
            Some(_) => {
                for (row, out) in self.rows(stored).zip(out.chunks_exact_mut(stored.columns)) {
                    stored.encoding.decode(row, out);
                }
            }
        }
        Ok(())
    }

    /// The part as it is stored, where it is stored in blocks: exact, nothing is rounded again. 4 bits for Q4_0, Q4_1 and
    /// Q4_K, 8 bits for Q5 and more; `None` for plain floats, which [`Blocks::round`] can turn into blocks.
    ///
    /// # Errors
    /// When the model has no such part.
    pub fn blocks(&self, part: Part) -> Result<Option<Blocks>, CheckpointError> {
        let stored = self.stored(part)?;
        if stored.rows == 1 && stored.turned.is_some() {
            return Ok(None);
        }
        Ok(stored.encoding.blocks(self.rows(stored), stored.columns))
    }

    fn stored(&self, part: Part) -> Result<&Stored<Encoding>, CheckpointError> {
        self.parts.get(&part).ok_or_else(|| CheckpointError::Absent { path: self.path.clone(), part })
    }

    fn bytes(&self, stored: &Stored<Encoding>) -> &[u8] {
        let row = stored.encoding.row_bytes(stored.columns).expect("checked when it was opened");
        &self.files[stored.file].bytes()[stored.start..][..row * stored.rows]
    }

    /// The rows' bytes, put back in order.
    fn rows(&self, stored: &Stored<Encoding>) -> impl ExactSizeIterator<Item = &[u8]> {
        let bytes = self.bytes(stored);
        let (width, turned) = (bytes.len() / stored.rows, stored.turned);
        (0..stored.rows).map(move |row| {
            let at = turned.map_or(row, |head_dim| sorted_row(row, head_dim));
            &bytes[at * width..][..width]
        })
    }
}

/// Where GGUF's llama keeps a row of query or key: dimension `i` of a head's first half stands at `2i`, that of its second
/// half at `2i + 1` (`LlamaModel.permute` in llama.cpp's `convert_hf_to_gguf.py`).
fn sorted_row(row: usize, head_dim: usize) -> usize {
    let (head, at) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + at % half * 2 + at / half
}

fn unsupported_family(path: &Path, family: &str) -> CheckpointError {
    let supported = Family::ALL.map(Family::name).join(", ");
    CheckpointError::Family { path: path.to_owned(), family: family.to_owned(), supported }
}

/// Refuses what no model has, so that arithmetic on these numbers cannot overflow later.
fn sensible(a: Architecture) -> Result<Architecture, String> {
    let most = 1 << 24;
    let counts = [
        ("hidden size", a.hidden),
        ("feed-forward size", a.feed_forward),
        ("number of layers", a.layers),
        ("number of heads", a.heads),
        ("number of key heads", a.kv_heads),
        ("head size", a.head_dim),
        ("vocabulary", a.vocabulary),
    ];
    if let Some((what, count)) = counts.into_iter().find(|(_, count)| !(1..most).contains(count)) {
        return Err(format!("its {what} is {count}, which makes no sense: it is damaged"));
    }
    if a.head_dim > 1 << 12 || !a.head_dim.is_multiple_of(2) || !a.heads.is_multiple_of(a.kv_heads) {
        return Err(format!(
            "{} heads of {} elements, {} of keys, make no sense: it is damaged",
            a.heads, a.head_dim, a.kv_heads
        ));
    }
    Ok(a)
}
