//! Against the golden values of PyTorch and PEFT (`tests/data/engine/README.md`), and against itself.

use std::path::PathBuf;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::onnx::checkpoint::{Blocks, LayerPart, Part};
use crate::onnx::lora::{Factor, LoraShape, Projection};
use crate::onnx::testing::{Noise, runtime};

const FAMILIES: [&str; 5] = ["llama", "llama3", "mistral", "qwen2", "qwen3"];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/engine").join(name)
}

fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(&data(name)).unwrap()
}

fn engine_of(checkpoint: &Checkpoint, slots: usize, precision: Precision) -> OnnxEngine {
    let options = Options { slots, context: 48, precision };
    // As where weights are mapped: the file may go once it is.
    let cache = tempfile::tempdir().unwrap();
    OnnxEngine::new(&runtime(), checkpoint, Some(cache.path()), options).unwrap()
}

fn engine(name: &str, slots: usize) -> OnnxEngine {
    engine_of(&checkpoint(name), slots, Precision::F32)
}

struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    fn read(name: &str) -> Self {
        Self { bytes: std::fs::read(data(name).join("golden.safetensors")).unwrap() }
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// The rows' tokens, without padding.
    fn rows(&self) -> (Vec<Vec<u32>>, usize) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let integers = |name| -> Vec<i64> {
            let view = file.tensor(name).unwrap();
            view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let length = file.tensor("ids").unwrap().shape()[1];
        let (ids, segments) = (integers("ids"), integers("segments"));
        let rows = ids.chunks(length).zip(segments.chunks(length)).map(|(ids, segments)| {
            let real = ids.iter().zip(segments).filter(|(_, segment)| **segment > 0);
            real.map(|(id, _)| u32::try_from(*id).unwrap()).collect()
        });
        (rows.collect(), length)
    }

    fn lora(&self, model: &crate::onnx::llama::Architecture) -> Arc<Lora> {
        let shape = LoraShape::new(8, 2.0, &Projection::ALL);
        let layers = (0..model.layers).map(|layer| {
            let mut vector = vec![0.0; shape.len(model)];
            for piece in shape.pieces(model) {
                let factor = if piece.factor == Factor::A { "A" } else { "B" };
                let name = format!("lora.{layer}.{}.{factor}", piece.projection.module());
                vector[piece.range()].copy_from_slice(&self.floats(&name));
            }
            vector
        });
        let layers = layers.collect();
        Arc::new(Lora { shape, layers })
    }
}

/// An adapter with random matrices, of a rank and targets of its own.
fn adapter(checkpoint: &Checkpoint, seed: u64, rank: usize, targets: &[Projection]) -> Arc<Lora> {
    let mut noise = Noise::new(seed);
    let shape = LoraShape::new(rank, 0.7, targets);
    let length = shape.len(&checkpoint.architecture);
    let layers = (0..checkpoint.architecture.layers).map(|_| noise.uniform(-0.3, 0.3, length)).collect();
    Arc::new(Lora { shape, layers })
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| v.abs().max(most))
}

/// The largest difference, in parts of the largest number expected.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
    worst / largest(expected)
}

fn best(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    u32::try_from(best).unwrap()
}

fn row(slot: usize, token: u32, adapter: Option<&Arc<Lora>>) -> Row {
    Row { slot, token, adapter: adapter.cloned() }
}

/// Greedy tokens of a prompt, alone.
fn greedy(engine: &mut OnnxEngine, prompt: &[u32], lora: Option<&Arc<Lora>>, count: usize) -> Vec<u32> {
    engine.truncate(0, 0);
    let mut tokens = vec![best(&engine.prefill(0, prompt, lora).unwrap())];
    while tokens.len() < count {
        tokens.push(best(&engine.step(&[row(0, tokens[tokens.len() - 1], lora)]).unwrap()));
    }
    tokens
}

#[test]
fn every_family_decodes_to_the_logits_that_pytorch_gives_the_whole_text() {
    for family in FAMILIES {
        let checkpoint = checkpoint(family);
        let golden = Golden::read(family);
        let lora = golden.lora(&checkpoint.architecture);
        let mut engine = engine_of(&checkpoint, 2, Precision::F32);
        let (rows, length) = golden.rows();
        for (name, adapter) in [("base.logits", None), ("logits", Some(&lora))] {
            let logits = golden.floats(name);
            for (index, tokens) in rows.iter().enumerate() {
                let expected = |at: usize| &logits[(index * length + at) * 96..][..96];
                // By two pieces, then token by token; and all at once.
                engine.truncate(0, 0);
                engine.prefill(0, &tokens[..2], adapter).unwrap();
                let found = engine.prefill(0, &tokens[2..5], adapter).unwrap();
                let mut worst = error(&found, expected(4));
                for (at, token) in tokens.iter().enumerate().skip(5) {
                    let found = engine.step(&[row(0, *token, adapter)]).unwrap();
                    worst = worst.max(error(&found, expected(at)));
                }
                engine.truncate(1, 0);
                let whole = engine.prefill(1, tokens, adapter).unwrap();
                worst = worst.max(error(&whole, expected(tokens.len() - 1)));
                assert!(worst < 1e-5, "{family}, {name}, row {index}: {worst}");
            }
        }
    }
}

