//! Against gguf-py and the tiny models of PyTorch: `bench/engine/golden_gguf.py` and `golden.py` make the files.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::LayerPart::*;
use super::*;
use crate::model::Silent;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/engine").join(name)
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn read(checkpoint: &Checkpoint, part: Part) -> Vec<f32> {
    let (rows, columns) = checkpoint.shape(part).unwrap();
    let mut out = vec![f32::NAN; rows * columns];
    checkpoint.read(part, &mut out).unwrap();
    out
}

fn error(path: &Path) -> String {
    Checkpoint::open(path).err().unwrap().to_string()
}

/// Copies a tiny model, with some of its configuration replaced.
fn altered(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(data(name).join("config.json")).unwrap()).unwrap();
    change(&mut config);
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    fs::copy(data(name).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn blocks_of_every_encoding_decode_as_gguf_py_decodes_them() {
    let bytes = fs::read(data("gguf/encodings.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let encodings = [
        ("Q4_0", Encoding::Q4_0),
        ("Q4_1", Encoding::Q4_1),
        ("Q5_0", Encoding::Q5_0),
        ("Q5_1", Encoding::Q5_1),
        ("Q8_0", Encoding::Q8_0),
        ("Q4_K", Encoding::Q4K),
        ("Q5_K", Encoding::Q5K),
        ("Q6_K", Encoding::Q6K),
    ];
    for (name, encoding) in encodings {
        let stored = file.tensor(&format!("{name}.stored")).unwrap();
        let expected = floats(&file, &format!("{name}.decoded"));
        let mut decoded = vec![0.0; expected.len()];
        encoding.decode(stored.data(), &mut decoded);
        assert_eq!(decoded, expected, "{name}");

        // As blocks: two rows that are the same numbers.
        let columns = expected.len() / 2;
        let rows = stored.data().chunks_exact(stored.data().len() / 2);
        let blocks = encoding.blocks(rows, columns).unwrap();
        assert_eq!((blocks.rows, blocks.columns, columns % blocks.block), (2, columns, 0));
        assert_eq!(blocks.quants.len(), 2 * columns * usize::from(blocks.bits) / 8);
        assert_eq!(blocks.bits == 4, name.starts_with("Q4"), "{name}");
        assert_eq!(blocks.offsets.is_some(), matches!(name, "Q4_1" | "Q5_1" | "Q4_K" | "Q5_K"));
        let mut again = vec![0.0; expected.len()];
        blocks.decode(&mut again);
        let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (a, b) in expected.iter().zip(&again) {
            // An offset is added in another order: one rounding of f32 at most.
            let slack = if blocks.offsets.is_some() { largest * f32::EPSILON } else { 0.0 };
            assert!((a - b).abs() <= slack, "{name}: {a} became {b}");
        }
    }
}

#[test]
fn architectures_of_all_families_are_read() {
    let open = |name: &str| Checkpoint::open(&data(name)).unwrap();
    let llama = open("llama").architecture;
    assert_eq!(
        (llama.family, llama.hidden, llama.layers, llama.heads, llama.kv_heads),
        (Family::Llama, 32, 2, 4, 2)
    );
    assert!(llama.tied && llama.rotary_frequencies.len() == 4 && llama.sliding_window.is_none());
    let scaled = open("llama3").architecture;
    assert!(!scaled.tied && scaled.rotary_frequencies[0] == 1.0);
    assert!(scaled.rotary_frequencies[3] < llama.rotary_frequencies[3]);
    let mistral = open("mistral").architecture;
    assert_eq!((mistral.family, mistral.sliding_window), (Family::Mistral, Some(7)));
    let qwen2 = open("qwen2");
    assert!(qwen2.architecture.qkv_bias && !qwen2.architecture.qk_norm);
    assert_eq!(qwen2.shape(Part::Layer(1, KeyBias)), Some((1, 16)));
    let qwen3 = open("qwen3");
    assert!(qwen3.architecture.qk_norm && !qwen3.architecture.qkv_bias && qwen3.architecture.head_dim == 16);
    assert_eq!(qwen3.shape(Part::Layer(0, Query)), Some((64, 32)));
    assert_eq!(qwen3.shape(Part::Layer(0, QueryBias)), None);
    let absent = qwen3.read(Part::Layer(0, QueryBias), &mut []).unwrap_err().to_string();
    assert!(absent.contains("QueryBias"), "{absent}");
    assert!(open("llama").tokenizer.encode("a").unwrap_err().0.contains("tokenizer.json"));
}

#[test]
fn a_window_counts_where_the_family_uses_one() {
    let window = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let dir = altered(name, |config| {
            config["sliding_window"] = 5.into();
            change(config);
        });
        Checkpoint::open(dir.path()).map(|c| c.architecture.sliding_window).map_err(|e| e.to_string())
    };
    assert_eq!(window("llama", &|_| ()), Ok(None));
    assert_eq!(window("qwen2", &|config| config["use_sliding_window"] = false.into()), Ok(None));
    let uses = |config: &mut serde_json::Value, from: u32| {
        config["use_sliding_window"] = true.into();
        config["max_window_layers"] = from.into();
    };
    assert_eq!(window("qwen2", &|config| uses(config, 0)), Ok(Some(5)));
    assert_eq!(window("qwen2", &|config| uses(config, 2)), Ok(None));
    assert!(window("qwen2", &|config| uses(config, 1)).unwrap_err().contains("not supported"));
}

#[test]
fn what_is_not_supported_is_named_with_what_is() {
    let refusal = |change: &dyn Fn(&mut serde_json::Value)| error(altered("llama", change).path());
    let family = refusal(&|config| config["model_type"] = "gemma3".into());
    assert!(family.contains("gemma3") && family.contains("llama, mistral, qwen2, qwen3"), "{family}");
    let yarn = serde_json::json!({"rope_type": "yarn", "factor": 4.0});
    let scaling = refusal(&|config| config["rope_scaling"] = yarn.clone());
    assert!(scaling.contains("yarn") && scaling.contains("linear and llama3"), "{scaling}");
    let act = refusal(&|config| config["hidden_act"] = "gelu".into());
    assert!(act.contains("gelu"), "{act}");
    let bias = refusal(&|config| config["attention_bias"] = true.into());
    assert!(bias.contains("q_proj.bias is missing"), "{bias}");
    let narrow = refusal(&|config| config["intermediate_size"] = 48.into());
    assert!(narrow.contains("gate_proj") && narrow.contains("(48, 32)"), "{narrow}");
    let fewer = refusal(&|config| config["num_hidden_layers"] = 1.into());
    assert!(fewer.contains("model.layers.1.") && fewer.contains("no place"), "{fewer}");
    let senseless = refusal(&|config| config["num_attention_heads"] = 0.into());
    assert!(senseless.contains("makes no sense"), "{senseless}");
}

#[test]
fn pieces_of_a_model_are_joined_by_their_index() {
    let whole = Checkpoint::open(&data("llama3")).unwrap();
    let dir = altered("llama3", |_| ());
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut index = serde_json::Map::new();
    for (i, piece) in file.tensors().chunks(7).enumerate() {
        let name = format!("model-{i}.safetensors");
        let views = piece.iter().map(|(name, view)| (name.as_str(), view));
        fs::write(dir.path().join(&name), safetensors::serialize(views, None).unwrap()).unwrap();
        index.extend(piece.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
    }
    let write_index = |map: &serde_json::Map<String, serde_json::Value>| {
        let index = serde_json::json!({ "weight_map": map });
        fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    };
    write_index(&index);
    let joined = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(joined.hash().unwrap(), whole.hash().unwrap(), "the same weights are the same model");
    for part in [Part::Output, Part::Layer(1, Down)] {
        assert_eq!(read(&joined, part), read(&whole, part));
    }
    index.insert("elsewhere".into(), "../model.safetensors".into());
    write_index(&index);
    assert!(error(dir.path()).contains("outside"), "an index leads nowhere else");
}

#[test]
fn sixteen_bit_weights_are_widened() {
    let dir = altered("llama", |_| ());
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let halves: Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = floats(&file, &name);
            let is_norm = name.contains("norm");
            let half = |v: &f32| {
                if is_norm {
                    half::f16::from_f32(*v).to_le_bytes()
                } else {
                    half::bf16::from_f32(*v).to_le_bytes()
                }
            };
            let dtype = if is_norm { safetensors::Dtype::F16 } else { safetensors::Dtype::BF16 };
            (name, dtype, view.shape().to_vec(), values.iter().flat_map(half).collect())
        })
        .collect();
    let views = halves.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let (wide, narrow) = (Checkpoint::open(&data("llama")).unwrap(), Checkpoint::open(dir.path()).unwrap());
    for (part, precision) in
        [(Part::Layer(0, AttentionNorm), 1.0 / 2048.0), (Part::Layer(1, Up), 1.0 / 256.0)]
    {
        for (a, b) in read(&wide, part).iter().zip(read(&narrow, part)) {
            assert!((a - b).abs() <= a.abs() * precision + 1e-7, "{part:?}: {a} became {b}");
        }
    }
    assert!(narrow.blocks(Part::Embedding).unwrap().is_none());
}

