use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::json;

use super::super::progress::{Bars, Lines, bar};
use super::super::run::stop_signal;
use super::super::{Common, Failure, Outcome, output, runtime};
use crate::adapters::{gguf, ort_file, peft};
use crate::config::Quantize;
use crate::onnx::checkpoint::Checkpoint;
use crate::onnx::llama::block::Keep;
use crate::onnx::llama::stack::Stack;
use crate::onnx::lora::Projection;
use crate::tasks::Tasks;
use crate::train::pass::General;
use crate::train::tokens::example;
use crate::train::{Ended, Event, Example, Job, Options, Place, Report, Trained, jsonl, run};

/// Train an adapter on a file of chats, and nothing else: no gate, no registry.
#[derive(Args, Debug)]
pub(super) struct Lora {
    /// Configuration file [default: $REMORA_CONFIG, or built-in defaults].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The base model: `default`, a GGUF file, or a directory with config.json, tokenizer.json and *.safetensors.
    #[arg(long, value_name = "default|PATH")]
    model: String,
    /// Chats to learn from: OpenAI's fine-tuning format, a {"messages": […]} a line.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Chats to measure on, in the same format. They are not trained on; the best adapter on them is kept.
    #[arg(long, value_name = "FILE")]
    held_out: Option<PathBuf>,
    /// Where the adapter goes: a PEFT directory. What is needed to go on with an interrupted run stays beside it, in
    /// DIR.state, until it is done.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write the adapter in other formats too, beside the directory.
    #[arg(long, value_enum, value_name = "FORMAT")]
    also: Vec<Also>,
    #[command(flatten)]
    settings: Settings,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Formats besides PEFT's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Also {
    /// For llama.cpp: DIR.gguf
    Gguf,
    /// For ONNX Runtime: `DIR.onnx_adapter`
    Onnx,
}

#[derive(Args, Debug)]
struct Settings {
    /// Rank of the update.
    #[arg(long, default_value_t = 16, value_name = "N")]
    rank: usize,
    /// The update is scaled by alpha / rank [default: twice the rank].
    #[arg(long, value_name = "X")]
    alpha: Option<f32>,
    /// Projections to adapt, such as `q_proj,v_proj` [default: all seven].
    #[arg(long, value_delimiter = ',', value_name = "NAMES", value_parser = projection)]
    targets: Vec<Projection>,
    /// Times that each chat is seen.
    #[arg(long, default_value_t = 3.0, value_name = "N")]
    epochs: f64,
    /// Highest learning rate.
    #[arg(long, default_value_t = 1e-3, value_name = "X")]
    learning_rate: f64,
    /// Steps until it is reached.
    #[arg(long, default_value_t = 10, value_name = "N")]
    warmup: u64,
    /// Share of each number, times the learning rate, that a step takes away; 0: none.
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    weight_decay: f64,
    /// The gradient's norm is cut to this; 0: not.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    clip: f64,
    /// What a token counts at most, in nats; above it teaches nothing more: against wrong answers among the chats, 10 is
    /// mild. 0: no bound.
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    loss_clip: f64,
    /// Chats a step.
    #[arg(long, default_value_t = 4, value_name = "N")]
    batch: usize,
    /// General texts a step on which the model is held to what it says without adapter; they keep what it knows.
    #[arg(long, default_value_t = 2, value_name = "N")]
    replay: usize,
    /// What they count against the chats.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    replay_weight: f64,
    /// Tokens of a chat at most; longer ones are left out.
    #[arg(long, default_value_t = 2048, value_name = "N")]
    context: usize,
    /// Steps between measurements on what is held out; 0: only at the end.
    #[arg(long, default_value_t = 0, value_name = "N")]
    evaluate_every: u64,
    /// Measurements without improvement before it stops; 0: never.
    #[arg(long, default_value_t = 0, value_name = "N")]
    patience: u64,
    /// Steps between saved states; 0: none.
    #[arg(long, default_value_t = 20, value_name = "N")]
    save_every: u64,
    /// Decides where the adapter begins and in which order chats come; the same seed and chats give the same adapter.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Threads that compute; 0: one a core.
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: u16,
    /// How the model's own weights are kept: none (32-bit floats), stored (in few bits where the file has them so), 8 or 4
    /// (bits). Fewer bits are less memory and a little more work.
    #[arg(long, default_value = "none", value_name = "none|stored|8|4", value_parser = quantize)]
    quantize: Quantize,
    /// Keep less between the passes: about half of the memory, a tenth more work.
    #[arg(long)]
    save_memory: bool,
}

