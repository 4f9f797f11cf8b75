//! Blocks, heads and the whole stack against golden values of PyTorch and PEFT.

mod storage;

use std::collections::HashMap;
use std::path::PathBuf;

use ort::value::DynTensor;
use safetensors::SafeTensors;

use super::batch::{Batch, Slot};
use super::block::Keep;
use super::heads::{HeadOptions, Loss};
use super::stack::{RowGoal, Stack, Targets};
use super::weights::Weights;
use super::{Architecture, Family, Storage};
use crate::onnx::adamw::{AdamW, Moments, Step};
use crate::onnx::checkpoint::{Blocks, Checkpoint, Held, LayerPart, Part, Precision};
use crate::onnx::lora::{Factor, LoraShape, Projection};
use crate::onnx::program::{self, ProgramError};
use crate::onnx::testing::{Noise, runtime};

/// Tensors of a safetensors file.
struct File {
    floats: HashMap<String, Vec<f32>>,
    integers: HashMap<String, Vec<i64>>,
    shapes: HashMap<String, Vec<usize>>,
}

fn folder(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/engine").join(family)
}

fn file(path: PathBuf) -> File {
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut file = File { floats: HashMap::new(), integers: HashMap::new(), shapes: HashMap::new() };
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        file.shapes.insert(name.clone(), view.shape().to_vec());
        if view.dtype() == safetensors::Dtype::F32 {
            let read = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
            file.floats.insert(name, view.data().chunks_exact(4).map(read).collect());
        } else {
            let read = |b: &[u8]| i64::from_le_bytes(b.try_into().unwrap());
            file.integers.insert(name, view.data().chunks_exact(8).map(read).collect());
        }
    }
    file
}

/// The tiny model of a family. Rotary frequencies are written out here: reading them from files is tested elsewhere.
fn architecture(family: &str) -> Architecture {
    let head_dim = if family == "qwen3" { 16 } else { 8 };
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder(family).join("config.json")).unwrap()).unwrap();
    let theta = config["rope_theta"].as_f64().or(config["rope_parameters"]["rope_theta"].as_f64()).unwrap();
    let plain = |i: usize| theta.powf(-2.0 * i as f64 / head_dim as f64);
    Architecture {
        family: Family::Llama,
        hidden: 32,
        feed_forward: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim,
        vocabulary: 96,
        norm_epsilon: config["rms_norm_eps"].as_f64().unwrap() as f32,
        rotary_frequencies: (0..head_dim / 2).map(plain).collect(),
        context: 64,
        sliding_window: (family == "mistral").then(|| config["sliding_window"].as_u64().unwrap() as usize),
        qkv_bias: family == "qwen2",
        qk_norm: family == "qwen3",
        tied: config["tie_word_embeddings"].as_bool().unwrap(),
    }
}

fn weights(family: &str) -> Weights {
    let stored = file(folder(family).join("model.safetensors"));
    let name = |part| match part {
        Part::Embedding => "model.embed_tokens.weight".to_owned(),
        Part::Norm => "model.norm.weight".to_owned(),
        Part::Output => "lm_head.weight".to_owned(),
        Part::Layer(i, part) => {
            let rest = match part {
                LayerPart::AttentionNorm => "input_layernorm.weight",
                LayerPart::Query => "self_attn.q_proj.weight",
                LayerPart::Key => "self_attn.k_proj.weight",
                LayerPart::Value => "self_attn.v_proj.weight",
                LayerPart::AttentionOutput => "self_attn.o_proj.weight",
                LayerPart::QueryBias => "self_attn.q_proj.bias",
                LayerPart::KeyBias => "self_attn.k_proj.bias",
                LayerPart::ValueBias => "self_attn.v_proj.bias",
                LayerPart::QueryNorm => "self_attn.q_norm.weight",
                LayerPart::KeyNorm => "self_attn.k_norm.weight",
                LayerPart::FeedForwardNorm => "post_attention_layernorm.weight",
                LayerPart::Gate => "mlp.gate_proj.weight",
                LayerPart::Up => "mlp.up_proj.weight",
                LayerPart::Down => "mlp.down_proj.weight",
            };
            format!("model.layers.{i}.{rest}")
        }
    };
    Weights::floats(&runtime(), architecture(family), |part, count| {
        let values = stored.floats[&name(part)].clone();
        assert_eq!(values.len(), count, "{part:?}");
        Ok::<_, ProgramError>(values)
    })
    .unwrap()
}

