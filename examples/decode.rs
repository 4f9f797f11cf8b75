//! What decoding costs: one request, several at once with adapters, and the change of an adapter: reading its files,
//! which other requests do not wait for, and giving it its place in the engine, which they do (`swap`).
//!
//! `decode --model default --weights f32 --requests 8 --adapters 4`; prints one JSON object.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{anyhow, ensure};
use clap::Parser;
use remora::adapters::peft;
use remora::config::{Config, DeviceChoice, Onnx};
use remora::model::Silent;
use remora::onnx::llama::Architecture;
use remora::onnx::lora::{Factor, Lora, LoraShape, Projection};
use remora::serve::engine::{Engine as _, Row};
use remora::serve::onnx_engine::{OnnxEngine, Options, Precision};
use serde_json::json;

#[derive(Parser)]
struct Cli {
    #[arg(long, default_value = "default")]
    model: String,
    #[arg(long, default_value_t = 2)]
    threads: u16,
    /// f32, q8, q4, or stored: as the file has them
    #[arg(long, default_value = "f32")]
    weights: String,
    #[arg(long, default_value_t = 64)]
    prompt: u32,
    #[arg(long, default_value_t = 32)]
    new: usize,
    #[arg(long, default_value_t = 8)]
    requests: usize,
    #[arg(long, default_value_t = 4)]
    adapters: usize,
    #[arg(long, default_value_t = 16)]
    rank: usize,
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Where ONNX Runtime writes what each node took.
    #[arg(long)]
    profile: Option<std::path::PathBuf>,
}

/// An adapter of small random matrices.
fn adapter(model: &Architecture, rank: usize, seed: u64) -> Arc<Lora> {
    let shape = LoraShape::new(rank, 2.0, &Projection::ALL);
    let mut state = seed;
    let mut draw = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f32 / 2f32.powi(31)) - 0.5
    };
    let layers = (0..model.layers).map(|_| {
        let mut vector = vec![0.0; shape.len(model)];
        for piece in shape.pieces(model) {
            let size = if piece.factor == Factor::A { 0.08 } else { 0.02 };
            vector[piece.range()].fill_with(|| draw() * size);
        }
        vector
    });
    let layers = layers.collect();
    Arc::new(Lora { shape, layers })
}

fn best(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
    best.expect("a vocabulary is not empty") as u32
}

/// Resident memory of this process and its peak, in MiB; `None` where the system does not say.
fn memory() -> Option<[u64; 2]> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
    };
    Some([of("RssAnon:")?, of("VmHWM:")?])
}

struct Run {
    engine: OnnxEngine,
    prompts: Vec<Vec<u32>>,
    adapters: Vec<Option<Arc<Lora>>>,
    new: usize,
}

impl Run {
    /// Answers `slots` together; tokens, and the seconds of each step.
    fn answer(&mut self, slots: &[usize]) -> anyhow::Result<(Vec<Vec<u32>>, Vec<f64>)> {
        let mut tokens = Vec::new();
        for &slot in slots {
            self.engine.truncate(slot, 0);
            let logits = self.engine.prefill(slot, &self.prompts[slot], self.adapters[slot].as_ref())?;
            tokens.push(vec![best(&logits)]);
        }
        let mut seconds = Vec::new();
        while tokens[0].len() < self.new {
            let rows = slots.iter().zip(&tokens).map(|(&slot, tokens)| Row {
                slot,
                token: tokens[tokens.len() - 1],
                adapter: self.adapters[slot].clone(),
            });
            let rows: Vec<Row> = rows.collect();
            let start = Instant::now();
            let logits = self.engine.step(&rows)?;
            seconds.push(start.elapsed().as_secs_f64());
            let vocabulary = self.engine.vocabulary();
            for (tokens, logits) in tokens.iter_mut().zip(logits.chunks(vocabulary)) {
                tokens.push(best(logits));
            }
        }
        Ok((tokens, seconds))
    }
}

/// The smallest, and the middle.
fn summary(mut seconds: Vec<f64>) -> serde_json::Value {
    seconds.sort_by(f64::total_cmp);
    json!({ "least_ms": seconds[0] * 1e3, "median_ms": seconds[seconds.len() / 2] * 1e3 })
}