#[test]
fn a_gguf_file_is_the_model_that_it_was_converted_from() {
    let (original, gguf) =
        (Checkpoint::open(&data("llama")).unwrap(), Checkpoint::open(&data("gguf/llama.gguf")).unwrap());
    let (a, b) = (&original.architecture, &gguf.architecture);
    assert_eq!(Architecture { norm_epsilon: a.norm_epsilon, ..b.clone() }, *a);
    for (part, _) in parts::of(a) {
        let (expected, found) = (read(&original, part), read(&gguf, part));
        let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let slack = match part {
            Part::Layer(0, Query) => 0.01,
            Part::Layer(0, Key | Down) => 0.15,
            Part::Layer(0, Gate) => 0.001,
            Part::Layer(0, Up) => 0.005,
            _ => 0.0,
        };
        for (a, b) in expected.iter().zip(&found) {
            assert!((a - b).abs() <= largest * slack, "{part:?}: {a} became {b}");
        }
    }
    // Rows of blocks are put back as rows of numbers are.
    for part in [Part::Layer(0, Query), Part::Layer(0, Key), Part::Layer(0, Down)] {
        let blocks = gguf.blocks(part).unwrap().unwrap();
        let mut decoded = vec![0.0; blocks.rows * blocks.columns];
        blocks.decode(&mut decoded);
        for (a, b) in read(&gguf, part).iter().zip(&decoded) {
            assert!((a - b).abs() <= 1e-7, "{part:?}: {a} became {b}");
        }
    }
    assert_ne!(original.hash().unwrap(), gguf.hash().unwrap());
    assert_eq!(gguf.tokenizer.encode("cab<|end|>").unwrap().len(), 3);
    assert_eq!(gguf.tokenizer.stops(), [0]);
}

