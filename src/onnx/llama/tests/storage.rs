//! Frozen matrices that are not stored as 32-bit floats: losses and gradients are those over the floats they stand for.

use std::collections::HashMap;

use half::bf16;
use ort::value::{DynTensor, TensorElementType};

use super::*;

/// Matrices of a tiny model as `round` makes them, and the same as 32-bit floats.
fn rounded(round: impl Fn(Part, &[f32], usize) -> Held) -> [Weights; 2] {
    let model = Architecture { tied: false, ..architecture("llama") };
    let mut noise = Noise::new(5);
    let mut parts: HashMap<Part, Held> = HashMap::new();
    let mut read = |part: Part, count: usize| -> Result<Held, ProgramError> {
        let columns = match part {
            Part::Layer(_, LayerPart::Down) => model.feed_forward,
            _ => model.hidden,
        };
        let values = noise.uniform(-0.25, 0.25, count);
        let held = if count > columns { round(part, &values, columns) } else { Held::Floats(values) };
        parts.insert(part, held.clone());
        Ok(held)
    };
    let held = Weights::held(&runtime(), model.clone(), &mut read).unwrap();
    let floats = Weights::floats(&runtime(), model.clone(), |part, count| {
        let mut values = vec![0.0; count];
        match &parts[&part] {
            Held::Floats(given) => values.copy_from_slice(given),
            Held::Half(given) => values.iter_mut().zip(given).for_each(|(to, from)| *to = f32::from(*from)),
            Held::Blocks(blocks) => blocks.decode(&mut values),
        }
        Ok::<_, ProgramError>(values)
    });
    [held, floats.unwrap()]
}

/// Two models give the same losses, gradients, final rows and logits.
fn agree(name: &str, models: [Weights; 2], keep: Keep) {
    let golden = file(folder("llama").join("golden.safetensors"));
    let model = models[0].architecture.clone();
    let mut noise = Noise::new(6);
    let length = shape().len(&model);
    let lora: Vec<Vec<f32>> = (0..model.layers).map(|_| noise.uniform(-0.2, 0.2, length)).collect();
    let lora = tensors(&lora);
    let lora: Vec<&DynTensor> = lora.iter().collect();
    let zeros = tensors(&vec![vec![0.0; length]; model.layers]);
    let [found, expected] = models.map(|weights| {
        let mut stack = Stack::new(&runtime(), weights, Some(shape()), keep).unwrap();
        let (batch, labels) = batch(&golden, "packed.");
        let rows = labels.rows.clone();
        let hidden = Noise::new(8).uniform(-1.0, 1.0, rows.len() * model.hidden);
        let loss = Loss::JensenShannon { beta: 0.5 };
        let teacher = Targets {
            rows: rows.clone(),
            weights: labels.weights.clone(),
            goal: RowGoal::Teacher { hidden, loss },
            clip: None,
            off_policy: None,
        };
        let gradient = stack.gradient(&batch, &lora, &[labels, teacher], &zeros).unwrap();
        let h = stack.forward(&batch, Some(&lora)).unwrap();
        let logits = stack.logits(&h, &rows).unwrap();
        let vectors: Vec<Vec<f32>> =
            gradient.lora.iter().map(|v| program::read(v).unwrap().to_vec()).collect();
        (gradient.loss, vectors, logits)
    });
    assert!((found.0 - expected.0).abs() < 1e-5 * expected.0, "{name}: {} and {}", found.0, expected.0);
    assert!(distance(&found.2, &expected.2) < 1e-5, "{name}: logits");
    for (layer, (found, expected)) in found.1.iter().zip(&expected.1).enumerate() {
        for piece in shape().pieces(&model) {
            let error = distance(&found[piece.range()], &expected[piece.range()]);
            assert!(error < 1e-5, "{name} {keep:?}, layer {layer}, {piece:?}: {error}");
        }
    }
}

