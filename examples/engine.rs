//! The engine by single verbs, for comparisons with other engines: `bench/engine/README.md` says what goes in and out.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, Parser, Subcommand};
use ort::value::DynTensor;
use remora::adapters::peft;
use remora::config::{Config, DeviceChoice};
use remora::model::Silent;
use remora::onnx::adamw::{AdamW, Moments, Step};
use remora::onnx::llama::Architecture;
use remora::onnx::llama::batch::{Batch, Slot};
use remora::onnx::llama::block::Keep;
use remora::onnx::llama::stack::{RowGoal, Stack, Targets};
use remora::onnx::lora::{Factor, Lora, LoraShape, Projection};
use remora::onnx::resident::Resident;
use remora::onnx::{self, Opened, program};
use remora::serve::engine::{Engine as _, Row};
use remora::serve::onnx_engine::{self as engine, OnnxEngine, Precision};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args)]
struct Common {
    #[arg(long, default_value = "default")]
    model: String,
    #[arg(long, default_value_t = 2)]
    threads: u16,
    #[arg(long, default_value = "cpu")]
    device: String,
    /// As `onnx.spin`.
    #[arg(long)]
    spin: bool,
    #[arg(long = "in")]
    input: Option<PathBuf>,
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Verb {
    /// Gradients of a batch.
    Gradients(Common),
    /// Losses of AdamW steps.
    Curve {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        steps: u64,
        #[arg(long)]
        rate: f64,
        #[arg(long)]
        decay: f64,
    },
    /// An adapter as a PEFT directory.
    Export(Common),
    /// Logits of a batch.
    Logits {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        adapter: Option<PathBuf>,
    },
    /// The likeliest tokens after prompts, one prompt after the other.
    Greedy {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        new: usize,
        /// f32, q8, q4, or stored: as the file has them
        #[arg(long, default_value = "f32")]
        weights: String,
    },
    /// What training steps cost.
    Steps {
        #[command(flatten)]
        common: Common,
        /// BxS
        #[arg(long)]
        shape: String,
        #[arg(long)]
        steps: u64,
        #[arg(long, default_value_t = 8)]
        rank: usize,
        #[arg(long, default_value = "f32")]
        precision: String,
        /// f32, q8, q4, or stored: as the file has them
        #[arg(long, default_value = "f32")]
        weights: String,
        #[arg(long)]
        profile: Option<PathBuf>,
        /// Keep only the inputs of layers between the passes: less memory, more work.
        #[arg(long)]
        recompute: bool,
    },
}

/// Tensors of a file.
struct File {
    floats: HashMap<String, Vec<f32>>,
    integers: HashMap<String, Vec<i64>>,
    shapes: HashMap<String, Vec<usize>>,
}

impl File {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let mut file = Self { floats: HashMap::new(), integers: HashMap::new(), shapes: HashMap::new() };
        for (name, view) in SafeTensors::deserialize(&bytes)?.tensors() {
            file.shapes.insert(name.clone(), view.shape().to_vec());
            match view.dtype() {
                Dtype::F32 => {
                    let (chunks, _) = view.data().as_chunks::<4>();
                    file.floats.insert(name, chunks.iter().map(|b| f32::from_le_bytes(*b)).collect());
                }
                Dtype::I64 => {
                    let (chunks, _) = view.data().as_chunks::<8>();
                    file.integers.insert(name, chunks.iter().map(|b| i64::from_le_bytes(*b)).collect());
                }
                other => return Err(anyhow!("{name} is {other:?}")),
            }
        }
        Ok(file)
    }

    fn floats(&self, name: &str) -> anyhow::Result<&[f32]> {
        self.floats.get(name).map(Vec::as_slice).with_context(|| format!("{name} is missing"))
    }

    fn integers(&self, name: &str) -> anyhow::Result<&[i64]> {
        self.integers.get(name).map(Vec::as_slice).with_context(|| format!("{name} is missing"))
    }

