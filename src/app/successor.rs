//! The next process, started by this one: the same program, perhaps a newer one by now, with the same arguments.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use super::{App, AppError};

/// How to start the next process.
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// What the service manager said to this process only.
const NOT_PASSED_ON: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"];
const TAKEOVER: &str = "--takeover";

impl Successor {
    /// As this process was started: by the name it was called by, since an upgrade puts another file under that name or
    /// turns a link; the file that runs is the old one.
    ///
    /// # Errors
    /// When there is no such name, and the system does not tell where the program is.
    pub fn of_this_process() -> Result<Self, AppError> {
        let mut arguments = std::env::args_os();
        let program = match arguments.next().filter(|name| !name.is_empty()) {
            Some(name) => name.into(),
            None => std::env::current_exe().map_err(|e| AppError::Successor { reason: e.to_string() })?,
        };
        let mut arguments: Vec<OsString> = arguments.collect();
        if !arguments.iter().any(|a| a == TAKEOVER) {
            arguments.push(TAKEOVER.into());
        }
        Ok(Self { program, arguments })
    }

    /// Starts it; it asks for the sockets by itself.
    ///
    /// # Errors
    /// When it cannot be started, or could not take over.
    pub fn start(&self, app: &App) -> Result<(), AppError> {
        let refused = |reason: String| Err(AppError::Successor { reason });
        if std::process::id() == 1 {
            return refused("this is process 1 of a container, which ends with it".into());
        }
        if app.desk.is_none() {
            return refused("this process hands nothing over; see the warning at its start".into());
        }
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        for name in NOT_PASSED_ON {
            command.env_remove(name);
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return refused(format!("{}: {error}", self.program.display())),
        };
        tracing::info!(pid = child.id(), program = %self.program.display(), "a successor is started");
        let stopping = app.tasks.stopping();
        // Its end is told, and leaves no zombie.
        app.tasks.spawn("successor", async move {
            tokio::select! {
                ended = child.wait() => match ended {
                    Ok(status) => tracing::error!(%status, "the successor ended"),
                    Err(error) => tracing::error!(%error, "the successor is out of sight"),
                },
                () = stopping.cancelled() => {}
            }
        });
        Ok(())
    }
}