#[test]
fn gradients_over_blocks_are_those_over_the_floats_that_they_stand_for() {
    for bits in [4, 8] {
        for block in [16, 32] {
            for has_offsets in [false, true] {
                let round = |_: Part, values: &[f32], columns: usize| {
                    let mut blocks = Blocks::round(values, columns, block, bits);
                    let count = blocks.scales.len();
                    blocks.offsets = has_offsets.then(|| Noise::new(9).uniform(-0.1, 0.1, count));
                    Held::Blocks(blocks)
                };
                let name = format!("{bits} bits, blocks of {block}, offsets: {has_offsets}");
                agree(&name, rounded(round), if block == 16 { Keep::Input } else { Keep::Products });
            }
        }
    }
}

fn half(values: &[f32]) -> Held {
    Held::Half(values.iter().copied().map(bf16::from_f32).collect())
}

#[test]
fn gradients_over_16_bit_floats_are_those_over_the_floats_that_they_stand_for() {
    for keep in [Keep::Input, Keep::Products] {
        let models = rounded(|_, values, _| half(values));
        assert!(models[0].storage().all(|s| s == Storage::Widened(TensorElementType::Bfloat16)));
        agree("16 bits", models, keep);
    }
}

#[test]
fn every_matrix_of_every_layer_may_be_stored_in_its_own_way() {
    let round = |part: Part, values: &[f32], columns: usize| {
        let odd = match part {
            Part::Layer(layer, LayerPart::Query | LayerPart::Up) => layer == 0,
            Part::Layer(layer, _) => layer == 1,
            _ => false,
        };
        let mut blocks = Blocks::round(values, columns, if odd { 16 } else { 32 }, if odd { 8 } else { 4 });
        if matches!(part, Part::Layer(0, LayerPart::Key)) {
            blocks.offsets = Some(vec![0.05; blocks.scales.len()]);
        }
        if matches!(part, Part::Layer(1, LayerPart::Value)) {
            return half(values);
        }
        Held::Blocks(blocks)
    };
    agree("mixed", rounded(round), Keep::Products);
}

fn opened(checkpoint: &Checkpoint, precision: Precision) -> Weights {
    let model = checkpoint.architecture.clone();
    let read = |part, _| Ok::<_, Box<dyn std::error::Error>>(checkpoint.held(part, precision)?);
    Weights::held(&runtime(), model, read).unwrap()
}

#[test]
fn a_gguf_file_is_trained_over_from_its_own_blocks() {
    // Of two layers that mix formats, with rows of query and key in llama.cpp's order: Q4_0, Q4_1, Q8_0 and plain floats.
    let checkpoint = Checkpoint::open(&folder("gguf").join("llama.gguf")).unwrap();
    let stored = opened(&checkpoint, Precision::AsStored);
    assert_eq!(stored.kinds.len(), 2);
    let in_blocks = stored.storage().filter(|s| matches!(s, Storage::Blocks { .. })).count();
    assert_eq!(in_blocks, 3);
    agree("as stored", [stored, opened(&checkpoint, Precision::F32)], Keep::Products);
}

#[test]
fn few_bits_are_rounded_where_the_file_has_floats_and_tables_have_eight() {
    let checkpoint = Checkpoint::open(&folder("llama")).unwrap();
    for (precision, bits) in [(Precision::Q8, 8), (Precision::Q4, 4)] {
        let mut storage = opened(&checkpoint, precision).storage().collect::<Vec<_>>().into_iter();
        let of = |bits| Storage::Blocks { bits, block: 32, offsets: false };
        assert_eq!(storage.by_ref().take(2).collect::<Vec<_>>(), [of(8); 2]);
        assert_eq!(storage.collect::<Vec<_>>(), [of(bits); 14]);
    }
    let floats = opened(&checkpoint, Precision::AsStored);
    assert!(floats.storage().all(|s| matches!(s, Storage::Floats(_))));
    let halves = opened(&checkpoint, Precision::Bf16);
    assert!(halves.storage().all(|s| matches!(s, Storage::Widened(_))));
}