    fn lora(&self, model: &Architecture) -> anyhow::Result<Lora> {
        let rank = self.shapes.get("lora.0.q_proj.A").context("there is no adapter")?[0];
        let alpha = self.floats("alpha")?[0];
        let shape = LoraShape::new(rank, alpha / rank as f32, &Projection::ALL);
        let layers = (0..model.layers).map(|layer| {
            let mut vector = vec![0.0; shape.len(model)];
            for piece in shape.pieces(model) {
                vector[piece.range()].copy_from_slice(self.floats(&name(
                    "lora",
                    layer,
                    piece.projection,
                    piece.factor,
                ))?);
            }
            Ok(vector)
        });
        let layers = layers.collect::<anyhow::Result<_>>()?;
        Ok(Lora { shape, layers })
    }

    /// Batch `index` of those in the file, with the rows that count.
    fn batch(&self, index: usize) -> anyhow::Result<(Batch, Targets)> {
        let shape = &self.shapes["ids"];
        let (rows, length) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let of = |name: &str| {
            Ok::<_, anyhow::Error>(&self.integers(name)?[index * rows * length..][..rows * length])
        };
        let weights = match self.floats.get("loss_weights") {
            Some(weights) => weights[index * rows * length..][..rows * length].to_vec(),
            None => vec![0.0; rows * length],
        };
        let (ids, positions, segments) = (of("ids")?, of("positions")?, of("segments")?);
        let padded = Batch::padded(length);
        let mut slots = Vec::new();
        let (mut at_rows, mut at_weights, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            for i in 0..padded {
                let at = row * length + i;
                if i >= length {
                    slots.push(Slot::default());
                    continue;
                }
                slots.push(Slot {
                    token: u32::try_from(ids[at])?,
                    position: u32::try_from(positions[at])?,
                    segment: u32::try_from(segments[at])?,
                });
                if weights[at] > 0.0 {
                    at_rows.push(i64::try_from(row * padded + i - 1)?);
                    at_weights.push(weights[at]);
                    labels.push(ids[at]);
                }
            }
        }
        let sum: f32 = at_weights.iter().sum();
        at_weights.iter_mut().for_each(|w| *w /= sum);
        let targets = Targets {
            rows: at_rows,
            weights: at_weights,
            goal: RowGoal::Labels(labels),
            clip: None,
            off_policy: None,
        };
        Ok((Batch::new(&slots, padded)?, targets))
    }
}

fn name(prefix: &str, layer: usize, projection: Projection, factor: Factor) -> String {
    let factor = if factor == Factor::A { "A" } else { "B" };
    format!("{prefix}.{layer}.{}.{factor}", projection.module())
}

fn write(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) -> anyhow::Result<()> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        Ok((name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes)?))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    safetensors::serialize_to_file(views, None, path)?;
    Ok(())
}

fn tensors(layers: &[Vec<f32>]) -> anyhow::Result<Vec<DynTensor>> {
    layers.iter().map(|v| Ok(program::floats(&[v.len()], v.clone())?)).collect()
}

impl Common {
    fn open(&self) -> anyhow::Result<Opened> {
        let mut config = Config::default().onnx;
        config.spin = self.spin;
        config.device = match self.device.strip_prefix("cuda:") {
            Some(number) => DeviceChoice::Cuda(number.parse()?),
            None => DeviceChoice::Cpu,
        };
        let opened = onnx::open(&config, &self.model, self.threads, &Silent)?;
        eprintln!("{}", opened.device);
        Ok(opened)
    }

    fn input(&self) -> anyhow::Result<File> {
        File::read(self.input.as_deref().context("--in FILE")?)
    }

    fn out(&self) -> anyhow::Result<&Path> {
        self.out.as_deref().context("--out FILE")
    }
}

