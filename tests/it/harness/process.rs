use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use super::until;

/// Runs a verb of the binary to its end.
pub fn remora(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_remora")).args(arguments).output().expect("the binary runs")
}

/// The arguments with a data directory.
pub fn with_data<'a>(arguments: &[&'a str], data: &'a Path) -> Vec<&'a str> {
    let mut all = arguments.to_vec();
    all.extend(["--data", data.to_str().expect("a plain path")]);
    all
}

/// A `remora run` in a process of its own, killed when dropped.
pub struct Process {
    child: Child,
    pub proxy: String,
    pub admin: String,
}

impl Process {
    /// Starts it and waits until it listens. `scratch` holds its configuration and its ready file.
    pub async fn start(upstream: &str, data: &Path, scratch: &Path) -> Self {
        Self::configured(upstream, data, scratch, "").await
    }

    /// As [`start`](Self::start), with further sections of the configuration.
    pub async fn configured(upstream: &str, data: &Path, scratch: &Path, more: &str) -> Self {
        let (config, ready) = (scratch.join("remora.yaml"), scratch.join("ready.json"));
        // A test must not depend on how fast the disk is.
        let yaml = format!("capture:\n  ack_timeout: 20s\ndream:\n  schedule: null\n{more}");
        std::fs::write(&config, yaml).expect("the configuration is written");
        drop(std::fs::remove_file(&ready));
        let child = Command::new(env!("CARGO_BIN_EXE_remora"))
            .args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", upstream])
            .args([Path::new("--data"), data, Path::new("--config"), &config])
            .args([Path::new("--ready-file"), &ready])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        // From here on a failing test leaves no process behind.
        let mut process = Self { child, proxy: String::new(), admin: String::new() };
        let found = until("the process to listen", || {
            let ended = process.child.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "it ended at the start: {ended:?}");
            // Written whole or not at all.
            std::fs::read(&ready).ok()
        })
        .await;
        let found: serde_json::Value = serde_json::from_slice(&found).expect("JSON");
        process.proxy = found["proxy"].as_str().expect("a URL").to_owned();
        process.admin = found["admin"].as_str().expect("a URL").to_owned();
        process
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A line of `/proc/<id>/status` in KiB: `VmRSS` is what it holds now, `VmHWM` the most it ever held.
    pub fn kib(&self, line: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find(|l| l.starts_with(line)).expect("the line is there");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of KiB")
    }

    /// SIGKILL: nothing of it runs any more when this returns.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it has ended");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
