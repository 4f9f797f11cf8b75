mod answers;
mod learner;
mod lora;
mod pass;

use std::path::PathBuf;
use std::process::Command;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde::Serialize;

use super::progress::{Lines, bar};
use super::{Common, Failure, Outcome, open_store, output, runtime};
use crate::config::{Config, parse_scope};
use crate::model::{Micros, Scope};
use crate::store::Store;
use crate::train::night::{Ended, Means, Night, Release, Run, release};
use crate::train::pass::{Line, Phase, Step, Work};
use crate::upstream::Setup;
use crate::{outcome, schedule, trajectory};

/// Train adapters now from what was recorded: confident successes and corrections. Only what passes the gate is put to use.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Train {
    #[command(subcommand)]
    what: Option<What>,
    // Not those that all verbs share: within `train lora`, `--data` is what is trained on.
    /// Configuration file [default: $REMORA_CONFIG, or built-in defaults].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory, in place of the configured one.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Train for this tenant/app only [default: `train.scopes`].
    #[arg(long, value_name = "TENANT/APP")]
    scope: Option<String>,
    /// The base model: `default`, a GGUF file or a directory [default: `train.model`].
    #[arg(long, value_name = "default|PATH")]
    model: Option<String>,
    /// Also where nothing is new since the last training.
    #[arg(long)]
    again: bool,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    Lora(Box<lora::Lora>),
    /// One training in a work directory: what the night starts as a process of its own.
    #[command(hide = true)]
    Pass(pass::Pass),
}

/// A run, and where its adapter went.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    run: &'a Run,
    #[serde(skip_serializing_if = "Option::is_none")]
    released: Option<Released>,
}

#[derive(Serialize)]
struct Released {
    alias: String,
    servers: Vec<String>,
    /// Why alias and servers are as they were.
    error: Option<String>,
}

impl Train {
    pub fn run(self) -> Outcome {
        match self.what {
            None => self.night(),
            Some(What::Lora(lora)) => lora.run(),
            Some(What::Pass(pass)) => pass.run(),
        }
    }

    fn night(self) -> Outcome {
        let common = Common { config: self.config.clone(), data: self.data.clone() };
        let config = common.load()?;
        let Some(model) = self.model.as_ref().or(config.train.model.as_ref()) else {
            let message = "name the base model: --model default, a GGUF file or a directory (or train.model)";
            return Err(Failure::Usage(message.into()));
        };
        let store = open_store(&config)?;
        let scopes = self.scopes(&config, &store)?;
        let executable = schedule::executable()?;
        let file = common.config_file();
        let start = |work: &Work| {
            let mut command = Command::new(&executable);
            command.args(["train", "pass"]).arg(work.path());
            command.args(file.iter().flat_map(|file| ["--config".as_ref(), file.as_os_str()]));
            command
        };
        let settings = &config.train;
        let night = Night::begin(Means { store: &store, settings, model, again: self.again, start: &start })?;
        // Under the lock: what is judged now is what is learned from.
        trajectory::catch_up(&store)?;
        outcome::assess(&store, Micros::now())?;
        let mut all = Vec::new();
        for scope in scopes {
            let mut bars = Phases::default();
            let run = night.train(&scope, &mut |line| bars.show(line));
            drop(bars);
            let run = run?;
            let done = runtime()?.block_on(release(&run, store.dir(), &config, &Setup::default()));
            if !self.json {
                say(&run, done.as_ref())?;
            }
            all.push((run, done.map(Released::of)));
        }
        if self.json {
            let runs: Vec<Told<'_>> = all
                .iter()
                .map(|(run, released)| Told { run, released: released.as_ref().map(Released::again) })
                .collect();
            output::json_line(&serde_json::json!({ "runs": runs }))?;
        } else if all.is_empty() {
            output::line("no trajectories are recorded yet: point an app at `remora run` first")?;
        }
        let failed = all.iter().filter(|(run, _)| run.outcome == Ended::Failed).count();
        let stuck = all.iter().filter(|(_, r)| r.as_ref().is_some_and(|r| r.error.is_some())).count();
        match (failed, stuck) {
            (0, 0) => Ok(()),
            (0, _) => Err(anyhow::anyhow!("an adapter that passed the gate could not be put to use").into()),
            _ => Err(anyhow::anyhow!("{failed} of {} trainings did not come to an end", all.len()).into()),
        }
    }

