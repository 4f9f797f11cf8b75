//! The process that trains.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::super::pass::Line;

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a pass and passes on its progress; its messages go where ours go. Where this process dies, the child finds at its
/// next line that nobody reads it, and ends.
///
/// # Errors
/// In words, when it could not be started or did not end well.
pub(super) fn run(mut command: Command, told: &mut dyn FnMut(&Line)) -> Result<(), String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let started =
        command.spawn().map_err(|e| format!("the process that trains could not be started: {e}"))?;
    let mut running = Running(started);
    let lines = running.0.stdout.take().map(BufReader::new);
    for line in lines.into_iter().flat_map(BufRead::lines) {
        let Ok(line) = line else { break };
        // Whatever else is printed there is no progress.
        if let Ok(line) = serde_json::from_str::<Line>(&line) {
            told(&line);
        }
    }
    let status = running.0.wait().map_err(|e| format!("the process that trains was lost: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("the process that trains ended early: {status}")) }
}
