use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use serde::Serialize;

use super::progress::{Bars, bar};
use super::{Common, Outcome, open_store, output};
use crate::config::Review;
use crate::model::{Micros, Night, NightPhase};
use crate::{dream, search};

/// Run a night now: cluster failures, write lessons. Without anything new it changes nothing.
#[derive(Args, Debug)]
pub(super) struct Dream {
    #[command(flatten)]
    common: Common,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
}

/// The last line of `remora dream --json`.
#[derive(Serialize)]
struct Report<'a> {
    nights: &'a [Night],
    learned: PathBuf,
}

impl Dream {
    pub fn run(self) -> Outcome {
        let config = self.common.load()?;
        let store = open_store(&config)?;
        let embedder = search::embedder(&config.search, &config.onnx, &Bars::default())?;
        let mut shown: Option<(NightPhase, ProgressBar)> = None;
        let nights = dream::run_all(
            &store,
            &config.dream,
            embedder.as_ref(),
            Micros::now(),
            &mut |phase, done, total| {
                if shown.as_ref().is_none_or(|(of, _)| *of != phase) {
                    let bar = bar(doing(phase), Some(total));
                    if let Some((_, old)) = shown.replace((phase, bar)) {
                        old.finish_and_clear();
                    }
                }
                if let Some((_, bar)) = &shown {
                    bar.set_length(total);
                    bar.set_position(done);
                }
            },
        );
        if let Some((_, bar)) = shown {
            bar.finish_and_clear();
        }
        let nights = nights?;
        if self.json {
            return Ok(output::json_line(&Report {
                nights: &nights,
                learned: config.data_dir().join("learned"),
            })?);
        }
        if nights.is_empty() {
            output::line("no trajectories are recorded yet: point an app at `remora run` first")?;
        }
        for night in &nights {
            say(night)?;
            if night.commit.is_some() && config.dream.review == Review::Propose {
                output::line(format_args!(
                    "  proposed: `remora skills diff {0}`, then accept or reject {0}",
                    night.id
                ))?;
            }
        }
        Ok(())
    }
}

fn doing(phase: NightPhase) -> &'static str {
    match phase {
        NightPhase::Select => "reading trajectories",
        NightPhase::Cluster => "clustering failures",
        NightPhase::Draft => "drafting lessons",
        NightPhase::Commit => "writing files",
        NightPhase::Done | NightPhase::Failed => "ending",
    }
}

fn say(night: &Night) -> anyhow::Result<()> {
    let r = &night.report;
    if r.nothing_new {
        return output::line(format_args!(
            "{}: nothing new since the last night, nothing changed",
            night.scope
        ));
    }
    output::line(format_args!(
        "{}: {} trajectories, {} failures and {} successes known; {} clusters ({} new), {} failures like no other",
        night.scope, r.trajectories, r.failures, r.successes, r.clusters_total, r.clusters_new, r.unclustered
    ))?;
    output::line(format_args!(
        "  {} lessons ({} new), {} refused by the gate, {}; {:.1} s",
        r.lessons_total,
        r.lessons_new,
        r.rejected.len(),
        night
            .commit
            .as_ref()
            .map_or("nothing committed".into(), |c| format!("commit {}", &c[..c.len().min(12)])),
        r.seconds
    ))
}
