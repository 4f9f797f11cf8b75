use std::sync::{Mutex, PoisonError};

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