fn shape() -> LoraShape {
    LoraShape::new(8, 2.0, &Projection::ALL)
}

/// The adapter of a golden file, a vector a layer; `prefix` is `lora`, `grad` or `trained`.
fn vectors(golden: &File, model: &Architecture, prefix: &str) -> Vec<Vec<f32>> {
    (0..model.layers)
        .map(|layer| {
            let mut vector = vec![0.0; shape().len(model)];
            for piece in shape().pieces(model) {
                let factor = if piece.factor == Factor::A { "A" } else { "B" };
                let name = format!("{prefix}.{layer}.{}.{factor}", piece.projection.module());
                vector[piece.range()].copy_from_slice(&golden.floats[&name]);
            }
            vector
        })
        .collect()
}

fn tensors(vectors: &[Vec<f32>]) -> Vec<DynTensor> {
    vectors.iter().map(|v| program::floats(&[v.len()], v.clone()).unwrap()).collect()
}

/// A batch of a golden file and its targets, weights made to sum to 1.
fn batch(golden: &File, prefix: &str) -> (Batch, Targets) {
    let of = |name: &str| &golden.integers[&format!("{prefix}{name}")];
    let length = golden.shapes[&format!("{prefix}ids")][1];
    let padded = Batch::padded(length);
    let loss_weights = &golden.floats[&format!("{prefix}loss_weights")];
    let mut slots = Vec::new();
    let mut targets = Targets {
        rows: Vec::new(),
        weights: Vec::new(),
        goal: RowGoal::Labels(Vec::new()),
        clip: None,
        off_policy: None,
    };
    for row in 0..of("ids").len() / length {
        for i in 0..padded {
            let at = row * length + i;
            let small = |name: &str| u32::try_from(of(name)[at]).unwrap();
            slots.push(if i < length {
                Slot { token: small("ids"), position: small("positions"), segment: small("segments") }
            } else {
                Slot::default()
            });
            if i < length && loss_weights[at] > 0.0 {
                targets.rows.push(i64::try_from(row * padded + i - 1).unwrap());
                targets.weights.push(loss_weights[at]);
                if let RowGoal::Labels(labels) = &mut targets.goal {
                    labels.push(of("ids")[at]);
                }
            }
        }
    }
    let sum: f32 = targets.weights.iter().sum();
    targets.weights.iter_mut().for_each(|w| *w /= sum);
    (Batch::new(&slots, padded).unwrap(), targets)
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(a - b))).sum();
    (difference / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}

const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

#[test]
fn logits_are_those_of_transformers_with_and_without_an_adapter() {
    for family in FAMILIES {
        let golden = file(folder(family).join("golden.safetensors"));
        let weights = weights(family);
        let model = weights.architecture.clone();
        let mut stack = Stack::new(&runtime(), weights, Some(shape()), Keep::Products).unwrap();
        let lora = tensors(&vectors(&golden, &model, "lora"));
        let (batch, _) = batch(&golden, "");
        let (length, padded) = (golden.shapes["ids"][1], batch.length);
        let lora: Vec<&DynTensor> = lora.iter().collect();
        for (name, lora) in [("base.logits", None), ("logits", Some(&lora[..]))] {
            let h = stack.forward(&batch, lora).unwrap();
            for (at, segment) in golden.integers["segments"].iter().enumerate() {
                if *segment == 0 {
                    continue;
                }
                let row = i64::try_from(at / length * padded + at % length).unwrap();
                let logits = stack.logits(&h, &[row]).unwrap();
                let expected = &golden.floats[name][at * 96..][..96];
                let error = distance(&logits, expected);
                assert!(error < 1e-5, "{family} {name} at {at}: {error}");
            }
        }
    }
}

