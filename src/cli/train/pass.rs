use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;

use super::super::{Common, Outcome};
use super::learner::Local;
use crate::config::Config;
use crate::model::Silent;
use crate::train::pass::{General, Learner, Line, Work, run};

/// One training in a work directory. Progress goes to standard output, a JSON object a line.
#[derive(Args, Debug)]
pub(super) struct Pass {
    /// The directory.
    work: PathBuf,
    #[command(flatten)]
    common: Common,
}

impl Pass {
    pub fn run(self) -> Outcome {
        let config = self.common.load()?;
        let work = Work::open(&self.work);
        let done = pass(&config, &work);
        if let Err(error) = &done {
            work.fail(&super::super::told(error));
        }
        Ok(done?)
    }
}

fn pass(config: &Config, work: &Work) -> anyhow::Result<()> {
    let order = work.order()?;
    yield_to_traffic(order.settings.nice);
    let mut learner = Local::open(config, &order, &Silent)?;
    let general = General::of(learner.language())?;
    run(work, &mut learner, &general, &mut print)?;
    Ok(())
}

/// Says how far it is; nobody reads it any more where the night died or was ended.
fn print(line: &Line) -> ControlFlow<()> {
    let mut out = std::io::stdout().lock();
    let text = serde_json::to_string(line).expect("progress is plain data");
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Lowers this process's priority, before it has other threads.
fn yield_to_traffic(nice: u8) {
    #[cfg(unix)]
    if let Err(error) = rustix::process::nice(i32::from(nice)) {
        tracing::warn!(%error, "training goes on at the usual priority");
    }
    #[cfg(not(unix))]
    let _ = nice;
}
