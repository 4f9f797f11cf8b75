use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::adapters::AdapterError;
use crate::onnx::lora::all_finite;

type Result<T> = std::result::Result<T, AdapterError>;

/// Bytes that are read at once: they are still in the processor's cache when they become floats.
const BLOCK: usize = 128 << 10;

/// Behind the length of the header, which is a number of 64 bits, the header; behind that, tensors.
const LENGTH: u64 = 8;

/// The tensors of a safetensors file, read one after another through one small block of memory.
///
/// (Rejected: the whole file in memory, which is as much fresh memory again, in which every page costs a fault; the file
/// as memory, where one that somebody shortens meanwhile ends the process.)
pub(super) struct Tensors<'a> {
    path: &'a Path,
    file: File,
    header: Metadata,
    /// Where the tensors begin in the file.
    start: u64,
}

impl<'a> Tensors<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// When the file cannot be read, or what it says of itself cannot be.
    pub fn open(path: &'a Path) -> Result<Self> {
        let damaged = |reason: String| AdapterError::Damaged {
            path: path.to_owned(),
            reason: format!("no safetensors file: {reason}"),
        };
        let failed = |source: std::io::Error| match source.kind() {
            ErrorKind::UnexpectedEof => damaged("it ends within its header".to_owned()),
            _ => AdapterError::file("read", path)(source),
        };
        let mut file = File::open(path).map_err(AdapterError::file("read", path))?;
        let whole = file.metadata().map_err(failed)?.len();
        let mut length = [0; LENGTH as usize];
        file.read_exact(&mut length).map_err(failed)?;
        let length = u64::from_le_bytes(length);
        let header = usize::try_from(length).ok().filter(|_| length <= whole - LENGTH);
        let header = header.ok_or_else(|| damaged("it is shorter than its header".to_owned()))?;
        let mut bytes = vec![0; header];
        file.read_exact(&mut bytes).map_err(failed)?;
        let header: Metadata = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let start = LENGTH + length;
        if start.checked_add(header.data_len() as u64) != Some(whole) {
            return Err(damaged("its length is not that of its tensors".to_owned()));
        }
        Ok(Self { path, file, header, start })
    }

    /// What there is, by name.
    pub fn infos(&self) -> HashMap<String, TensorInfo> {
        self.header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect()
    }

    /// Appends the elements of a tensor, all of them finite, to `to`.
    ///
    /// # Errors
    /// When they are of another type, not finite, or cannot be read.
    pub fn append(&mut self, tensor: &str, info: &TensorInfo, to: &mut Vec<f32>) -> Result<()> {
        let (path, size) = (self.path, info.data_offsets.1 - info.data_offsets.0);
        let damaged = |reason: String| AdapterError::Damaged {
            path: path.to_owned(),
            reason: format!("{tensor}: {reason}"),
        };
        let failed = |source: std::io::Error| match source.kind() {
            ErrorKind::UnexpectedEof => damaged("the file was cut while it was read".to_owned()),
            _ => AdapterError::file("read", path)(source),
        };
        let convert = match info.dtype {
            Dtype::F32 => |bytes: &[u8], to: &mut Vec<f32>| extend(to, bytes, f32::from_le_bytes),
            Dtype::F16 => {
                |bytes: &[u8], to: &mut Vec<f32>| extend(to, bytes, |b| f16::from_le_bytes(b).to_f32())
            }
            Dtype::BF16 => {
                |bytes: &[u8], to: &mut Vec<f32>| extend(to, bytes, |b| bf16::from_le_bytes(b).to_f32())
            }
            other => return Err(damaged(format!("its type is {other:?}; F32, F16 and BF16 are read"))),
        };
        let at = self.start + info.data_offsets.0 as u64;
        self.file.seek(SeekFrom::Start(at)).map_err(failed)?;
        let mut block = vec![0; size.min(BLOCK)];
        let mut left = size;
        while left > 0 {
            let block = &mut block[..left.min(BLOCK)];
            self.file.read_exact(block).map_err(failed)?;
            let before = to.len();
            convert(block, to);
            if !all_finite(&to[before..]) {
                return Err(damaged("it holds what is no number".to_owned()));
            }
            left -= block.len();
        }
        Ok(())
    }
}

fn extend<const N: usize>(to: &mut Vec<f32>, bytes: &[u8], read: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    to.extend(elements.iter().map(|bytes| read(*bytes)));
}
