use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use super::mapped::Mapped;
use super::{Checkpoint, CheckpointError, LayerPart, Part, parts};

/// Begins the file; followed by the BLAKE3 hash of all that comes after the head.
const MAGIC: &[u8; 32] = b"remora weights, f32, layout 1  \n";

/// Bytes before the first section, and what every section's start is a multiple of: a cache line, and what vector
/// instructions like best.
const ALIGNMENT: usize = 64;

/// Begins the names of files that a killed process may leave behind.
const UNFINISHED: &str = ".unfinished-";

/// All weights of a model in f32, in a file that processes share as memory. Cheap to clone; slices live as long as one
/// clone does.
#[derive(Clone, Debug)]
pub struct Prepared {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: Mapped,
    /// Where sections begin and end, in bytes, by their first part.
    sections: HashMap<Part, Range<usize>>,
    tied: bool,
}

/// The parts whose rows follow one another, and their bytes in the file.
type Section = (Vec<Part>, Range<usize>);

/// One layer's weights, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// `[hidden]`
    pub attention_norm: &'a [f32],
    /// Query, key and value rows: `[(heads + 2 · kv_heads) · head_dim, hidden]`
    pub qkv: &'a [f32],
    /// `[(heads + 2 · kv_heads) · head_dim]`
    pub qkv_bias: Option<&'a [f32]>,
    /// Of query and key, `[head_dim]` each.
    pub head_norms: Option<(&'a [f32], &'a [f32])>,
    /// `[hidden, heads · head_dim]`
    pub attention_output: &'a [f32],
    /// `[hidden]`
    pub feed_forward_norm: &'a [f32],
    /// Gate rows, then up rows: `[2 · feed_forward, hidden]`
    pub gate_up: &'a [f32],
    /// `[hidden, feed_forward]`
    pub down: &'a [f32],
}