fn main() -> anyhow::Result<()> {
    remora::config::prepare_environment();
    let said = match Cli::parse().verb {
        Verb::Gradients(common) => gradients(&common)?,
        Verb::Curve { common, steps, rate, decay } => curve(&common, steps, rate, decay)?,
        Verb::Export(common) => export(&common)?,
        Verb::Logits { common, adapter } => logits(&common, adapter.as_deref())?,
        Verb::Greedy { common, new, weights } => greedy(&common, new, &weights)?,
        Verb::Steps { common, shape, steps, rank, precision, weights, profile, recompute } => {
            ensure!(matches!(precision.as_str(), "f32" | "bf16"), "there is no precision {precision}");
            let weights = if precision == "bf16" { precision } else { weights };
            let keep = if recompute { Keep::Input } else { Keep::Products };
            measure(&common, &shape, (steps, rank), self::precision(&weights)?, profile, keep)?
        }
    };
    println!("{said}");
    Ok(())
}

fn gradients(common: &Common) -> anyhow::Result<serde_json::Value> {
    let (opened, file) = (common.open()?, common.input()?);
    let model = &opened.checkpoint.architecture;
    let lora = file.lora(model)?;
    let (batch, targets) = file.batch(0)?;
    let mut stack = Stack::new(
        &opened.runtime,
        opened.weights(Precision::F32)?,
        Some(lora.shape.clone()),
        Keep::Products,
    )?;
    let (vectors, zeros) =
        (tensors(&lora.layers)?, tensors(&vec![vec![0.0; lora.shape.len(model)]; model.layers])?);
    let vectors: Vec<&DynTensor> = vectors.iter().collect();
    let found = stack.gradient(&batch, &vectors, &[targets], &zeros)?;
    let mut out = vec![("loss".to_owned(), vec![1], vec![found.loss as f32])];
    for (layer, gradient) in found.lora.iter().enumerate() {
        let gradient = program::read(gradient)?;
        for piece in lora.shape.pieces(model) {
            let name = name("grad", layer, piece.projection, piece.factor);
            out.push((name, vec![piece.rows, piece.columns], gradient[piece.range()].to_vec()));
        }
    }
    write(common.out()?, &out)?;
    Ok(json!({}))
}

/// Vectors under optimisation.
struct Optimised {
    optimiser: AdamW,
    now: Vec<Moments>,
    zeros: Vec<DynTensor>,
}

impl Optimised {
    fn new(opened: &Opened, lora: &Lora) -> anyhow::Result<Self> {
        let length = lora.shape.len(&opened.checkpoint.architecture);
        let mut resident = Resident::on(&opened.runtime);
        let mut zero = || resident.put(program::floats(&[length], vec![0.0; length])?);
        let now = tensors(&lora.layers)?
            .into_iter()
            .map(|values| Ok(Moments { values, first: zero()?, second: zero()? }))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let zeros = now.iter().map(|_| Ok(zero()?)).collect::<anyhow::Result<_>>()?;
        Ok(Self { optimiser: AdamW::new(length, &opened.runtime)?, now, zeros })
    }

    fn step(
        &mut self,
        stack: &mut Stack,
        batch: &Batch,
        targets: &Targets,
        step: Step,
    ) -> anyhow::Result<f64> {
        let values: Vec<&DynTensor> = self.now.iter().map(|m| &m.values).collect();
        let found = stack.gradient(batch, &values, std::slice::from_ref(targets), &self.zeros)?;
        self.now = self.optimiser.step(&self.now, &found.lora, step)?;
        Ok(found.loss)
    }
}

