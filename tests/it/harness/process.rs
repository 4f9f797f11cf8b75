use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

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
    /// Runs the binary, whose path and arguments follow; empty: it runs by itself.
    by: Vec<String>,
    stdin: Stdio,
    stdout: Stdio,
}

/// A `remora run` in a process of its own, killed when dropped.
pub struct Process {
    child: Running,
    pub proxy: String,
    pub admin: String,
    /// What it says on standard error, and its successors.
    messages: PathBuf,
    ready: PathBuf,
}

enum Running {
    Child(Child),
    /// Started by another.
    Other(u32),
}

impl Launch {
    /// On ports of its own, with settings that suit tests.
    pub fn new(data: &Path, scratch: &Path) -> Self {
        Self::bare(data, scratch).with(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
    }

    /// With settings that suit tests, but without addresses.
    pub fn bare(data: &Path, scratch: &Path) -> Self {
        let launch = Self {
            scratch: scratch.to_owned(),
            config: scratch.join("remora.yaml"),
            arguments: Vec::new(),
            variables: Vec::new(),
            by: Vec::new(),
            stdin: Stdio::null(),
            stdout: Stdio::null(),
        };
        if !launch.config.exists() {
            launch.configure("");
        }
        launch.with(&["run", "--data", data.to_str().expect("a plain path")])
    }

    /// Replaces its configuration, as an editor does.
    pub fn configure(&self, yaml: &str) {
        let new = self.scratch.join("remora.yaml.new");
        // A test must not depend on how fast the disk is.
        let capture = if yaml.contains("capture:") { "" } else { "capture:\n  ack_timeout: 20s\n" };
        std::fs::write(&new, format!("{capture}dream:\n  schedule: null\n{yaml}")).expect("it is written");
        std::fs::rename(new, &self.config).expect("it is replaced");
    }

    /// With a configuration of its own.
    pub fn apart(mut self, yaml: &str) -> Self {
        self.config = self.scratch.join("apart.yaml");
        self.configure(yaml);
        self
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Through another program, with these for its standard input and output.
    pub fn by(mut self, program: &[&str], stdin: Stdio, stdout: Stdio) -> Self {
        self.by = program.iter().map(ToString::to_string).collect();
        (self.stdin, self.stdout) = (stdin, stdout);
        self
    }

    fn spawn(self) -> (Child, PathBuf, PathBuf) {
        let (ready, messages) = (self.scratch.join("ready.json"), self.scratch.join("messages"));
        let log = std::fs::File::options().create(true).append(true).open(&messages).expect("it is opened");
        let mut all = self.by;
        all.push(env!("CARGO_BIN_EXE_remora").to_owned());
        all.extend(self.arguments);
        let child = Command::new(&all[0])
            .args(&all[1..])
            .args([Path::new("--config"), &self.config, Path::new("--ready-file"), &ready])
            .envs(self.variables)
            .stdin(self.stdin)
            .stdout(self.stdout)
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        (child, ready, messages)
    }

    /// Runs it to its end.
    pub async fn fails(self) -> ExitStatus {
        let (mut child, ..) = self.spawn();
        until("it to end", || child.try_wait().expect("it can be asked")).await
    }

    /// Starts it and waits until it listens.
    pub async fn start(self) -> Process {
        let (child, ready, messages) = self.spawn();
        let id = child.id();
        // From here on a failing test leaves no process behind.
        let mut process = Process {
            child: Running::Child(child),
            proxy: String::new(),
            admin: String::new(),
            messages,
            ready,
        };
        let found = until("the process to listen", || {
            if let Running::Child(child) = &mut process.child {
                let ended = child.try_wait().expect("it can be asked");
                assert!(ended.is_none(), "it ended at the start: {ended:?}; {}", process.messages());
            }
            announced(&process.ready, |pid| pid == id)
        })
        .await;
        (process.proxy, process.admin) = (found.proxy, found.admin);
        process
    }
}

struct Announced {
    proxy: String,
    admin: String,
    pid: u32,
}

/// The ready file, where it is that of the process that is meant.
fn announced(file: &Path, is_meant: impl Fn(u32) -> bool) -> Option<Announced> {
    // Written whole or not at all.
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).expect("JSON");
    let url = |name: &str| found[name].as_str().expect("a URL").to_owned();
    let pid = found["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a number");
    is_meant(pid).then(|| Announced { proxy: url("proxy"), admin: url("admin"), pid })
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
        let mut launch = Launch::new(data, scratch).with(&["--upstream", upstream]);
        launch.configure(more);
        for (name, value) in variables {
            launch = launch.variable(name, value);
        }
        launch.start().await
    }

    pub fn pid(&self) -> u32 {
        match &self.child {
            Running::Child(child) => child.id(),
            Running::Other(pid) => *pid,
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    /// Everything that was said so far.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(&self.messages).unwrap_or_default()
    }

    pub fn runs(&mut self) -> bool {
        match &mut self.child {
            Running::Child(child) => child.try_wait().expect("it can be asked").is_none(),
            Running::Other(pid) => {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                // What comes after the name, which is in parentheses; Z: only its exit status is left.
                stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
            }
        }
    }

    pub async fn ended(&mut self) {
        until("the process to end", || (!self.runs()).then_some(())).await;
    }

    /// The process that comes after this one, once it serves.
    pub async fn successor(&self) -> Self {
        let before = self.pid();
        let found = until("a successor", || announced(&self.ready, |pid| pid != before)).await;
        Self {
            child: Running::Other(found.pid),
            proxy: found.proxy,
            admin: found.admin,
            messages: self.messages.clone(),
            ready: self.ready.clone(),
        }
    }

    /// Memory that the process holds, in bytes; as the system counts it, so only on Linux.
    pub fn memory(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.pid());
        let statm = std::fs::read_to_string(path).expect("the process runs");
        let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("numbers");
        pages * 4096
    }

    /// A line of `/proc/<id>/status` in KiB: `VmRSS` is what it holds now, `VmHWM` the most it ever held.
    pub fn kib(&self, line: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|l| l.starts_with(line)).expect("the line is there");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of KiB")
    }

    /// SIGKILL: nothing of it runs any more when this returns.
    pub fn kill(&mut self) {
        match &mut self.child {
            Running::Child(child) => {
                child.kill().expect("it can be killed");
                child.wait().expect("it has ended");
            }
            Running::Other(_) => self.signal(Signal::KILL),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        match &mut self.child {
            Running::Child(child) => {
                drop(child.kill());
                drop(child.wait());
            }
            Running::Other(pid) => {
                let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw).expect("a process id");
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
