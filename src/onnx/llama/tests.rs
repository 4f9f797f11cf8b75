//! Blocks, heads and the whole stack against golden values of PyTorch and PEFT.

use std::collections::HashMap;
use std::path::PathBuf;

use ort::value::DynTensor;
use safetensors::SafeTensors;

use super::batch::{Batch, Slot};
use super::block::Keep;
use super::heads::Loss;
use super::stack::{RowGoal, Stack, Targets};
use super::weights::Weights;
use super::{Architecture, Family};
use crate::onnx::adamw::{AdamW, Moments, Step};
use crate::onnx::checkpoint::{LayerPart, Part};
use crate::onnx::lora::{Factor, LoraShape, Projection};
use crate::onnx::program::{self, ProgramError};
use crate::onnx::testing::runtime;

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
fn batch(golden: &File, model: &Architecture, prefix: &str) -> (Batch, Targets) {
    let of = |name: &str| &golden.integers[&format!("{prefix}{name}")];
    let length = golden.shapes[&format!("{prefix}ids")][1];
    let padded = Batch::padded(length);
    let loss_weights = &golden.floats[&format!("{prefix}loss_weights")];
    let mut slots = Vec::new();
    let mut targets = Targets { rows: Vec::new(), weights: Vec::new(), goal: RowGoal::Labels(Vec::new()) };
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
    (Batch::new(model, &slots, padded).unwrap(), targets)
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
        let (batch, _) = batch(&golden, &model, "");
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
                let (mut batch, targets) = batch(&golden, &model, prefix);
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
    let (batch, targets) = batch(&golden, &model, "");
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
        let (batch, targets) = batch(&golden, &model, "");
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
            moments = moments
                .iter()
                .zip(&found.lora)
                .map(|(m, gradient)| optimiser.step(m, gradient, step).unwrap())
                .collect();
        }
        if family == "llama" {
            for (m, expected) in moments.iter().zip(vectors(&golden, &model, "trained")) {
                assert!(distance(program::read(&m.values).unwrap(), &expected) < 1e-4);
            }
        }
    }
}

/// A head of the golden file's rows: an identity model whose norm does nothing, since the golden rows are normed.
fn head_of(golden: &File, name: &str, goal: RowGoal, loss: Loss) {
    let model = Architecture { norm_epsilon: 0.0, ..architecture("llama") };
    let rows = golden.shapes["student"][0];
    let mut program = super::heads::head_on_normed(&model, loss, &runtime()).unwrap();
    let weights = &golden.floats["weights"];
    let total: f32 = weights.iter().sum();
    let weights = weights.iter().map(|w| w / total).collect();
    let output = program::floats(&[96, 32], golden.floats["embedding"].clone()).unwrap();
    program.give("output", &output).unwrap();
    program.give("weights", &program::floats(&[rows, 1], weights).unwrap()).unwrap();
    match goal {
        RowGoal::Labels(labels) => {
            program.give("labels", &program::integers(&[rows, 1], labels).unwrap()).unwrap();
            program.give("shares", &program::floats(&[rows, 1], vec![1.0; rows]).unwrap()).unwrap();
        }
        RowGoal::Shares { count, labels, shares } => {
            program.give("labels", &program::integers(&[rows, count], labels).unwrap()).unwrap();
            program.give("shares", &program::floats(&[rows, count], shares).unwrap()).unwrap();
        }
        RowGoal::Teacher { hidden, .. } => {
            program.give("teacher", &program::floats(&[rows, 32], hidden).unwrap()).unwrap();
        }
    }
    let x = program::floats(&[rows, 32], golden.floats["student"].clone()).unwrap();
    let outputs = program.run(&[("x", &x)]).unwrap();
    let found = program::read(&outputs[0]).unwrap()[0];
    let (expected, mut rows) =
        (golden.floats[&format!("{name}.loss")][0], golden.floats[&format!("{name}.rows")].clone());
    let mut offset = 0.0;
    if name == "top_kl" {
        // The teacher's own entropy, a constant that cross-entropy with its shares does not subtract.
        offset = found - expected;
        let of_rows = program::read(&outputs[1]).unwrap();
        rows = of_rows.to_vec();
    }
    assert!(
        (found - expected - offset).abs() < 2e-6 * expected.abs().max(1.0),
        "{name}: {found}, {expected}"
    );
    assert!(distance(program::read(&outputs[1]).unwrap(), &rows) < 1e-5, "{name}");
    let error = distance(program::read(&outputs[2]).unwrap(), &golden.floats[&format!("{name}.d_student")]);
    assert!(error < 1e-5, "{name}: {error}");
}

#[test]
fn heads_give_the_losses_and_gradients_of_pytorch() {
    let golden = file(folder("heads").join("golden.safetensors"));
    let hidden = || golden.floats["teacher"].clone();
    let teacher = |loss| (RowGoal::Teacher { hidden: hidden(), loss }, loss);
    for (name, (goal, loss)) in [
        ("reverse_kl", teacher(Loss::ReverseKl)),
        ("forward_kl", teacher(Loss::ForwardKl)),
        ("jsd_0.5", teacher(Loss::JensenShannon { beta: 0.5 })),
        ("jsd_0.1", teacher(Loss::JensenShannon { beta: 0.1 })),
    ] {
        head_of(&golden, name, goal, loss);
    }
    let labels = RowGoal::Labels(golden.integers["targets"].clone());
    head_of(&golden, "cross_entropy", labels, Loss::Sparse { targets: 1 });
    let top = RowGoal::Shares {
        count: 8,
        labels: golden.integers["top_ids"].clone(),
        shares: golden.floats["top_probabilities"].clone(),
    };
    head_of(&golden, "top_kl", top, Loss::Sparse { targets: 8 });
}
