use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::model::Progress;

/// Bars on standard error; nothing where that is no terminal.
#[derive(Debug, Default)]
pub(super) struct Bars(Mutex<Option<ProgressBar>>);

impl Bars {
    fn set(&self, bar: Option<ProgressBar>) {
        if let Some(old) = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), bar)
        {
            old.finish_and_clear();
        }
    }
}

/// A bar of `total` steps; without, something that turns.
pub(super) fn bar(what: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{msg:<34} {bar:30} {pos}/{len} {elapsed:.dim}"),
        None => (ProgressBar::new_spinner(), "{msg:<34} {spinner} {elapsed:.dim}"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is fixed").progress_chars("━╸─");
    bar.with_style(style).with_message(what.to_owned())
}

impl Progress for Bars {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.set(Some(bar(what, total)));
    }

    fn reached(&self, done: u64) {
        if let Some(bar) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set_position(done);
        }
    }

    fn end(&self) {
        self.set(None);
    }
}

/// Says when numbers are due that nobody sees in a bar, since standard error is no terminal.
#[derive(Debug, Default)]
pub(super) struct Lines(Option<Instant>);

/// Between two lines of numbers.
const OFTEN: Duration = Duration::from_secs(30);

impl Lines {
    /// True at first, and then every half minute.
    pub(super) fn due(&mut self) -> bool {
        let due = !std::io::stderr().is_terminal() && self.0.is_none_or(|last| last.elapsed() >= OFTEN);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}