    fn scopes(&self, config: &Config, store: &Store) -> Result<Vec<Scope>, Failure> {
        let named: Vec<&String> = match &self.scope {
            Some(scope) => vec![scope],
            None => config.train.scopes.iter().collect(),
        };
        if named.is_empty() {
            return Ok(store.scopes()?);
        }
        named
            .into_iter()
            .map(|text| {
                let (tenant, app) = parse_scope(text).ok_or_else(|| {
                    Failure::Usage(format!("{text:?} is no tenant/app, such as default/default"))
                })?;
                Ok(Scope { tenant: tenant.into(), app: app.into(), user: String::new() })
            })
            .collect()
    }
}

impl Released {
    fn of(release: Release) -> Self {
        let (servers, error) = match release.done {
            Ok(done) => (done.servers, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        Self { alias: release.alias, servers, error }
    }

    fn again(&self) -> Self {
        Self { alias: self.alias.clone(), servers: self.servers.clone(), error: self.error.clone() }
    }
}

/// Bars on a terminal, a line a phase in the log, and while training now and then.
#[derive(Default)]
struct Phases {
    bar: Option<(Phase, ProgressBar)>,
    lines: Lines,
}

impl Phases {
    fn show(&mut self, line: &Line) {
        if self.bar.as_ref().is_none_or(|(phase, _)| *phase != line.phase) {
            let doing = doing(line.phase);
            tracing::info!(doing, total = line.total, "a training goes on");
            if let Some((_, old)) = self.bar.replace((line.phase, bar(doing, Some(line.total)))) {
                old.finish_and_clear();
            }
        }
        let Some((_, bar)) = &self.bar else { return };
        bar.set_length(line.total);
        bar.set_position(line.done);
        if let Some(step) = &line.step {
            let Step { step, steps, loss, tokens_per_second, seconds_left } = step;
            if self.lines.due() {
                let (tokens_per_second, seconds_left) = (tokens_per_second.round(), seconds_left.round());
                tracing::info!(step, steps, loss, tokens_per_second, seconds_left, "training");
            }
            bar.set_message(format!(
                "loss {loss:.3}, {tokens_per_second:.0} tok/s, {seconds_left:.0} s left"
            ));
        }
    }
}

impl Drop for Phases {
    fn drop(&mut self) {
        if let Some((_, bar)) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Read => "reading conversations",
        Phase::Base => "asking the base what was held out",
        Phase::Train => "training",
        Phase::Gate => "asking the adapter what was held out",
    }
}

fn say(run: &Run, release: Option<&Release>) -> anyhow::Result<()> {
    let s = &run.selected;
    output::line(format_args!(
        "{}: {} to learn from ({} corrections), {} held out, of {} trajectories",
        output::safe(&run.scope.to_string(), 100),
        s.training,
        s.corrections,
        s.held_out,
        s.trajectories
    ))?;
    for (why, n) in &s.skipped {
        output::line(format_args!("  {n} left out: {why}"))?;
    }
    let ended = match run.outcome {
        Ended::TooFew => "nothing was trained".to_owned(),
        Ended::NothingNew => "nothing new since the last training, nothing was trained".to_owned(),
        Ended::Failed => "training did not come to an end".to_owned(),
        Ended::Kept => "the gate kept the adapter".to_owned(),
        Ended::Refused => "the gate refused the adapter".to_owned(),
    };
    let id = run.adapter.map(|id| format!(" {id}")).unwrap_or_default();
    output::line(format_args!("  {ended}{id}; {:.1} s", run.started.until(run.ended).as_secs_f64()))?;
    for reason in &run.reasons {
        output::line(format_args!("  - {}", output::safe(reason, 400)))?;
    }
    match release {
        None => Ok(()),
        Some(Release { alias, done: Ok(done), .. }) => {
            output::line(format_args!("  {} is the adapter now", output::safe(alias, 100)))?;
            done.servers.iter().try_for_each(|url| output::line(format_args!("  loaded into {url}")))
        }
        Some(Release { alias, adapter, done: Err(error) }) => output::line(format_args!(
            "  {} is as it was: {}; the next night tries again, or `remora adapters promote {adapter}`",
            output::safe(alias, 100),
            output::safe(&error.to_string(), 400)
        )),
    }
}