fn curve(common: &Common, steps: u64, rate: f64, decay: f64) -> anyhow::Result<serde_json::Value> {
    let (opened, file) = (common.open()?, common.input()?);
    let model = &opened.checkpoint.architecture;
    let lora = file.lora(model)?;
    let mut stack = Stack::new(
        &opened.runtime,
        opened.weights(Precision::F32)?,
        Some(lora.shape.clone()),
        Keep::Products,
    )?;
    let mut optimised = Optimised::new(&opened, &lora)?;
    let shape = &file.shapes["ids"];
    let batches = if shape.len() == 3 { shape[0] } else { 1 };
    let mut losses = Vec::new();
    for number in 1..=steps {
        let (batch, targets) = file.batch((number as usize - 1) % batches)?;
        let step = Step { number, learning_rate: rate, weight_decay: decay, gradient_scale: 1.0 };
        losses.push(optimised.step(&mut stack, &batch, &targets, step)? as f32);
    }
    write(common.out()?, &[("curve".to_owned(), vec![losses.len()], losses)])?;
    Ok(json!({}))
}

fn export(common: &Common) -> anyhow::Result<serde_json::Value> {
    let (opened, file) = (common.open()?, common.input()?);
    let model = &opened.checkpoint.architecture;
    peft::write(common.out()?, &file.lora(model)?, model, &common.model)?;
    Ok(json!({}))
}

fn logits(common: &Common, adapter: Option<&Path>) -> anyhow::Result<serde_json::Value> {
    let (opened, file) = (common.open()?, common.input()?);
    let model = &opened.checkpoint.architecture;
    let (batch, _) = file.batch(0)?;
    let lora = adapter.map(|directory| peft::read(directory, model)).transpose()?;
    let shape = lora.as_ref().map(|lora| lora.shape.clone());
    let mut stack = Stack::new(&opened.runtime, opened.weights(Precision::F32)?, shape, Keep::Input)?;
    let vectors = tensors(lora.as_ref().map_or(&[], |lora| &lora.layers))?;
    let vectors: Vec<&DynTensor> = vectors.iter().collect();
    let h = stack.forward(&batch, lora.is_some().then_some(&vectors[..]))?;
    let (length, padded) = (file.shapes["ids"][1], batch.length);
    let rows: Vec<i64> =
        (0..batch.rows).flat_map(|row| (0..length).map(move |i| (row * padded + i) as i64)).collect();
    let logits = stack.logits(&h, &rows)?;
    write(common.out()?, &[("logits".to_owned(), vec![batch.rows, length, model.vocabulary], logits)])?;
    Ok(json!({}))
}

