//! `remora demo --model`: a day, a night that trains, and a day after it, on a real model.

use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;
use std::io::IsTerminal;

use super::super::progress::{Bars, bar};
use super::super::run::stop_signal;
use super::super::{Outcome, output, runtime};
use crate::app::App;
use crate::config::{self, Adapters, Config, SwapTarget, TargetKind, Train};
use crate::demo::report::Style;
use crate::demo::tickets::{
    Day, Desk, Forgotten, Half, Message, Night, Prompt, Report, json, messages, shuffled, text,
};
use crate::model::Scope;
use crate::schedule::{self, Job};
use crate::serve::{self, Server};
use crate::train::general;
use crate::train::night::{Ended, Run};

/// Messages that are learned from, and as many that are not seen before day 2.
const MESSAGES: usize = 60;
/// What the app calls itself: the night learns from this name's traffic and from no other.
const APP: &str = "tickets";
/// Under this name the base is asked for comparison.
const BESIDE: &str = "tickets-compared";
/// The server gets this long for what is under way.
const GRACE: Duration = Duration::from_secs(5);

/// What is to be shown.
#[derive(Debug)]
pub(super) struct Tickets {
    /// `default`, a GGUF file or a directory.
    pub model: String,
    pub seed: u64,
    /// Deal the corrections out at random: the gate has to refuse what comes of it.
    pub shuffled: bool,
    pub json: bool,
    pub exit: bool,
    /// Whether the data directory stays.
    pub kept: bool,
}

/// What the child process said of its night.
#[derive(Deserialize)]
struct Nights {
    runs: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(flatten)]
    run: Run,
    released: Option<Released>,
}

#[derive(Deserialize)]
struct Released {
    error: Option<String>,
}

impl Tickets {
    /// `config`: with a data directory and listeners of the demo's own.
    pub(super) fn run(self, mut config: Config) -> Outcome {
        config.serve = config::Serve {
            model: self.model.clone(),
            listen: "127.0.0.1:0".into(),
            names: vec![BASE.into()],
            context: 1024,
            ..config::Serve::default()
        };
        config.train.schedule = None;
        config.adapters = Adapters::default();
        let began = Instant::now();
        let model = serve::open(&config, &Bars::default())?;
        runtime()?.block_on(self.play(config, model, began))
    }

    async fn play(self, mut config: Config, model: serve::Model, began: Instant) -> Outcome {
        let mut stop = pin!(stop_signal()?);
        let server = Server::start(&config.serve, model).await?;
        // The app asks for this name on both days; until something passes the gate it is the base.
        let alias = config.adapters.alias_of(&Scope::default().tenant, APP);
        server.names().put_base(&alias)?;
        let url = server.url();
        config.upstream.url.clone_from(&url);
        let config = config.checked("demo")?;
        let app = App::start(&config, None).await?;
        eprintln!(
            "{} is served here, an app sorts messages with it, and Remora is between them; dashboard: {}",
            self.model,
            app.admin_url()
        );
        let done = tokio::select! {
            done = self.days(&app, &config, &url, &alias, began) => Some(done),
            () = &mut stop => None,
        };
        let outcome = match done {
            Some(Ok(())) if !self.exit => {
                let kept = if self.kept { "" } else { " Its data is temporary; --data DIR keeps it." };
                eprintln!("\nServing until Ctrl-C.{kept} Dashboard: {}", app.admin_url());
                stop.await;
                Ok(())
            }
            Some(done) => done,
            None => Ok(()),
        };
        app.stop().await;
        server.stop(GRACE).await;
        outcome
    }

    async fn days(&self, app: &App, config: &Config, server: &str, alias: &str, began: Instant) -> Outcome {
        let learned = messages(self.seed, Half::Learned, MESSAGES);
        let unseen = messages(self.seed, Half::Unseen, MESSAGES);
        let desk = Desk::new(&app.proxy_url(), alias, APP);
        let corrected_on = asked(&desk, &learned, "Day 1: the app asks").await?;
        // What people say the answers should have been.
        let taught = if self.shuffled { shuffled(&learned, self.seed) } else { learned };
        let feedback = desk.correct(&corrected_on, &taught).await?;

        let beside = desk.clone().called(BESIDE);
        let best = beside.clone().asking(BASE).with(Prompt::Worked);
        let day1 = asked(&best, &unseen, "Day 1: the base at its best prompt").await?;
        let before = questions(&beside).await?;

        let night = self.night(config, server).await?;
        let said = tell_of(&night, alias);
        let day2 = asked(&desk, &unseen, "Day 2: messages never seen").await?;
        let after = questions(&beside).await?;

        let pass = night.run.pass.as_ref();
        let candidate = pass.and_then(|p| p.candidate.as_ref()).and_then(|c| c.perplexity);
        let report = Report {
            model: &self.model,
            seed: self.seed,
            shuffled: self.shuffled,
            corrected_on: &corrected_on,
            feedback,
            day1: &day1,
            night: &said,
            day2: &day2,
            forgotten: Forgotten {
                perplexity: pass.and_then(|p| p.base.perplexity).zip(candidate),
                questions: general::questions().len(),
                answered: (before, after),
            },
            seconds: began.elapsed().as_secs_f64(),
            dashboard: &app.admin_url(),
        };
        let style = if std::io::stdout().is_terminal() { Style::Terminal } else { Style::Plain };
        output::line(text(&report, style))?;
        if self.json {
            output::json_line(&json(&report))?;
        }
        Ok(())
    }