#[test]
fn gradients_are_those_of_peft_padded_and_packed_and_whatever_is_kept() {
    for family in FAMILIES {
        let golden = file(folder(family).join("golden.safetensors"));
        for keep in [Keep::Products, Keep::Input] {
            let weights = weights(family);
            let model = weights.architecture.clone();
            let mut stack = Stack::new(&runtime(), weights, Some(shape()), keep).unwrap();
            let lora = tensors(&vectors(&golden, &model, "lora"));
            let lora: Vec<&DynTensor> = lora.iter().collect();
            // Packed rows first: they are longer than any position in them, and so must the tables of rotations be.
            for prefix in ["packed.", ""] {
                let (mut batch, targets) = batch(&golden, prefix);
                let zeros = tensors(&vec![vec![0.0; shape().len(&model)]; model.layers]);
                let expected = vectors(&golden, &model, &format!("{prefix}grad"));
                // Chunks are for long sequences; here they only have to make no difference.
                for chunks in [1, 2, 4] {
                    batch.chunks = chunks;
                    let found =
                        stack.gradient(&batch, &lora, std::slice::from_ref(&targets), &zeros).unwrap();
                    let loss = f64::from(golden.floats[&format!("{prefix}loss")][0]);
                    assert!((found.loss - loss).abs() < 1e-5 * loss, "{family}: {} and {loss}", found.loss);
                    let mut squares = 0.0;
                    for (layer, expected) in expected.iter().enumerate() {
                        let vector = program::read(&found.lora[layer]).unwrap();
                        squares += vector.iter().map(|g| f64::from(g * g)).sum::<f64>();
                        for piece in shape().pieces(&model) {
                            let error = distance(&vector[piece.range()], &expected[piece.range()]);
                            assert!(
                                error < 1e-4,
                                "{family} {keep:?} {prefix} {chunks} {layer} {piece:?}: {error}"
                            );
                        }
                    }
                    assert!((found.norm - squares.sqrt()).abs() < 1e-5 * found.norm);
                }
            }
        }
    }
}

#[test]
fn gradients_add_up_over_batches() {
    let golden = file(folder("llama").join("golden.safetensors"));
    let weights = weights("llama");
    let model = weights.architecture.clone();
    let mut stack = Stack::new(&runtime(), weights, Some(shape()), Keep::Products).unwrap();
    let lora = tensors(&vectors(&golden, &model, "lora"));
    let lora: Vec<&DynTensor> = lora.iter().collect();
    let (batch, targets) = batch(&golden, "");
    let zeros = tensors(&vec![vec![0.0; shape().len(&model)]; model.layers]);
    let once = stack.gradient(&batch, &lora, std::slice::from_ref(&targets), &zeros).unwrap();
    let twice = stack.gradient(&batch, &lora, &[targets], &once.lora).unwrap();
    assert!((twice.norm - 2.0 * once.norm).abs() < 1e-6 * once.norm);
}

#[test]
fn forty_steps_follow_the_curve_of_pytorch() {
    for family in FAMILIES {
        let golden = file(folder(family).join("golden.safetensors"));
        let weights = weights(family);
        let model = weights.architecture.clone();
        let mut stack = Stack::new(&runtime(), weights, Some(shape()), Keep::Products).unwrap();
        let length = shape().len(&model);
        let mut optimiser = AdamW::new(length, &runtime()).unwrap();
        let zero = || program::floats(&[length], vec![0.0; length]).unwrap();
        let start = tensors(&vectors(&golden, &model, "lora"));
        let mut moments: Vec<Moments> =
            start.into_iter().map(|values| Moments { values, first: zero(), second: zero() }).collect();
        let (batch, targets) = batch(&golden, "");
        let zeros: Vec<DynTensor> = (0..model.layers).map(|_| zero()).collect();
        for (number, expected) in golden.floats["curve"].iter().enumerate() {
            let values: Vec<&DynTensor> = moments.iter().map(|m| &m.values).collect();
            let found = stack.gradient(&batch, &values, std::slice::from_ref(&targets), &zeros).unwrap();
            let expected = f64::from(*expected);
            assert!((found.loss - expected).abs() < 1e-3, "{family} {number}: {} and {expected}", found.loss);
            let step = Step {
                number: number as u64 + 1,
                learning_rate: 5e-4,
                weight_decay: 0.01,
                gradient_scale: 1.0,
            };
            moments = optimiser.step(&moments, &found.lora, step).unwrap();
        }
        if family == "llama" {
            for (m, expected) in moments.iter().zip(vectors(&golden, &model, "trained")) {
                assert!(distance(&program::read(&m.values).unwrap(), &expected) < 1e-4);
            }
        }
    }
}

