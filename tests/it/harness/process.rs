use std::path::{Path, PathBuf};
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

/// How a process is started. Its configuration, its messages and its ready file are in `scratch`.
pub struct Launch {
    scratch: PathBuf,
    config: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

/// A `remora run` in a process of its own, killed when dropped.
pub struct Process {
    child: Child,
    pub proxy: String,
    pub admin: String,
    /// What it says on standard error.
    messages: PathBuf,
}

impl Launch {
    /// On ports of its own, with settings that suit tests.
    pub fn new(data: &Path, scratch: &Path) -> Self {
        let launch = Self {
            scratch: scratch.to_owned(),
            config: scratch.join("remora.yaml"),
            arguments: Vec::new(),
            variables: Vec::new(),
        };
        launch.configure("");
        let data = data.to_str().expect("a plain path");
        launch.with(&["run", "--data", data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
    }

    /// Replaces its configuration, as an editor does.
    pub fn configure(&self, yaml: &str) {
        let new = self.scratch.join("remora.yaml.new");
        // A test must not depend on how fast the disk is.
        let capture = if yaml.contains("capture:") { "" } else { "capture:\n  ack_timeout: 20s\n" };
        std::fs::write(&new, format!("{capture}dream:\n  schedule: null\n{yaml}")).expect("it is written");
        std::fs::rename(new, &self.config).expect("it is replaced");
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it listens.
    pub async fn start(self) -> Process {
        let (ready, messages) = (self.scratch.join("ready.json"), self.scratch.join("messages"));
        let log = std::fs::File::options().create(true).append(true).open(&messages).expect("it is opened");
        drop(std::fs::remove_file(&ready));
        let child = Command::new(env!("CARGO_BIN_EXE_remora"))
            .args(self.arguments)
            .args([Path::new("--config"), &self.config, Path::new("--ready-file"), &ready])
            .envs(self.variables)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        // From here on a failing test leaves no process behind.
        let mut process = Process { child, proxy: String::new(), admin: String::new(), messages };
        let found = until("the process to listen", || {
            let ended = process.child.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "it ended at the start: {ended:?}; {}", process.messages());
            // Written whole or not at all.
            std::fs::read(&ready).ok()
        })
        .await;
        let found: serde_json::Value = serde_json::from_slice(&found).expect("JSON");
        let url = |name: &str| found[name].as_str().expect("a URL").to_owned();
        (process.proxy, process.admin) = (url("proxy"), url("admin"));
        process
    }
}

impl Process {
    /// Starts it and waits until it listens. `scratch` holds its configuration and its ready file.
    pub async fn start(upstream: &str, data: &Path, scratch: &Path) -> Self {
        Launch::new(data, scratch).with(&["--upstream", upstream]).start().await
    }

    /// As [`start`](Self::start), with more configuration and variables.
    pub async fn with(
        upstream: &str,
        data: &Path,
        scratch: &Path,
        more: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let launch = Launch::new(data, scratch).with(&["--upstream", upstream]);
        launch.configure(more);
        variables.iter().fold(launch, |launch, (name, value)| launch.variable(name, value)).start().await
    }

    /// Everything that was said so far.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(&self.messages).unwrap_or_default()
    }

    /// Memory that the process holds, in bytes; as the system counts it, so only on Linux.
    pub fn memory(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.child.id());
        let statm = std::fs::read_to_string(path).expect("the process runs");
        let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("numbers");
        pages * 4096
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