fn main() -> anyhow::Result<()> {
    remora::config::prepare_environment();
    let cli = Cli::parse();
    let precision = match cli.weights.as_str() {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        "q8" => Precision::Q8,
        "q4" => Precision::Q4,
        "stored" => Precision::AsStored,
        other => return Err(anyhow!("there are no weights {other}")),
    };
    let onnx = Onnx { device: DeviceChoice::Cpu, ..Config::default().onnx };
    let mut opened = remora::onnx::open(&onnx, &cli.model, cli.threads, &Silent)?;
    if let Some(dir) = cli.profile {
        opened.runtime = opened.runtime.profiled(dir);
    }
    let start = Instant::now();
    let options = Options { slots: cli.requests, context: 1024, precision };
    let engine = OnnxEngine::new(&opened.runtime, &opened.checkpoint, Some(opened.cache()), options)?;
    let built = start.elapsed().as_secs_f64();
    let model = &opened.checkpoint.architecture;
    let adapters: Vec<_> = (0..cli.adapters).map(|i| adapter(model, cli.rank, 7 + i as u64)).collect();
    let prompts = (0..cli.requests as u32).map(|slot| {
        (0..cli.prompt + slot).map(|i| (i * 7919 + slot * 104_729) % model.vocabulary as u32).collect()
    });
    let of =
        |slot: usize| if adapters.is_empty() { None } else { adapters.get(slot % adapters.len()).cloned() };
    let mut run = Run {
        engine,
        prompts: prompts.collect(),
        adapters: (0..cli.requests).map(of).collect(),
        new: cli.new,
    };
    let after_load = memory();
    let files = tempfile::tempdir()?;
    let path = files.path().join("adapter");
    peft::write(&path, &adapter(model, cli.rank, 1), model, "decode")?;
    let mut reading = Vec::new();
    for _ in 0..10 {
        let start = Instant::now();
        let lora = peft::read(&path, model)?;
        reading.push(start.elapsed().as_secs_f64());
        drop(lora);
    }
    // A prompt that is read, and one that is taken from another slot.
    let (mut prefill, mut copy) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        run.engine.truncate(0, 0);
        let start = Instant::now();
        run.engine.prefill(0, &run.prompts[0], None)?;
        prefill.push(start.elapsed().as_secs_f64());
        run.engine.truncate(1, 0);
        let start = Instant::now();
        ensure!(run.engine.copy(0, 1, run.prompts[0].len()), "--requests 2 or more");
        copy.push(start.elapsed().as_secs_f64());
    }
    let all: Vec<usize> = (0..cli.requests).collect();
    let (mut base, mut alone, mut together, mut swap) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut equal = true;
    for round in 0..cli.rounds {
        let with = run.adapters[0].take();
        base.extend(run.answer(&[0])?.1);
        run.adapters[0] = with;
        let found = run.answer(&all)?;
        together.extend(found.1);
        for slot in all.clone() {
            let (tokens, seconds) = run.answer(&[slot])?;
            alone.extend(seconds);
            equal &= tokens[0] == found.0[slot];
        }
        // A new adapter in place of the first one: what the step that first uses it takes more than the next.
        let fresh = adapter(model, cli.rank, 1000 + round as u64);
        let rows: Vec<Row> =
            all.iter().map(|&slot| Row { slot, token: 1, adapter: Some(fresh.clone()) }).collect();
        for slot in all.clone() {
            run.engine.truncate(slot, 8);
        }
        let mut timed = || -> anyhow::Result<f64> {
            let start = Instant::now();
            run.engine.step(&rows)?;
            Ok(start.elapsed().as_secs_f64())
        };
        let first = timed()?;
        let after = timed()?.min(timed()?);
        swap.push(first - after);
    }
    ensure!(!base.is_empty(), "--new 2 or more");
    let said = json!({
        "weights": cli.weights, "built_s": built, "anonymous_and_peak_mib": [after_load, memory()],
        "one_base": summary(base), "one_with_adapter": summary(alone), "together": summary(together),
        "equal": equal, "read": summary(reading), "prompt_read": summary(prefill), "prompt_copied": summary(copy), "swap": summary(swap),
    });
    println!("{said}");
    Ok(())
}
