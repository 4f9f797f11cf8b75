//! Starts nights, of dreaming and of training, when their time comes, as child processes of the same executable: their
//! memory and their crashes are their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use chrono::Local;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::config;

/// What a night does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// `remora dream`
    Dream,
    /// `remora train`
    Train,
}

impl Job {
    fn verb(self) -> &'static str {
        match self {
            Self::Dream => "dream",
            Self::Train => "train",
        }
    }
}

/// Dreams or trains by the clock.
pub struct Nightly {
    job: Job,
    schedule: cron::Schedule,
    data: PathBuf,
    config_file: Option<PathBuf>,
}

const NAP: Duration = Duration::from_secs(60);

impl Nightly {
    /// A night at the times of a crontab line that was checked with the configuration.
    #[must_use]
    pub fn new(job: Job, line: &str, data: &Path, config_file: Option<&Path>) -> Self {
        let schedule = config::parse_schedule(line).expect("checked with the configuration");
        Self { job, schedule, data: data.to_owned(), config_file: config_file.map(Path::to_owned) }
    }

    /// Runs a night at each time until the schedule is `over`; a night under way then goes on, until `stopping`. One that
    /// is ended resumes with the next.
    pub async fn run(self, over: CancellationToken, stopping: CancellationToken) {
        loop {
            let Some(next) = self.schedule.upcoming(Local).next() else { return };
            // In short naps: a machine that was suspended, or whose clock was set, is noticed.
            while let Ok(left) = (next - Local::now()).to_std() {
                tokio::select! {
                    () = over.cancelled() => return,
                    () = tokio::time::sleep(left.min(NAP)) => {}
                }
            }
            let job = self.job.verb();
            tracing::info!(job, "a night begins");
            tokio::select! {
                () = stopping.cancelled() => return,
                ended = self.night() => match ended {
                    Ok(status) if status.success() => tracing::info!(job, "the night is over"),
                    Ok(status) => {
                        tracing::error!(job, %status, "the night failed; what it said is above")
                    }
                    Err(error) => tracing::error!(job, %error, "the night could not be started"),
                },
            }
        }
    }

    async fn night(&self) -> std::io::Result<ExitStatus> {
        start(self.job, &self.data, self.config_file.as_deref(), &[], Stdio::null())?.wait().await
    }
}

/// Starts `remora dream`, as [`start`].
///
/// # Errors
/// As [`start`].
pub fn dream(
    data: &Path,
    config_file: Option<&Path>,
    options: &[&str],
    stdout: Stdio,
) -> std::io::Result<Child> {
    start(Job::Dream, data, config_file, options, stdout)
}

/// Starts `remora dream` or `remora train` on a data directory; its messages go where ours go, its report to `stdout`.
/// Killed when dropped.
///
/// # Errors
/// When the executable cannot be started.
pub fn start(
    job: Job,
    data: &Path,
    config_file: Option<&Path>,
    options: &[&str],
    stdout: Stdio,
) -> std::io::Result<Child> {
    let mut arguments: Vec<OsString> = vec![job.verb().into(), "--data".into(), data.into()];
    if let Some(file) = config_file {
        arguments.extend(["--config".into(), file.into()]);
    }
    arguments.extend(options.iter().map(Into::into));
    Command::new(executable()?).args(arguments).stdin(Stdio::null()).stdout(stdout).kill_on_drop(true).spawn()
}

/// The running executable, even when an upgrade has replaced its file.
///
/// # Errors
/// When the system does not tell.
pub fn executable() -> std::io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}