#[test]
fn the_default_model_is_read_in_seconds_and_its_blocks_are_its_numbers() {
    let path = crate::onnx::provision::default_model(&crate::config::Onnx::default(), &Silent).unwrap().path;
    let model = Checkpoint::open(&path).unwrap();
    let a = &model.architecture;
    assert_eq!((a.family, a.hidden, a.layers, a.heads, a.kv_heads), (Family::Llama, 576, 30, 9, 3));
    assert!(a.tied && a.context == 8192 && a.vocabulary == 49152);
    for part in [Part::Layer(29, Query), Part::Layer(0, Down), Part::Layer(7, Value)] {
        let blocks = model.blocks(part).unwrap().unwrap();
        assert!(blocks.bits == 4 && blocks.block == 32 && blocks.offsets.is_some());
        let mut decoded = vec![0.0; blocks.rows * blocks.columns];
        blocks.decode(&mut decoded);
        for (a, b) in read(&model, part).iter().zip(&decoded) {
            assert!((a - b).abs() <= a.abs().max(0.1) * f32::EPSILON * 4.0, "{part:?}: {a} became {b}");
        }
    }
    assert!(model.blocks(Part::Layer(0, AttentionNorm)).unwrap().is_none());
}

#[test]
fn prepared_weights_are_the_models_and_are_written_anew_where_damaged() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama", "qwen2", "qwen3"] {
        let model = Checkpoint::open(&data(name)).unwrap();
        let prepared = model.prepared(dir.path()).unwrap();
        let layer = prepared.layer(1);
        let join = |parts: &[LayerPart]| -> Vec<f32> {
            parts.iter().flat_map(|part| read(&model, Part::Layer(1, *part))).collect()
        };
        assert_eq!(layer.qkv, join(&[Query, Key, Value]));
        assert_eq!(layer.gate_up, join(&[Gate, Up]));
        assert_eq!(layer.down, join(&[Down]));
        assert_eq!(layer.attention_output, join(&[AttentionOutput]));
        assert_eq!(layer.attention_norm, join(&[AttentionNorm]));
        assert_eq!(layer.feed_forward_norm, join(&[FeedForwardNorm]));
        assert_eq!(layer.qkv_bias.map(<[f32]>::len), (name == "qwen2").then_some(64));
        assert_eq!(layer.head_norms.is_some(), name == "qwen3");
        assert_eq!(prepared.embedding(), read(&model, Part::Embedding));
        assert_eq!(prepared.norm(), read(&model, Part::Norm));
        let output = if model.architecture.tied { Part::Embedding } else { Part::Output };
        assert_eq!(prepared.output(), read(&model, output));
        assert!(layer.down.as_ptr().addr().is_multiple_of(64));
    }

    let model = Checkpoint::open(&data("llama")).unwrap();
    let path = dir.path().join(format!("{}.f32", model.hash().unwrap()));
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[5000] ^= 1;
    for damaged in [&whole[..whole.len() - 64], &flipped, b""] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, damaged).unwrap();
        fs::write(dir.path().join(".unfinished-x"), b"left by a killed process").unwrap();
        model.prepared(dir.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "three models and a lock, no more");
    }
}