fn greedy(common: &Common, new: usize, weights: &str) -> anyhow::Result<serde_json::Value> {
    let (opened, file) = (common.open()?, common.input()?);
    let precision = precision(weights)?;
    let prompts: Vec<&[i64]> =
        (0..).map_while(|k| file.integers.get(&format!("prompt.{k}"))).map(Vec::as_slice).collect();
    let longest = prompts.iter().map(|p| p.len()).max().context("there are no prompts")?;
    let context = (longest + new).min(opened.checkpoint.architecture.context);
    let options = engine::Options { slots: 1, context, precision };
    let mut engine = OnnxEngine::new(&opened.runtime, &opened.checkpoint, Some(opened.cache()), options)?;
    // The first of the largest, in a way that the compiler can do several of at once.
    let best = |logits: &[f32]| {
        let mut most = [f32::NEG_INFINITY; 16];
        for chunk in logits.chunks(16) {
            for (most, &logit) in most.iter_mut().zip(chunk) {
                *most = if logit > *most { logit } else { *most };
            }
        }
        let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
        logits.iter().position(|&logit| logit == most).expect("a number among the logits") as u32
    };
    let (mut made, mut prefill, mut decode, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (k, prompt) in prompts.iter().enumerate() {
        let prompt: Vec<u32> = prompt.iter().map(|&t| u32::try_from(t)).collect::<Result<_, _>>()?;
        engine.truncate(0, 0);
        let start = Instant::now();
        let mut tokens = vec![best(&engine.prefill(0, &prompt, None)?)];
        prefill.push(start.elapsed().as_secs_f64());
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        while tokens.len() < new {
            let token = tokens[tokens.len() - 1];
            tokens.push(best(&engine.step(&[Row { slot: 0, token, adapter: None }])?));
        }
        decode.push(start.elapsed().as_secs_f64());
        cpu.push(cpu_seconds() - cpu_start);
        let bytes: Vec<u8> = tokens.iter().flat_map(|&t| i64::from(t).to_le_bytes()).collect();
        made.push((format!("tokens.{k}"), bytes));
    }
    let views = made.iter().map(|(name, bytes)| Ok((name, TensorView::new(Dtype::I64, vec![new], bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    safetensors::serialize_to_file(views, None, common.out()?)?;
    Ok(json!({ "prefill_seconds": prefill, "decode_seconds": decode, "decode_cpu_seconds": cpu }))
}

fn precision(weights: &str) -> anyhow::Result<Precision> {
    Ok(match weights {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        "q8" => Precision::Q8,
        "q4" => Precision::Q4,
        "stored" => Precision::AsStored,
        other => return Err(anyhow!("there are no weights {other}")),
    })
}

/// User and system time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    clock.tv_sec as f64 + clock.tv_nsec as f64 / 1e9
}

fn measure(
    common: &Common,
    shape: &str,
    (steps, rank): (u64, usize),
    precision: Precision,
    profile: Option<PathBuf>,
    keep: Keep,
) -> anyhow::Result<serde_json::Value> {
    let mut opened = common.open()?;
    if let Some(dir) = profile {
        fs::create_dir_all(&dir)?;
        opened.runtime = opened.runtime.profiled(dir);
    }
    let (rows, length) = shape.split_once('x').context("--shape BxS")?;
    let (rows, length): (usize, usize) = (rows.parse()?, length.parse()?);
    ensure!(Batch::padded(length) == length, "{length} would be padded");
    let model = &opened.checkpoint.architecture;
    let lora_shape = LoraShape::new(rank, 2.0, &Projection::ALL);
    let mut state = 1_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let layers = (0..model.layers).map(|_| {
        let mut vector = vec![0.0; lora_shape.len(model)];
        for piece in lora_shape.pieces(model).iter().filter(|p| p.factor == Factor::A) {
            vector[piece.range()].fill_with(|| (draw() as f32 / 2f32.powi(31) - 0.5) * 0.08);
        }
        vector
    });
    let lora = Lora { layers: layers.collect(), shape: lora_shape.clone() };
    let slots: Vec<Slot> = (0..rows * length)
        .map(|i| Slot {
            token: (draw() % model.vocabulary as u64) as u32,
            position: (i % length) as u32,
            segment: 1,
        })
        .collect();
    let counted: Vec<usize> = (0..rows * length).filter(|i| i % length != length - 1).collect();
    let targets = Targets {
        rows: counted.iter().map(|i| *i as i64).collect(),
        weights: vec![1.0 / counted.len() as f32; counted.len()],
        goal: RowGoal::Labels(counted.iter().map(|i| i64::from(slots[i + 1].token)).collect()),
        clip: None,
        off_policy: None,
    };
    let batch = Batch::new(&slots, length)?;
    let mut stack = Stack::new(&opened.runtime, opened.weights(precision)?, Some(lora_shape), keep)?;
    let mut optimised = Optimised::new(&opened, &lora)?;
    let (mut cpu, mut wall, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=steps + 1 {
        let (cpu_start, start) = (cpu_seconds(), Instant::now());
        let step = Step { number, learning_rate: 5e-4, weight_decay: 0.01, gradient_scale: 1.0 };
        losses.push(optimised.step(&mut stack, &batch, &targets, step)?);
        cpu.push(cpu_seconds() - cpu_start);
        wall.push(start.elapsed().as_secs_f64());
    }
    Ok(json!({ "cpu_seconds": cpu[1..], "wall_seconds": wall[1..], "losses": losses }))
}
