use std::fs;
use std::io::Write;
use std::sync::Mutex;

use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;

use super::*;
use crate::model::Silent;

/// A wheel with one file, and the pin that fits it.
fn wheel(member: &'static str, content: &[u8]) -> (Vec<u8>, Pin) {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file(member, SimpleFileOptions::default()).unwrap();
    zip.write_all(content).unwrap();
    let bytes = zip.finish().unwrap().into_inner();
    let pin = Pin {
        part: "a part",
        setting: "onnx.part",
        fetched_by: "remora provision --part",
        requirement: "part==1",
        platform_tag: Some("some_platform"),
        wheel_bytes: bytes.len() as u64,
        wheel_sha256: leak(&Sha256::digest(&bytes)),
        member,
        member_bytes: content.len() as u64,
        member_sha256: leak(&Sha256::digest(content)),
        cached: ("part-1", "part.bin"),
    };
    (bytes, pin)
}

fn leak(digest: &[u8]) -> &'static str {
    hex::encode(digest).leak()
}

/// A Python whose pip runs `script` with `$DEST` set, and which has no packages unless `script` prints some for `-c`.
#[cfg(unix)]
fn fake_python(dir: &Path, script: &str) -> Python {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("python");
    let text = format!(
        "#!/bin/sh\nMODE=$1\nwhile [ $# -gt 0 ]; do [ \"$1\" = --dest ] && DEST=$2; shift; done\n{script}\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Python::new(path)
}

fn provisioner(dir: &Path, python: Python, pin: Pin) -> Provisioner {
    Provisioner {
        config: config::Onnx::default(),
        in_environment: None,
        python,
        cache: Some(Cache::new(dir.join("cache"))),
        runtime: Some(pin),
        model: pin,
        tokenizer: pin,
    }
}

fn files_in(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            names.extend(files_in(&entry.path()));
            names.push(format!("{}/", entry.file_name().to_string_lossy()));
        } else {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Progress for Said {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.0.lock().unwrap().push(format!("{what} of {}", total.unwrap_or(0)));
    }
    fn reached(&self, _: u64) {}
    fn end(&self) {
        self.0.lock().unwrap().push("end".into());
    }
}

#[cfg(unix)]
#[test]
fn a_missing_part_is_fetched_once_and_then_found_in_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, pin) = wheel("pkg/part.bin", b"the content");
    let source = dir.path().join("part-1-py3-none-any.whl");
    fs::write(&source, bytes).unwrap();
    let script = format!("[ $MODE = -c ] || cp {} $DEST/", source.display());
    let provisioner = provisioner(dir.path(), fake_python(dir.path(), &script), pin);

    let said = Said::default();
    let first = provisioner.library(&said).unwrap();
    assert_eq!(first.origin, Origin::Fetched);
    assert_eq!(fs::read(&first.path).unwrap(), b"the content");
    assert_eq!(said.0.lock().unwrap().len(), 2);
    assert_eq!(files_in(&dir.path().join("cache")), ["part-1/", "part.bin"], "no work folder stays");

    let again = provisioner.library(&Silent).unwrap();
    assert_eq!(again, Located { path: first.path.clone(), origin: Origin::Cache });

    // A file that was damaged since is not believed, but fetched anew.
    fs::write(&first.path, b"the c0ntent").unwrap();
    assert_eq!(provisioner.library(&Silent).unwrap().origin, Origin::Fetched);
    assert_eq!(fs::read(&first.path).unwrap(), b"the content");
}

#[cfg(unix)]
#[test]
fn a_wheel_or_file_with_another_hash_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, pin) = wheel("pkg/part.bin", b"the content");
    let source = dir.path().join("part-1-py3-none-any.whl");
    let script = format!("[ $MODE = -c ] || cp {} $DEST/", source.display());
    let python = fake_python(dir.path(), &script);

    let (other, other_pin) = wheel("pkg/part.bin", b"the c0ntent that is longer");
    fs::write(&source, &other).unwrap();
    let error = provisioner(dir.path(), python.clone(), pin).library(&Silent).unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains(pin.wheel_sha256), "{error}");

    let good_wheel_bad_file = Pin { wheel_sha256: other_pin.wheel_sha256, ..pin };
    let error = provisioner(dir.path(), python.clone(), good_wheel_bad_file)
        .library(&Silent)
        .unwrap_err()
        .to_string();
    assert!(error.contains("pkg/part.bin in part==1") && error.contains(pin.member_sha256), "{error}");

    // Half a wheel, pinned as such, is no zip.
    let half = &bytes[..bytes.len() / 2];
    fs::write(&source, half).unwrap();
    let torn = Pin { wheel_sha256: leak(&Sha256::digest(half)), ..pin };
    let error = provisioner(dir.path(), python, torn).library(&Silent).unwrap_err();
    assert!(matches!(error, ProvisionError::Wheel { .. }), "{error}");

    let left = files_in(&dir.path().join("cache"));
    assert!(left.iter().all(|name| name == "part-1/"), "{left:?}");
}