    /// Trains as any night does: a child process selects from the store, trains, decides, and swaps.
    async fn night(&self, config: &Config, server: &str) -> anyhow::Result<Said> {
        let settings = Config {
            data: Some(config.data_dir()),
            onnx: config.onnx.clone(),
            log: config.log.clone(),
            train: train(),
            adapters: Adapters { targets: vec![target(server)], ..config.adapters.clone() },
            ..Config::default()
        };
        let file = config.data_dir().join("demo.yaml");
        std::fs::write(&file, serde_saphyr::to_string(&settings)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let training = bar("The night: training", None);
        training.enable_steady_tick(Duration::from_millis(120));
        let nights = train_in_child(&config.data_dir(), &file, &self.model).await;
        training.finish_and_clear();
        let said = nights?.runs.into_iter().next().context("the night found nothing to learn from")?;
        anyhow::ensure!(
            said.run.outcome != Ended::Failed,
            "the night could not train: {}",
            said.run.reasons.join("; ")
        );
        if let Some(error) = said.released.as_ref().and_then(|r| r.error.as_ref()) {
            anyhow::bail!("the adapter was kept but could not be swapped in: {error}");
        }
        Ok(said)
    }
}

/// What is told of a night.
fn tell_of(night: &Said, alias: &str) -> Night {
    let run = &night.run;
    let pass = run.pass.as_ref();
    let mut said = Vec::new();
    if let Some(pass) = pass {
        for marks in &pass.base.prompts {
            said.push(format!("held out, the base at {}: {:.0} %", marks.prompt, 100.0 * marks.mean()));
        }
        if let Some(candidate) = &pass.candidate {
            said.push(format!("held out, the adapter: {:.0} %", 100.0 * candidate.marks.mean()));
        }
        if let Some(step) = &pass.trained {
            said.push(format!("{} steps, the last loss {:.3}", step.step, step.loss));
        }
    }
    if run.outcome != Ended::Kept {
        said.extend(run.reasons.iter().map(|reason| format!("against it: {reason}")));
    }
    Night {
        learned_from: pass.map_or(run.selected.training, |p| p.training - p.replay) as usize,
        held_out: pass.map_or(run.selected.held_out, |p| p.held_out) as usize,
        kept: run.outcome == Ended::Kept,
        version: run.adapter.map(|id| id.to_string()),
        alias: alias.to_owned(),
        said,
        seconds: run.started.until(run.ended).as_secs_f64(),
    }
}

/// The base model's own name.
const BASE: &str = "base";

/// How the demo trains: what was found to be enough for this job, and to forget little.
fn train() -> Train {
    let mut train = Train::default();
    train.examples.held_out = 0.2;
    train.lora.epochs = 6.0;
    // One sequence of general text a step, half as heavy as the step's answers. Without it perplexity rises by an eighth
    // and chats end in JSON; with it by about a hundredth, for a seventh of the tokens.
    train.lora.replay = 1;
    train.lora.replay_weight = 0.5;
    train.gate.worked = 4;
    train.gate.answer = 40;
    train.nice = 0;
    train
}

fn target(server: &str) -> SwapTarget {
    SwapTarget {
        kind: TargetKind::Serve,
        url: server.to_owned(),
        scope: None,
        api_key: None,
        directory: None,
        timeout: config::Span::secs(60),
    }
}

async fn asked(desk: &Desk, messages: &[Message], doing: &'static str) -> anyhow::Result<Day> {
    let asking = bar(doing, Some(messages.len() as u64));
    let day = desk.ask(messages, &mut || asking.inc(1)).await;
    asking.finish_and_clear();
    Ok(day?)
}

/// How many of the unrelated questions are answered.
async fn questions(desk: &Desk) -> anyhow::Result<usize> {
    let mut answered = 0;
    for asked in general::questions() {
        let said = desk.chat(&asked.question, general::ANSWER_TOKENS).await?;
        answered += usize::from(asked.answered_by(&said));
        tracing::debug!(question = asked.question, said, "unrelated");
    }
    Ok(answered)
}

async fn train_in_child(data: &Path, config_file: &Path, model: &str) -> anyhow::Result<Nights> {
    let scope = format!("default/{APP}");
    let with = ["--json", "--model", model, "--scope", &scope];
    let child = schedule::start(Job::Train, data, Some(config_file), &with, Stdio::piped())
        .context("the night could not be started")?;
    let output = child.wait_with_output().await.context("the night could not be waited for")?;
    anyhow::ensure!(output.status.success(), "the night failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().context("the night said nothing")?;
    serde_json::from_str(last).context("the night's report cannot be read")
}