#[test]
fn a_file_of_another_kind_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    assert!(error(&path).contains("model.gguf: cannot open"));
    for (content, says) in [
        (&b"PK\x03\x04 a zip"[..], "no GGUF file"),
        (b"GGUF\x01\0\0\0", "newer llama.cpp"),
        (b"GGUF\0\0\0\x03", "big-endian"),
    ] {
        fs::write(&path, content).unwrap();
        assert!(error(&path).contains(says), "{}", error(&path));
    }
    assert!(error(dir.path()).contains("config.json"));
    let mut gguf = fs::read(data("gguf/llama.gguf")).unwrap();
    let at = gguf.windows(18).position(|w| w == b"blk.0.attn_q.weigh").unwrap();
    // Name, dimensions, two lengths, then the type: Q3_K.
    gguf[at + 19 + 4 + 16] = 11;
    fs::write(&path, &gguf).unwrap();
    let encoding = error(&path);
    assert!(
        encoding.contains("blk.0.attn_q.weight") && encoding.contains("Q3_K") && encoding.contains("Q4_K"),
        "{encoding}"
    );
    fs::write(&path, &gguf[..gguf.len() - 1]).unwrap();
}

/// Opens damaged bytes: it fails in words, or gives a model all of which can be read.
fn survives(path: &Path) {
    if let Ok(model) = Checkpoint::open(path) {
        for (part, _) in parts::of(&model.architecture) {
            read(&model, part);
            model.blocks(part).unwrap();
        }
        let _ = model.tokenizer.encode("abc <|end|> é");
        let _ = model.tokenizer.decode(&[0, 1, 90, u32::MAX]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_gguf_gives_an_error_and_never_a_panic(
        flips in prop::collection::vec((0usize..6000, any::<u8>()), 1..4),
        cut in prop::option::weighted(0.3, 0usize..69_000),
    ) {
        let mut bytes = fs::read(data("gguf/llama.gguf")).unwrap();
        for (at, value) in flips {
            bytes[at] = value;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.gguf");
        fs::write(&path, bytes).unwrap();
        survives(&path);
    }

    #[test]
    fn lengths_that_lie_are_noticed_before_anything_is_reserved(at in 0usize..4000, length in any::<u64>()) {
        let mut bytes = fs::read(data("gguf/llama.gguf")).unwrap();
        bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lying.gguf");
        fs::write(&path, bytes).unwrap();
        survives(&path);
    }

    #[test]
    fn damaged_safetensors_give_an_error_and_never_a_panic(
        flips in prop::collection::vec((0usize..2500, any::<u8>()), 1..4),
        cut in prop::option::weighted(0.3, 0usize..88_000),
    ) {
        let dir = altered("llama", |_| ());
        let path = dir.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        for (at, value) in flips {
            bytes[at] = value;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        fs::write(&path, bytes).unwrap();
        survives(dir.path());
    }
}
