//! Adapters out of files. What is served already out of the same files is not read again: an alias moves to a version that
//! was loaded under its own name without reading its weights.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use super::http::LoadAdapter;
use super::names::{Adapter, Meaning, Names};
use crate::model::Micros;
use crate::tasks;

/// Reads an adapter, or finds it among `names`.
///
/// # Errors
/// The loader's reason.
pub(super) async fn adapter(path: &Path, load: &LoadAdapter, names: &Names) -> Result<Arc<Adapter>, String> {
    let (load, names, path) = (load.clone(), names.clone(), path.to_owned());
    let read = move || {
        let (root, before) = (path.display().to_string(), Stamp::of(&path));
        if let Some(there) = before.as_ref().and_then(|stamp| served(&names, &root, stamp)) {
            return Ok(there);
        }
        let lora = Arc::new(load(&path)?);
        let files = before.filter(|before| Stamp::of(&path).as_ref() == Some(before));
        Ok(Arc::new(Adapter { lora, root, since: Micros::now(), files }))
    };
    tasks::blocking(read).await.unwrap_or_else(|| Err("reading it failed".to_owned()))
}

fn served(names: &Names, root: &str, files: &Stamp) -> Option<Arc<Adapter>> {
    names.others().values().find_map(|meaning| match meaning {
        Meaning::Adapter(adapter) if adapter.root == root && adapter.files.as_ref() == Some(files) => {
            Some(adapter.clone())
        }
        _ => None,
    })
}

/// By what a file, or a directory of files, is known to be the same as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<(OsString, Seen)>);

/// Device, inode, bytes, and the nanoseconds at which it was written and changed.
type Seen = (u64, u64, u64, i128, i128);

/// A file that changed as recently may change again without its times showing it: clocks of file systems tick, by 10 ms at
/// most.
const TICK: i128 = 20_000_000;
/// Adapters have a few files; what has more is something else.
const MOST_FILES: usize = 64;

impl Stamp {
    /// `None` where files cannot be told apart: they are not there, too many or too young, or the system has no such numbers.
    #[cfg(unix)]
    fn of(path: &Path) -> Option<Self> {
        let now = i128::from(Micros::now().0) * 1000;
        let mut files = vec![(OsString::new(), Self::seen(path, now)?)];
        if path.is_dir() {
            for entry in std::fs::read_dir(path).ok()?.take(MOST_FILES + 1) {
                let entry = entry.ok()?;
                files.push((entry.file_name(), Self::seen(&entry.path(), now)?));
            }
        }
        files.sort_unstable();
        (files.len() <= MOST_FILES + 1).then_some(Self(files))
    }

    #[cfg(not(unix))]
    fn of(_path: &Path) -> Option<Self> {
        None
    }

    #[cfg(unix)]
    fn seen(path: &Path, now: i128) -> Option<Seen> {
        use std::os::unix::fs::MetadataExt as _;
        let found = path.metadata().ok()?;
        let time =
            |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let written = time(found.mtime(), found.mtime_nsec());
        let changed = time(found.ctime(), found.ctime_nsec());
        (now - changed > TICK).then_some((found.dev(), found.ino(), found.len(), written, changed))
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::serve::scripted;

    /// Writes an adapter's files, and waits until their times can be told from now.
    async fn write(dir: &Path, text: &str) {
        std::fs::write(dir.join("weights"), text).unwrap();
        while Stamp::of(dir).is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn files_are_read_once_for_several_names_and_again_when_they_changed() {
        let dir = tempfile::tempdir().unwrap();
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = reads.clone();
        let load: LoadAdapter = Arc::new(move |path| {
            counted.fetch_add(1, Ordering::Relaxed);
            let text = std::fs::read_to_string(path.join("weights")).map_err(|error| error.to_string())?;
            Ok(scripted::adapter(text.parse().map_err(|_| "no number".to_owned())?))
        });
        let names = Names::new(vec!["base".into()], "/m".into(), None);
        write(dir.path(), "1").await;
        let first = adapter(dir.path(), &load, &names).await.unwrap();
        names.put("version", first.clone()).unwrap();
        let alias = adapter(dir.path(), &load, &names).await.unwrap();
        assert!(Arc::ptr_eq(&first, &alias));
        assert_eq!(reads.load(Ordering::Relaxed), 1);

        write(dir.path(), "2").await;
        let changed = adapter(dir.path(), &load, &names).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &changed));
        assert_ne!(first.lora.layers, changed.lora.layers);

        names.remove("version");
        adapter(dir.path(), &load, &names).await.unwrap();
        assert_eq!(reads.load(Ordering::Relaxed), 3, "what nobody is served by is not kept");
        write(dir.path(), "x").await;
        assert_eq!(adapter(dir.path(), &load, &names).await.unwrap_err(), "no number");
    }

    #[test]
    fn files_that_changed_a_moment_ago_are_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("weights"), "1").unwrap();
        let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
        let now = i128::try_from(ahead.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()).unwrap();
        assert!(Stamp::seen(dir.path(), now).is_some());
        let written = Stamp::seen(dir.path(), now).unwrap().4;
        assert!(Stamp::seen(dir.path(), written + TICK).is_none());
    }
}