#[cfg(unix)]
#[test]
fn what_a_killed_fetch_left_is_cleared_and_never_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, pin) = wheel("pkg/part.bin", b"the content");
    let source = dir.path().join("part-1-py3-none-any.whl");
    fs::write(&source, bytes).unwrap();
    let left = dir.path().join("cache/.fetch-abc");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("part-1-py3-none-any.whl"), b"half").unwrap();

    let script = format!("[ $MODE = -c ] || cp {} $DEST/", source.display());
    provisioner(dir.path(), fake_python(dir.path(), &script), pin).library(&Silent).unwrap();
    assert_eq!(files_in(&dir.path().join("cache")), ["part-1/", "part.bin"]);
}

#[cfg(unix)]
#[test]
fn two_at_once_fetch_once() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, pin) = wheel("pkg/part.bin", b"the content");
    let source = dir.path().join("part-1-py3-none-any.whl");
    fs::write(&source, bytes).unwrap();
    let script = format!("[ $MODE = -c ] || {{ echo x >> {0}.count; cp {0} $DEST/; }}", source.display());
    let provisioner = provisioner(dir.path(), fake_python(dir.path(), &script), pin);
    std::thread::scope(|scope| {
        let both =
            [scope.spawn(|| provisioner.library(&Silent)), scope.spawn(|| provisioner.library(&Silent))];
        for one in both {
            assert!(one.join().unwrap().is_ok());
        }
    });
    assert_eq!(fs::read_to_string(format!("{}.count", source.display())).unwrap(), "x\n");
}

#[cfg(unix)]
#[test]
fn an_installed_package_comes_before_the_cache_if_it_is_new_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (_, pin) = wheel("pkg/part.bin", b"the content");
    for name in ["libonnxruntime.so.1.20.0", "libonnxruntime.so.1.24.4", "libonnxruntime.so.1.9.0"] {
        fs::write(dir.path().join(name), b"").unwrap();
    }
    let list = |names: &[&str]| {
        let lines: Vec<_> = names.iter().map(|n| format!("echo {}", dir.path().join(n).display())).collect();
        lines.join("; ")
    };
    let python = fake_python(
        dir.path(),
        &list(&["libonnxruntime.so.1.20.0", "libonnxruntime.so.1.24.4", "libonnxruntime.so.1.99.0"]),
    );
    let found = provisioner(dir.path(), python, pin).library(&Silent).unwrap();
    assert_eq!(found.path, dir.path().join("libonnxruntime.so.1.24.4"), "the newest that exists");
    assert_eq!(found.origin, Origin::SitePackages);

    let python = fake_python(dir.path(), &list(&["libonnxruntime.so.1.20.0", "libonnxruntime.so.1.9.0"]));
    assert_eq!(python.installed_library(), None, "too old");
}

#[test]
fn a_path_that_the_user_names_wins_and_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let (_, pin) = wheel("pkg/part.bin", b"the content");
    let there = dir.path().join("libonnxruntime.so");
    fs::write(&there, b"").unwrap();
    let mut provisioner = provisioner(dir.path(), Python::new("/nonexistent/python"), pin);
    provisioner.config.library = Some(there.clone());
    provisioner.in_environment = Some("/nonexistent/library".into());
    assert_eq!(provisioner.library(&Silent).unwrap(), Located { path: there, origin: Origin::Configuration });

    provisioner.config.library = None;
    let error = provisioner.library(&Silent).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/library") && error.contains("ORT_DYLIB_PATH"), "{error}");
}

#[test]
fn with_fetch_never_nothing_is_run_or_written() {
    let dir = tempfile::tempdir().unwrap();
    let (_, pin) = wheel("pkg/part.bin", b"the content");
    let mut provisioner = provisioner(dir.path(), Python::new("/nonexistent/python"), pin);
    provisioner.config.fetch = Fetch::Never;
    let error = provisioner.library(&Silent).unwrap_err().to_string();
    assert!(error.contains("a part") && error.contains("onnx.part"), "{error}");
    assert!(error.contains("`remora provision --part`"), "{error}");
    assert!(!dir.path().join("cache").exists());
}

#[test]
fn every_failure_is_one_line_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (_, pin) = wheel("pkg/part.bin", b"the content");
    let python = || Python::new("/nonexistent/python");
    let mut unpinned = provisioner(dir.path(), python(), pin);
    unpinned.runtime = None;
    let mut homeless = provisioner(dir.path(), python(), pin);
    homeless.cache = None;
    let errors = [
        (provisioner(dir.path(), python(), pin).library(&Silent), "Install Python 3 with pip"),
        (unpinned.library(&Silent), "set onnx.library"),
        (homeless.library(&Silent), "set onnx.cache"),
    ];
    for (result, advice) in errors {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(advice), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn only_platforms_with_a_wheel_are_pinned() {
    for (os, arch) in [("linux", "x86_64"), ("linux", "aarch64"), ("macos", "aarch64")] {
        let pin = pins::runtime(os, arch, true).unwrap();
        assert!(
            pin.member_bytes > 20_000_000
                && pin.member_sha256.len() == 64
                && pin.member.ends_with(pin.cached.1)
        );
    }
    assert!(pins::runtime("linux", "x86_64", false).is_none(), "musl");
    assert!(pins::runtime("freebsd", "x86_64", true).is_none());
}