fn projection(name: &str) -> Result<Projection, String> {
    let known = || Projection::ALL.map(Projection::module).join(", ");
    let found = Projection::ALL.into_iter().find(|p| p.module() == name);
    found.ok_or_else(|| format!("there are {}", known()))
}

fn quantize(text: &str) -> Result<Quantize, String> {
    serde_json::from_value(json!(text)).map_err(|error| error.to_string())
}

impl Settings {
    fn options(&self) -> Options {
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let twice = self.rank as f32 * 2.0;
        let targets = if self.targets.is_empty() { Projection::ALL.to_vec() } else { self.targets.clone() };
        Options {
            rank: self.rank,
            alpha: self.alpha.unwrap_or(twice),
            targets,
            epochs: self.epochs,
            learning_rate: self.learning_rate,
            warmup: self.warmup,
            weight_decay: self.weight_decay,
            clip: self.clip,
            loss_clip: self.loss_clip,
            batch: self.batch,
            replay: self.replay,
            replay_weight: self.replay_weight,
            context: self.context,
            seed: self.seed,
            evaluate_every: self.evaluate_every,
            patience: self.patience,
            save_every: self.save_every,
            ..Options::default()
        }
    }
}

impl Lora {
    pub fn run(self) -> Outcome {
        let options = self.settings.options();
        if let Some((name, rule)) = options.problem() {
            return Err(Failure::Usage(format!("--{} {rule}", name.replace('_', "-"))));
        }
        let config = Common { config: self.config.clone(), data: None }.load()?;
        if self.out.exists() {
            let out = self.out.display();
            return Err(Failure::Usage(format!(
                "{out} exists: adapters are not written over, name another --out"
            )));
        }
        let chats = jsonl::read(&self.data)?;
        let held_out = self.held_out.as_deref().map(jsonl::read).transpose()?.unwrap_or_default();
        let opened = crate::onnx::open(&config.onnx, &self.model, self.settings.threads, &Bars::default())?;
        let checkpoint = &opened.checkpoint;
        let mut examples = encoded(checkpoint, &self.data, &chats, options.context)?;
        let held_out = match &self.held_out {
            Some(path) => encoded(checkpoint, path, &held_out, options.context)?,
            None => Vec::new(),
        };
        if options.replay > 0 {
            examples.extend(General::of(checkpoint)?.replay_within(options.context));
        }
        let keep = if self.settings.save_memory { Keep::Input } else { Keep::Products };
        let mut stack = Stack::new(
            &opened.runtime,
            opened.weights(opened.precision(self.settings.quantize))?,
            Some(options.shape()),
            keep,
        )?;
        if !self.json {
            eprintln!("{}; {} chats, {} held out", opened.device, chats.len(), held_out.len());
        }
        let state = beside(&self.out, "state");
        let base = checkpoint.hash().context("the model cannot be read")?;
        let place = Place { dir: &state, base: &base };
        let job = Job { examples: &examples, held_out: &held_out, options: &options, state: Some(place) };
        let stop = Stop::listen()?;
        let mut shown = Shown { bar: None, lines: Lines::default(), quiet: self.json };
        let trained = run(&mut stack, &opened.runtime, &job, &mut |event| {
            shown.show(event);
            if stop.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        drop(shown);
        let trained = trained?;
        if trained.report.ended == Ended::Cancelled {
            let report = &trained.report;
            if self.json {
                output::json_line(&json!({ "out": null, "report": report }))?;
            }
            return Err(anyhow::anyhow!(
                "stopped after step {} of {}: the same command goes on from the last saved state",
                report.step,
                report.steps
            )
            .into());
        }
        self.write(&trained, checkpoint)?;
        let _ = std::fs::remove_dir_all(&state);
        Ok(self.tell(&trained.report)?)
    }

    fn write(&self, trained: &Trained, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let model = &checkpoint.architecture;
        peft::write(&self.out, &trained.lora, model, &self.model)?;
        let name = self.out.file_name().unwrap_or_default().to_string_lossy();
        for also in &self.also {
            match also {
                Also::Gguf => gguf::write(&beside(&self.out, "gguf"), &trained.lora, model, &name)?,
                Also::Onnx => ort_file::write(&beside(&self.out, "onnx_adapter"), &trained.lora, model, 1)?,
            }
        }
        Ok(())
    }

    fn tell(&self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            output::json_line(&json!({ "out": self.out, "report": report }))?;
        }
        if let Ended::Diverged(reason) = &report.ended {
            let out = self.out.display();
            bail!(
                "training was stopped, since {reason}; {out} holds the adapter as it was after step {}: lower \
                 --learning-rate",
                report.adapter_step
            );
        }
        if self.json {
            return Ok(());
        }
        let last = report.losses.last().copied().unwrap_or_default();
        let first = report.losses.first().copied().unwrap_or_default();
        output::line(format!("{}: {} steps, loss {first:.3} → {last:.3}", self.out.display(), report.step))?;
        if let (Some(before), Some(after)) = (report.held_out_before, report.held_out_after) {
            output::line(format!("held out: {before:.3} → {after:.3}"))?;
        }
        Ok(())
    }
}

/// `out` with an ending of its own.
fn beside(out: &Path, ending: &str) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    out.with_file_name(name)
}