/// What a head gives of the golden file's rows, which are normed.
struct Found {
    total: f32,
    rows: Vec<f32>,
    dx: Vec<f32>,
}

/// What heads are told besides their goal.
#[derive(Clone, Default)]
struct Told {
    weights: Option<Vec<f32>>,
    clip: Option<f32>,
    /// Sampled tokens, the logarithms of their probabilities then, and the bound.
    off_policy: Option<(Vec<i64>, Vec<f32>, f32)>,
    student: Option<Vec<f32>>,
}

fn run_head(golden: &File, goal: &RowGoal, loss: Loss, told: Told) -> Found {
    let model = Architecture { norm_epsilon: 0.0, ..architecture("llama") };
    let rows = golden.shapes["student"][0];
    let options = HeadOptions { loss, off_policy: told.off_policy.is_some() };
    let mut program = super::heads::head_on_normed(&model, options, &runtime()).unwrap();
    let column = |values: Vec<f32>| program::floats(&[values.len(), 1], values).unwrap();
    let output = program::floats(&[96, 32], golden.floats["embedding"].clone()).unwrap();
    program.give("output", &output).unwrap();
    program.give("weights", &column(told.weights.unwrap_or_else(|| shares_of(golden)))).unwrap();
    program.give("clip", &column(vec![told.clip.unwrap_or(f32::INFINITY)])).unwrap();
    if let Some((sampled, old, most)) = told.off_policy {
        program.give("sampled", &program::integers(&[rows, 1], sampled).unwrap()).unwrap();
        program.give("old", &column(old)).unwrap();
        program.give("most", &column(vec![most])).unwrap();
    }
    match goal.clone() {
        RowGoal::Labels(labels) => {
            program.give("labels", &program::integers(&[rows, 1], labels).unwrap()).unwrap();
            program.give("shares", &column(vec![1.0; rows])).unwrap();
        }
        RowGoal::Shares { count, labels, shares } => {
            program.give("labels", &program::integers(&[rows, count], labels).unwrap()).unwrap();
            program.give("shares", &program::floats(&[rows, count], shares).unwrap()).unwrap();
        }
        RowGoal::Teacher { hidden, .. } => {
            program.give("teacher", &program::floats(&[rows, 32], hidden).unwrap()).unwrap();
        }
    }
    let student = told.student.unwrap_or_else(|| golden.floats["student"].clone());
    let x = program::floats(&[rows, 32], student).unwrap();
    let outputs = program.run(&[("x", &x)]).unwrap();
    let read = |at: usize| program::read(&outputs[at]).unwrap().to_vec();
    Found { total: read(0)[0], rows: read(1), dx: read(2) }
}