impl Checkpoint {
    /// The weights in f32 as shared memory, from a file in `cache_dir` that is written where it is missing or damaged
    /// (4 bytes a parameter, once for each model). Blocks; other processes that want the same wait.
    ///
    /// # Errors
    /// When the file cannot be written or mapped.
    pub fn prepared(&self, cache_dir: &Path) -> Result<Prepared, CheckpointError> {
        let path = cache_dir.join(format!("{}.f32", self.hash()?));
        let (sections, length) = self.sections();
        if let Some(prepared) = self.mapped(&path, &sections, length) {
            return Ok(prepared);
        }
        fs::create_dir_all(cache_dir).map_err(CheckpointError::io("create", cache_dir))?;
        let lock_path = cache_dir.join(".lock");
        let lock = File::create(&lock_path).map_err(CheckpointError::io("create", &lock_path))?;
        // Some network file systems have no locks: two processes then write the same bytes, one of them in vain.
        let is_locked = lock.lock().is_ok();
        if let Some(prepared) = self.mapped(&path, &sections, length) {
            return Ok(prepared);
        }
        if is_locked {
            for entry in fs::read_dir(cache_dir).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        self.write(&path, &sections)?;
        self.mapped(&path, &sections, length).ok_or_else(|| CheckpointError::Unreadable {
            path,
            reason: "what was written is not what is read: the disk or its memory fails".into(),
        })
    }

    /// The file's sections with the parts that each joins, and the file's length.
    fn sections(&self) -> (Vec<Section>, usize) {
        let mut sections: Vec<Section> = Vec::new();
        let mut end = ALIGNMENT;
        for (part, (rows, columns)) in parts::of(&self.architecture) {
            use LayerPart::{Key, KeyBias, Up, Value, ValueBias};
            let joins = matches!(part, Part::Layer(_, Key | Value | KeyBias | ValueBias | Up));
            let bytes = rows * columns * size_of::<f32>();
            match sections.last_mut() {
                Some((joined, range)) if joins => {
                    joined.push(part);
                    range.end += bytes;
                    end = range.end;
                }
                _ => {
                    let start = end.next_multiple_of(ALIGNMENT);
                    end = start + bytes;
                    sections.push((vec![part], start..end));
                }
            }
        }
        (sections, end)
    }

    /// The file, where it is there and whole.
    fn mapped(&self, path: &Path, sections: &[Section], length: usize) -> Option<Prepared> {
        let file = Mapped::open(path).ok()?;
        let bytes = file.bytes();
        let is_whole = bytes.len() == length
            && bytes.starts_with(MAGIC)
            && blake3::hash(&bytes[ALIGNMENT..]).as_bytes() == &bytes[MAGIC.len()..ALIGNMENT];
        if !is_whole {
            tracing::warn!(path = %path.display(), "damaged, written anew");
            return None;
        }
        let sections = sections.iter().map(|(joined, range)| (joined[0], range.clone())).collect();
        let tied = self.architecture.tied;
        Some(Prepared { inner: Arc::new(Inner { file, sections, tied }) })
    }

    fn write(&self, path: &Path, sections: &[Section]) -> Result<(), CheckpointError> {
        let dir = path.parent().expect("the path was joined from a directory");
        let failed = |e: io::Error| CheckpointError::io("write", path)(e);
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir).map_err(failed)?;
        let mut to = BufWriter::new(file);
        let mut hasher = blake3::Hasher::new();
        to.write_all(&[0; ALIGNMENT]).map_err(failed)?;
        let mut at = ALIGNMENT;
        let mut floats = Vec::new();
        for (joined, range) in sections {
            let gap = &[0; ALIGNMENT][..range.start - at];
            hasher.update(gap);
            to.write_all(gap).map_err(failed)?;
            for part in joined {
                let (rows, columns) = self.shape(*part).expect("sections list what there is");
                floats.resize(rows * columns, 0.0f32);
                self.read(*part, &mut floats)?;
                hasher.update(floats.as_bytes());
                to.write_all(floats.as_bytes()).map_err(failed)?;
            }
            at = range.end;
        }
        to.seek(SeekFrom::Start(0)).map_err(failed)?;
        to.write_all(MAGIC).map_err(failed)?;
        to.write_all(hasher.finalize().as_bytes()).map_err(failed)?;
        let file = to.into_inner().map_err(|e| failed(e.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

impl Prepared {
    /// `[vocabulary, hidden]`
    #[must_use]
    pub fn embedding(&self) -> &[f32] {
        self.part(Part::Embedding)
    }

    /// `[vocabulary, hidden]`; the embedding where they are tied.
    #[must_use]
    pub fn output(&self) -> &[f32] {
        self.part(if self.inner.tied { Part::Embedding } else { Part::Output })
    }

    /// `[hidden]`
    #[must_use]
    pub fn norm(&self) -> &[f32] {
        self.part(Part::Norm)
    }

    /// # Panics
    /// When the model has not that many layers.
    #[must_use]
    pub fn layer(&self, index: usize) -> Layer<'_> {
        let part = |part| self.part(Part::Layer(index, part));
        let perhaps = |part| self.perhaps(Part::Layer(index, part));
        Layer {
            attention_norm: part(LayerPart::AttentionNorm),
            qkv: part(LayerPart::Query),
            qkv_bias: perhaps(LayerPart::QueryBias),
            head_norms: perhaps(LayerPart::QueryNorm).zip(perhaps(LayerPart::KeyNorm)),
            attention_output: part(LayerPart::AttentionOutput),
            feed_forward_norm: part(LayerPart::FeedForwardNorm),
            gate_up: part(LayerPart::Gate),
            down: part(LayerPart::Down),
        }
    }

    fn part(&self, part: Part) -> &[f32] {
        self.perhaps(part).expect("the model has this part")
    }

    fn perhaps(&self, part: Part) -> Option<&[f32]> {
        let range = self.inner.sections.get(&part)?.clone();
        let bytes = &self.inner.file.bytes()[range];
        Some(<[f32]>::ref_from_bytes(bytes).expect("sections are aligned and hold whole floats"))
    }
}
