//! Starts the night when its time comes, as a child process of the same executable: its memory and its crashes are its
//! own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use chrono::Local;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::config;

/// Dreams by the clock.
pub struct Nightly {
    schedule: cron::Schedule,
    data: PathBuf,
    config_file: Option<PathBuf>,
}

const NAP: Duration = Duration::from_secs(60);

impl Nightly {
    /// A night at the times of a crontab line that was checked with the configuration.
    #[must_use]
    pub fn new(line: &str, data: &Path, config_file: Option<&Path>) -> Self {
        let schedule = config::parse_schedule(line).expect("checked with the configuration");
        Self { schedule, data: data.to_owned(), config_file: config_file.map(Path::to_owned) }
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
            tracing::info!("a night begins");
            tokio::select! {
                () = stopping.cancelled() => return,
                ended = self.night() => match ended {
                    Ok(status) if status.success() => tracing::info!("the night is over"),
                    Ok(status) => tracing::error!(%status, "the night failed; what it said is above"),
                    Err(error) => tracing::error!(%error, "the night could not be started"),
                },
            }
        }
    }

    async fn night(&self) -> std::io::Result<ExitStatus> {
        dream(&self.data, self.config_file.as_deref(), &[], Stdio::null())?.wait().await
    }
}

/// Starts `remora dream` on a data directory; its messages go where ours go, its report to `stdout`. Killed when
/// dropped.
///
/// # Errors
/// When the executable cannot be started.
pub fn dream(
    data: &Path,
    config_file: Option<&Path>,
    options: &[&str],
    stdout: Stdio,
) -> std::io::Result<Child> {
    let mut arguments: Vec<OsString> = vec!["dream".into(), "--data".into(), data.into()];
    if let Some(file) = config_file {
        arguments.extend(["--config".into(), file.into()]);
    }
    arguments.extend(options.iter().map(Into::into));
    // The running executable, even when an upgrade has replaced its file.
    let executable =
        if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    Command::new(executable).args(arguments).stdin(Stdio::null()).stdout(stdout).kill_on_drop(true).spawn()
}