#[test]
fn sequences_with_different_adapters_decode_together_as_each_does_alone() {
    let checkpoint = checkpoint("llama3");
    let adapters = [
        adapter(&checkpoint, 1, 8, &Projection::ALL),
        adapter(&checkpoint, 2, 3, &[Projection::Query, Projection::Value]),
        adapter(&checkpoint, 3, 70, &[Projection::Down, Projection::Up, Projection::Key]),
    ];
    let of = |slot: usize| adapters.get(slot % 4);
    let prompt = |slot: usize| -> Vec<u32> { (0..3 + 2 * slot as u32).map(|i| (i * 17 + 5) % 96).collect() };
    let mut alone = engine_of(&checkpoint, 1, Precision::F32);
    let expected: Vec<_> = (0..6).map(|slot| greedy(&mut alone, &prompt(slot), of(slot), 16)).collect();
    assert_ne!(greedy(&mut alone, &prompt(0), None, 16), expected[0], "the adapter matters");

    // Sequences join one after the other, in an order of their own, and the order within a step changes each time.
    let mut together = engine_of(&checkpoint, 6, Precision::F32);
    let mut found: Vec<Vec<u32>> = vec![Vec::new(); 6];
    let order = [4, 0, 5, 2, 1, 3];
    for turn in 0..40 {
        if let Some(&slot) = order.get(turn / 2).filter(|_| turn % 2 == 0) {
            found[slot].push(best(&together.prefill(slot, &prompt(slot), of(slot)).unwrap()));
        }
        let mut active: Vec<usize> = (0..6).filter(|&s| (1..16).contains(&found[s].len())).collect();
        if active.is_empty() {
            continue;
        }
        let middle = turn % active.len();
        active.rotate_left(middle);
        let rows: Vec<_> = active.iter().map(|&s| row(s, *found[s].last().unwrap(), of(s))).collect();
        let logits = together.step(&rows).unwrap();
        for (slot, logits) in active.into_iter().zip(logits.chunks(96)) {
            found[slot].push(best(logits));
            if found[slot].len() == 16 && slot == 0 {
                together.truncate(slot, 0);
            }
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn a_slot_that_was_cut_back_continues_as_if_the_rest_had_never_been() {
    let mut engine = engine("mistral", 2);
    let fresh = engine.prefill(0, &[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], None).unwrap();
    engine.prefill(1, &[5, 6, 7, 8, 60, 61, 62, 63, 64, 65, 66, 67], None).unwrap();
    engine.truncate(1, 4);
    let again = engine.prefill(1, &[9, 10, 11, 12, 13, 14], None).unwrap();
    assert!(error(&again, &fresh) < 1e-5);
    engine.truncate(1, 100);
    assert!(engine.step(&[row(1, 3, None)]).is_ok(), "cutting to more than there is changes nothing");
}

#[test]
fn an_adapter_decodes_as_weights_that_it_was_added_to() {
    let model = checkpoint("qwen3");
    let lora = adapter(&model, 9, 4, &Projection::ALL);
    let merged = rewritten("qwen3", |part, values| {
        let Part::Layer(layer, part) = part else { return };
        let projection = match part {
            LayerPart::Query => Projection::Query,
            LayerPart::Key => Projection::Key,
            LayerPart::Value => Projection::Value,
            LayerPart::AttentionOutput => Projection::Output,
            LayerPart::Gate => Projection::Gate,
            LayerPart::Up => Projection::Up,
            LayerPart::Down => Projection::Down,
            _ => return,
        };
        let pieces = lora.shape.pieces(&model.architecture);
        let matrix = |factor| {
            let piece = pieces.iter().find(|p| p.projection == projection && p.factor == factor).unwrap();
            (piece.columns, &lora.layers[layer][piece.range()])
        };
        let ((columns, a), (rank, b)) = (matrix(Factor::A), matrix(Factor::B));
        for (i, value) in values.iter_mut().enumerate() {
            let (row, column) = (i / columns, i % columns);
            let sum: f32 = (0..rank).map(|k| b[row * rank + k] * a[k * columns + column]).sum();
            *value += lora.shape.scale * sum;
        }
    });
    let tokens = [1, 2, 3, 50, 60, 70];
    let expected = engine_of(&merged.1, 1, Precision::F32).prefill(0, &tokens, None).unwrap();
    let found = engine_of(&model, 1, Precision::F32).prefill(0, &tokens, Some(&lora)).unwrap();
    assert!(error(&found, &expected) < 1e-5, "{}", error(&found, &expected));
}

/// A tiny model with its matrices changed.
fn rewritten(name: &str, mut change: impl FnMut(Part, &mut [f32])) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(data(name).join("config.json"), dir.path().join("config.json")).unwrap();
    let bytes = std::fs::read(data(name).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = Vec::new();
    for (tensor, view) in file.tensors() {
        let mut values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let layer = tensor.split('.').find_map(|part| part.parse::<usize>().ok());
        let parts = [
            ("q_proj.weight", LayerPart::Query),
            ("k_proj.weight", LayerPart::Key),
            ("v_proj.weight", LayerPart::Value),
            ("o_proj.weight", LayerPart::AttentionOutput),
            ("gate_proj.weight", LayerPart::Gate),
            ("up_proj.weight", LayerPart::Up),
            ("down_proj.weight", LayerPart::Down),
        ];
        let part = parts.iter().find(|(end, _)| tensor.ends_with(end)).map(|(_, part)| *part);
        match (layer, part) {
            (Some(layer), Some(part)) => change(Part::Layer(layer, part), &mut values),
            _ if tensor.contains("embed_tokens") => change(Part::Embedding, &mut values),
            _ if tensor.contains("lm_head") => change(Part::Output, &mut values),
            _ => {}
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((tensor, view.shape().to_vec(), bytes));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

#[test]
fn weights_of_its_own_decode_as_those_that_are_mapped() {
    let checkpoint = checkpoint("llama");
    let options = Options { slots: 1, context: 48, precision: Precision::F32 };
    let mut own = OnnxEngine::new(&runtime(), &checkpoint, None, options).unwrap();
    let mut mapped = engine_of(&checkpoint, 1, Precision::F32);
    assert!(own.plain.is_none() && mapped.plain.is_some(), "one of each kind");
    let logits = |engine: &mut OnnxEngine| {
        engine.truncate(0, 0);
        let mut all = engine.prefill(0, &[3, 40, 17], None).unwrap();
        all.extend(engine.step(&[row(0, 90, None)]).unwrap());
        all
    };
    assert_eq!(logits(&mut own), logits(&mut mapped));
}

#[test]
fn matrices_in_blocks_decode_as_the_floats_that_they_stand_for() {
    for (precision, bits) in [(Precision::Q8, 8), (Precision::Q4, 4)] {
        for family in ["llama", "llama3"] {
            let rounded = rewritten(family, |part, values| {
                let columns = if matches!(part, Part::Layer(_, LayerPart::Down)) { 64 } else { 32 };
                let bits = if matches!(part, Part::Layer(..)) { bits } else { 8 };
                Blocks::round(values, columns, 32, bits).decode(values);
            });
            let mut floats = engine_of(&rounded.1, 1, Precision::F32);
            let mut blocks = engine_of(&checkpoint(family), 1, precision);
            let mut unrounded = engine(family, 1);
            let (mut worst, mut from_unrounded) = (0.0f32, 0.0f32);
            for token in [3, 40, 17, 90, 8] {
                let logits = |engine: &mut OnnxEngine| engine.step(&[row(0, token, None)]).unwrap();
                let found = logits(&mut blocks);
                worst = worst.max(error(&found, &logits(&mut floats)));
                from_unrounded = from_unrounded.max(error(&found, &logits(&mut unrounded)));
            }
            // Activations are rounded to 8 bits in each product.
            assert!(worst < 0.05, "{family}, {precision:?}: {worst}");
            assert!(bits == 8 || worst < from_unrounded / 2.0, "{family}: {worst} and {from_unrounded}");
        }
    }
}

#[test]
fn a_gguf_file_decodes_from_its_own_blocks() {
    let checkpoint = checkpoint("gguf/llama.gguf");
    let mut floats = engine_of(&checkpoint, 1, Precision::F32);
    let mut stored = engine_of(&checkpoint, 1, Precision::AsStored);
    for token in [3, 40, 17, 90, 8] {
        let expected = floats.step(&[row(0, token, None)]).unwrap();
        let found = stored.step(&[row(0, token, None)]).unwrap();
        assert!(error(&found, &expected) < 0.05, "{}", error(&found, &expected));
    }
}

#[test]
fn a_gpu_is_refused_before_anything_is_made() {
    let gpu = Runtime::on(runtime().environment().clone(), Device::Cuda(3));
    let options = Options { slots: 1, context: 48, precision: Precision::F32 };
    let error = OnnxEngine::new(&gpu, &checkpoint("llama"), None, options).err().unwrap();
    assert!(matches!(error, OnnxEngineError::Cuda(3)), "{error}");
    let said = error.to_string();
    assert!(said.contains("cuda:3") && said.contains("Set onnx.device to cpu"), "{said}");
}

#[test]
fn a_prompt_that_was_copied_goes_on_as_one_that_was_read() {
    for family in ["llama3", "mistral", "qwen3"] {
        let checkpoint = checkpoint(family);
        let lora = adapter(&checkpoint, 5, 6, &Projection::ALL);
        let prompt: Vec<u32> = (0..20).map(|i| (i * 31 + 7) % 96).collect();
        let (most, last) = prompt.split_at(prompt.len() - 1);
        // Four choices: each reads the prompt, or takes it from the first, which goes on meanwhile.
        let [mut reading, mut copying] = [0, 0].map(|_| engine_of(&checkpoint, 4, Precision::F32));
        for engine in [&mut reading, &mut copying] {
            engine.prefill(2, &[9, 9, 9], None).unwrap();
            engine.prefill(0, most, Some(&lora)).unwrap();
        }
        for slot in 1..4 {
            reading.truncate(slot, 0);
            reading.prefill(slot, most, Some(&lora)).unwrap();
        }
        let mut step = |rows: &[(usize, u32)], begun: bool| {
            let rows: Vec<Row> = rows.iter().map(|&(slot, token)| row(slot, token, Some(&lora))).collect();
            let expected = reading.step(&rows).unwrap();
            if !begun {
                for slot in 1..4 {
                    assert!(copying.copy(0, slot, most.len()), "{family}");
                }
            }
            assert_eq!(copying.step(&rows).unwrap(), expected, "{family}: bit for bit");
        };
        step(&[(0, last[0]), (1, last[0]), (2, last[0]), (3, last[0])], false);
        for token in 40..46 {
            step(&[(3, token), (1, token + 1), (0, token + 2), (2, token + 3)], true);
        }
        assert!(!copying.copy(0, 1, 40), "more than there is");
        assert!(copying.copy(3, 1, 5) && copying.copy(3, 0, 0));
        let expected =
            engine_of(&checkpoint, 1, Precision::F32).prefill(0, &prompt[..6], Some(&lora)).unwrap();
        let found = copying.prefill(1, &prompt[5..6], Some(&lora)).unwrap();
        assert!(error(&found, &expected) < 1e-5);
        copying.prefill(0, &prompt[..6], Some(&lora)).unwrap();
    }
}

#[test]
fn what_cannot_be_done_is_said_with_its_numbers_and_changes_nothing() {
    let checkpoint = checkpoint("llama");
    let mut engine = engine_of(&checkpoint, 2, Precision::F32);
    let expected = engine.prefill(0, &[1, 2, 3, 4], None).unwrap();
    engine.truncate(0, 3);

    let full = engine.prefill(0, &[7; 46], None).unwrap_err().0;
    assert!(full.contains("46") && full.contains("48"), "{full}");
    assert!(engine.prefill(0, &[96], None).unwrap_err().0.contains("token 96"));
    assert!(engine.prefill(2, &[1], None).unwrap_err().0.contains("2 slots"));
    assert!(engine.prefill(0, &[], None).is_err());
    let twice = engine.step(&[row(0, 1, None), row(0, 2, None)]).unwrap_err().0;
    assert!(twice.contains("twice"), "{twice}");
    let mut small = Lora::clone(&adapter(&checkpoint, 1, 2, &Projection::ALL));
    small.layers.pop();
    assert!(engine.prefill(0, &[4], Some(&Arc::new(small))).unwrap_err().0.contains("another model"));
    let mut broken = Lora::clone(&adapter(&checkpoint, 1, 2, &Projection::ALL));
    broken.layers[1][3] = f32::NAN;
    assert!(engine.prefill(0, &[4], Some(&Arc::new(broken))).unwrap_err().0.contains("finite"));

    let found = engine.prefill(0, &[4], None).unwrap();
    assert!(error(&found, &expected) < 1e-5);
    assert_eq!(engine.step(&[]).unwrap(), Vec::<f32>::new());
}

#[test]
fn adapters_that_come_and_go_leave_no_trace() {
    let checkpoint = checkpoint("llama");
    let mut engine = engine_of(&checkpoint, 1, Precision::F32);
    let base = greedy(&mut engine, &[1, 2, 3], None, 8);
    let first = adapter(&checkpoint, 1, 40, &Projection::ALL);
    let expected = greedy(&mut engine, &[1, 2, 3], Some(&first), 8);
    for seed in 2..12 {
        let passing = adapter(&checkpoint, seed, 5 + seed as usize, &[Projection::Query, Projection::Down]);
        greedy(&mut engine, &[1, 2, 3], Some(&passing), 3);
    }
    assert_eq!(greedy(&mut engine, &[1, 2, 3], None, 8), base);
    assert_eq!(greedy(&mut engine, &[1, 2, 3], Some(&first), 8), expected);
    assert_ne!(base, expected);
}
