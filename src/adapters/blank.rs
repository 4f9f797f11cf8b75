//! An adapter that changes nothing.

use std::path::Path;

use super::{AdapterError, CONFIG, WEIGHTS, disk};

/// Writes a PEFT directory with the shapes of the one in `like`, all of whose weights are zero, by way of `new`.
///
/// A zero B makes B·A zero, so the model answers exactly as without an adapter. Zero bytes are 0.0 in every float format
/// of safetensors (<https://huggingface.co/docs/safetensors>: eight bytes with the length of the header, the header, then
/// nothing but data).
pub(super) fn write(like: &Path, new: &Path, to: &Path) -> Result<(), AdapterError> {
    let path = like.join(WEIGHTS);
    let mut weights = std::fs::read(&path).map_err(AdapterError::file("read", &path))?;
    let header = weights.first_chunk().map(|length| u64::from_le_bytes(*length));
    let data = header.and_then(|length| usize::try_from(length).ok()?.checked_add(8));
    match data.and_then(|start| weights.get_mut(start..)) {
        Some(data) => data.fill(0),
        None => {
            let reason = "it is no safetensors file: it ends within its header".to_owned();
            return Err(AdapterError::Damaged { path, reason });
        }
    }
    let path = like.join(CONFIG);
    let config = std::fs::read(&path).map_err(AdapterError::file("read", &path))?;
    disk::create_private(new)?;
    disk::write(&new.join(WEIGHTS), &weights)?;
    disk::write(&new.join(CONFIG), &config)?;
    disk::sync_directory(new)?;
    disk::rename(new, to)
}
