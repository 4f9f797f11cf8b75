//! A disk that fails as a test says: see `data/disk.c`.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::Launch;

pub struct Disk {
    control: PathBuf,
    generation: Cell<u32>,
}

impl Disk {
    /// With its control file in `scratch`; it works as disks should until it is told otherwise.
    pub fn new(scratch: &Path) -> Self {
        let disk = Self { control: scratch.join("disk"), generation: Cell::new(0) };
        disk.works();
        disk
    }

    /// Puts it below a process.
    pub fn below(&self, launch: Launch) -> Launch {
        let control = self.control.to_str().expect("a plain path");
        let library = library().to_str().expect("a plain path");
        launch.variable("REMORA_TEST_DISK", control).variable("LD_PRELOAD", library)
    }

    pub fn works(&self) {
        self.rule("none", 0, "/data/");
    }

    /// From now on files whose path contains `substring` fare so.
    pub fn rule(&self, kind: &str, number: u64, substring: &str) {
        self.generation.set(self.generation.get() + 1);
        let rule = format!("{kind} {number} {} {substring}\n", self.generation.get());
        let new = self.control.with_extension("new");
        std::fs::write(&new, rule).expect("written");
        std::fs::rename(new, &self.control).expect("renamed");
    }

    /// What a rule of kind `trace` noted: call and path.
    pub fn traced(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.control.with_extension("trace")).unwrap_or_default();
        text.lines().filter_map(|l| l.split_once(' ')).map(|(c, p)| (c.into(), p.into())).collect()
    }
}

/// Compiled once; a compiler for C is there, for SQLite is compiled with it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/disk.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (making, made) = (folder.join(format!("disk-{}.so", std::process::id())), folder.join("disk.so"));
        let said = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-o"])
            .args([&making, &source])
            .output()
            .expect("cc runs");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        // Two test runs at once must not see half of it.
        std::fs::rename(making, &made).expect("renamed");
        made
    })
}