/// The golden file's weights, which sum to 1 here.
fn shares_of(golden: &File) -> Vec<f32> {
    let weights = &golden.floats["weights"];
    let total: f32 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// The goals of the golden file's rows, with the names of what they gave.
fn goals(golden: &File) -> Vec<(&'static str, RowGoal, Loss)> {
    let teacher =
        |name, loss| (name, RowGoal::Teacher { hidden: golden.floats["teacher"].clone(), loss }, loss);
    let labels = RowGoal::Labels(golden.integers["targets"].clone());
    let top = RowGoal::Shares {
        count: 8,
        labels: golden.integers["top_ids"].clone(),
        shares: golden.floats["top_probabilities"].clone(),
    };
    vec![
        teacher("reverse_kl", Loss::ReverseKl),
        teacher("forward_kl", Loss::ForwardKl),
        teacher("jsd_0.5", Loss::JensenShannon { beta: 0.5 }),
        teacher("jsd_0.1", Loss::JensenShannon { beta: 0.1 }),
        ("cross_entropy", labels, Loss::Sparse { targets: 1 }),
        ("top_kl", top, Loss::Sparse { targets: 8 }),
        teacher("top_kl", Loss::TopKl { count: 8 }),
    ]
}

#[test]
fn heads_give_the_losses_and_gradients_of_pytorch() {
    let golden = file(folder("heads").join("golden.safetensors"));
    for (name, goal, loss) in goals(&golden) {
        let found = run_head(&golden, &goal, loss, Told::default());
        let expected = golden.floats[&format!("{name}.loss")][0];
        let close = (found.total - expected).abs() < 2e-6 * expected.abs().max(1.0);
        assert!(close, "{name}: {}, {expected}", found.total);
        let rows = &golden.floats[&format!("{name}.rows")];
        assert!(distance(&found.rows, rows) < 1e-5, "{name}");
        let error = distance(&found.dx, &golden.floats[&format!("{name}.d_student")]);
        assert!(error < 1e-5, "{name}: {error}");
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_row_above_the_clip_counts_as_the_clip_and_has_no_gradient_whatever_the_loss() {
    let golden = file(folder("heads").join("golden.safetensors"));
    let weights = shares_of(&golden);
    for (name, goal, loss) in goals(&golden) {
        let whole = run_head(&golden, &goal, loss, Told::default());
        let mut sorted = whole.rows.clone();
        sorted.sort_by(f32::total_cmp);
        // The row that is at the clip still counts in full.
        let clip = sorted[sorted.len() / 2];
        let cut = run_head(&golden, &goal, loss, Told { clip: Some(clip), ..Told::default() });
        assert_eq!(bits(&cut.rows), bits(&whole.rows), "{name}: rows are told uncut");
        let expected: f64 =
            whole.rows.iter().zip(&weights).map(|(l, w)| f64::from(l.min(clip)) * f64::from(*w)).sum();
        assert!((f64::from(cut.total) - expected).abs() < 1e-6 * expected.abs(), "{name}: {}", cut.total);
        assert!(cut.total < whole.total, "{name}");
        for (row, loss) in whole.rows.iter().enumerate() {
            let (cut, whole) = (&cut.dx[row * 32..][..32], &whole.dx[row * 32..][..32]);
            let expected = if *loss > clip { vec![0.0; 32] } else { whole.to_vec() };
            assert!(cut == expected, "{name}, row {row}");
        }
        // Far above all, it changes no bit.
        let none = run_head(&golden, &goal, loss, Told { clip: Some(1e30), ..Told::default() });
        assert_eq!(
            (none.total.to_bits(), bits(&none.dx)),
            (whole.total.to_bits(), bits(&whole.dx)),
            "{name}"
        );
    }
}

#[test]
fn the_gradient_of_clipped_losses_is_that_of_differences() {
    let golden = file(folder("heads").join("golden.safetensors"));
    const STEP: f32 = 1e-2;
    for (name, goal, loss) in goals(&golden) {
        let whole = run_head(&golden, &goal, loss, Told::default());
        let mean = whole.rows.iter().sum::<f32>() / whole.rows.len() as f32;
        let told = |student: Vec<f32>| Told { clip: Some(mean), student: Some(student), ..Told::default() };
        let student = &golden.floats["student"];
        let found = run_head(&golden, &goal, loss, told(student.clone()));
        let steepest = found.dx.iter().fold(0.0f32, |m, d| m.max(d.abs()));
        for (row, loss_of_row) in whole.rows.iter().enumerate() {
            // On the edge a difference sees both sides.
            if (loss_of_row - mean).abs() < 0.05 * mean {
                continue;
            }
            let at = row * 32 + row * 7 % 32;
            let total = |by: f32| {
                let mut student = student.clone();
                student[at] += by;
                run_head(&golden, &goal, loss, told(student)).total
            };
            let slope = (total(STEP) - total(-STEP)) / (2.0 * STEP);
            assert!(
                (slope - found.dx[at]).abs() < 1e-2 * steepest,
                "{name}, {row}: {slope}, {}",
                found.dx[at]
            );
        }
    }
}

#[test]
fn a_loss_that_is_not_a_number_is_not_hidden_by_the_clip() {
    let golden = file(folder("heads").join("golden.safetensors"));
    for (name, goal, loss) in goals(&golden) {
        let mut student = golden.floats["student"].clone();
        student[3] = f32::NAN;
        let found = run_head(
            &golden,
            &goal,
            loss,
            Told { clip: Some(0.1), student: Some(student), ..Told::default() },
        );
        assert!(found.total.is_nan() && found.dx[0].is_nan(), "{name}");
    }
}

#[test]
fn off_policy_rows_are_weighted_by_how_much_likelier_their_token_became_up_to_a_bound() {
    let golden = file(folder("heads").join("golden.safetensors"));
    let rows = golden.shapes["student"][0];
    let sampled: Vec<i64> = (0..rows as i64).map(|row| row * 11 % 96).collect();
    let labels = RowGoal::Labels(sampled.clone());
    let now = run_head(&golden, &labels, Loss::Sparse { targets: 1 }, Told::default()).rows;
    // Half as likely as before, up to three times.
    let ratios: Vec<f32> = (0..rows).map(|row| 0.5 + 2.5 * row as f32 / (rows - 1) as f32).collect();
    let old: Vec<f32> = now.iter().zip(&ratios).map(|(loss, ratio)| -loss - ratio.ln()).collect();
    let most = 2.0;
    for (name, goal, loss) in goals(&golden) {
        let off_policy = Some((sampled.clone(), old.clone(), most));
        let found = run_head(&golden, &goal, loss, Told { off_policy, ..Told::default() });
        let weights = shares_of(&golden).iter().zip(&ratios).map(|(w, ratio)| w * ratio.min(most)).collect();
        let expected = run_head(&golden, &goal, loss, Told { weights: Some(weights), ..Told::default() });
        assert!((found.total - expected.total).abs() < 1e-5 * expected.total.abs(), "{name}");
        assert!(distance(&found.dx, &expected.dx) < 1e-5, "{name}");
        assert_eq!(bits(&found.rows), bits(&expected.rows), "{name}: rows are told unweighted");
    }
}

#[test]
fn rows_above_the_clip_leave_the_adapter_as_if_they_had_no_weight() {
    let golden = file(folder("llama").join("golden.safetensors"));
    let weights = weights("llama");
    let model = weights.architecture.clone();
    let mut stack = Stack::new(&runtime(), weights, Some(shape()), Keep::Products).unwrap();
    let lora = tensors(&vectors(&golden, &model, "lora"));
    let lora: Vec<&DynTensor> = lora.iter().collect();
    let zeros = tensors(&vec![vec![0.0; shape().len(&model)]; model.layers]);
    let (batch, targets) = batch(&golden, "");
    let whole = stack.gradient(&batch, &lora, std::slice::from_ref(&targets), &zeros).unwrap();
    let rows = &whole.losses[0].rows;
    let mean = rows.iter().sum::<f32>() / rows.len() as f32;
    let above = rows.iter().filter(|loss| **loss > mean).count();
    let without = Targets {
        rows: targets.rows.clone(),
        weights: targets
            .weights
            .iter()
            .zip(rows)
            .map(|(weight, loss)| if *loss > mean { 0.0 } else { *weight })
            .collect(),
        goal: targets.goal.clone(),
        clip: None,
        off_policy: None,
    };
    let expected = stack.gradient(&batch, &lora, &[without], &zeros).unwrap();
    let clipped = Targets { clip: Some(mean), ..targets };
    let found = stack.gradient(&batch, &lora, &[clipped], &zeros).unwrap();
    assert!(above > 0 && found.losses[0].cut == above && whole.losses[0].cut == 0);
    assert_eq!(bits(&found.losses[0].rows), bits(rows));
    assert!(found.loss < whole.loss && found.loss > expected.loss);
    for (a, b) in found.lora.iter().zip(&expected.lora) {
        assert_eq!(bits(&program::read(a).unwrap()), bits(&program::read(b).unwrap()));
    }
}