fn encoded(
    checkpoint: &Checkpoint,
    path: &Path,
    chats: &[crate::train::chat::Chat],
    context: usize,
) -> anyhow::Result<Vec<Example>> {
    let mut examples = Vec::new();
    for (number, chat) in (1..).zip(chats) {
        match example(checkpoint, chat, context) {
            Ok(example) => examples.push(example),
            Err(reason) => eprintln!("{}: chat {number} is left out: {reason}", path.display()),
        }
    }
    ensure!(!examples.is_empty(), "{}: there is no chat that can be trained on", path.display());
    Ok(examples)
}

/// Whether the user wants it to end.
struct Stop {
    asked: Arc<AtomicBool>,
    /// Listens while it lives.
    _runtime: tokio::runtime::Runtime,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let asked = Arc::new(AtomicBool::new(false));
        let runtime = runtime()?;
        let entered = runtime.enter();
        let signal = stop_signal().context("listen for Ctrl-C")?;
        let told = Arc::clone(&asked);
        Tasks::new().spawn("stop", async move {
            signal.await;
            told.store(true, Ordering::Relaxed);
        });
        drop(entered);
        Ok(Self { asked, _runtime: runtime })
    }

    fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A bar with the last numbers, or a line of them now and then.
struct Shown {
    bar: Option<ProgressBar>,
    lines: Lines,
    quiet: bool,
}

impl Shown {
    fn show(&mut self, event: &Event) {
        if self.quiet {
            return;
        }
        match event {
            Event::Resumed { step } => eprintln!("going on after step {step}"),
            Event::Evaluated { step, loss } => eprintln!("held out, after step {step}: {loss:.4}"),
            Event::Step { step, steps, loss, tokens_per_second, seconds_left, .. } => {
                let bar = self.bar.get_or_insert_with(|| bar("training", Some(*steps)));
                bar.set_position(*step);
                let numbers =
                    format!("loss {loss:.3}, {tokens_per_second:.0} tok/s, {seconds_left:.0} s left");
                if self.lines.due() {
                    eprintln!("step {step} of {steps}: {numbers}");
                }
                bar.set_message(numbers);
            }
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
