use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::adapters::{AdapterError, CONFIG, WEIGHTS, gguf, ort_file, peft};
use crate::onnx::llama::{Architecture, Family};
use crate::onnx::lora::{Factor, Lora, LoraShape, Projection};

/// The model of `data/`, which `bench/engine/adapter_golden.py` makes.
fn model() -> Architecture {
    Architecture {
        family: Family::Llama,
        hidden: 16,
        feed_forward: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        vocabulary: 32,
        norm_epsilon: 1e-5,
        rotary_frequencies: vec![1.0, 0.01],
        context: 64,
        sliding_window: None,
        qkv_bias: false,
        qk_norm: false,
        tied: false,
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/adapters/tests/data").join(name)
}

/// An adapter whose elements all differ.
fn lora(rank: usize, targets: &[Projection]) -> Lora {
    let shape = LoraShape::new(rank, 1.5, targets);
    let vector =
        |layer: usize| (0..shape.len(&model())).map(|i| (layer * 10_000 + i) as f32 / 64.0 - 3.0).collect();
    let layers = (0..model().layers).map(vector).collect();
    Lora { shape, layers }
}

/// One matrix of an adapter.
fn matrix(lora: &Lora, layer: usize, projection: Projection, factor: Factor) -> &[f32] {
    let pieces = lora.shape.pieces(&model());
    let piece = pieces.iter().find(|p| (p.projection, p.factor) == (projection, factor)).expect("it has it");
    &lora.layers[layer][piece.range()]
}

fn written(lora: &Lora) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let to = dir.path().join("a/adapter");
    peft::write(&to, lora, &model(), "HuggingFaceTB/SmolLM2-135M-Instruct").expect("written");
    (dir, to)
}

#[test]
fn what_is_written_is_read_again_exactly() {
    for targets in [&Projection::ALL[..], &[Projection::Down, Projection::Query]] {
        let lora = lora(3, targets);
        let (dir, to) = written(&lora);
        assert_eq!(peft::read(&to, &model()).expect("read"), lora);
        let left: Vec<_> = std::fs::read_dir(dir.path().join("a")).expect("listed").collect();
        assert_eq!(left.len(), 1, "nothing stays behind");
        let again = peft::write(&to, &lora, &model(), "x").expect_err("it is there already");
        assert!(matches!(again, AdapterError::Exists { .. }), "{again}");
    }
}

#[test]
fn the_configuration_is_what_peft_and_servers_expect() {
    let (_dir, to) = written(&lora(2, &[Projection::Value, Projection::Query]));
    let config: Value =
        serde_json::from_slice(&std::fs::read(to.join(CONFIG)).expect("there")).expect("JSON");
    assert_eq!(config["target_modules"], json!(["q_proj", "v_proj"]));
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(2), &json!(3)),
        "alpha is an integer where it is one"
    );
    assert_eq!((&config["peft_type"], &config["task_type"]), (&json!("LORA"), &json!("CAUSAL_LM")));
    assert_eq!(config["base_model_name_or_path"], "HuggingFaceTB/SmolLM2-135M-Instruct");
}

#[test]
fn adapters_that_peft_wrote_are_read_in_every_type_and_with_its_scale() {
    let values: Value =
        serde_json::from_slice(&std::fs::read(data("values.json")).expect("there")).expect("JSON");
    for (name, targets) in [("plain", 7), ("half", 4), ("partial", 2)] {
        let lora = peft::read(&data(name), &model()).unwrap_or_else(|e| panic!("{e}"));
        let expected = &values[name];
        assert_eq!(f64::from(lora.shape.scale), expected["scale"].as_f64().expect("a number"), "{name}");
        assert_eq!(lora.shape.targets().len(), targets, "{name}");
        for (key, factor) in [("q_a", Factor::A), ("q_b", Factor::B)] {
            let begins: Vec<f32> = serde_json::from_value(expected[key].clone()).expect("numbers");
            assert_eq!(matrix(&lora, 1, Projection::Query, factor)[..5], begins, "{name} {key}");
        }
    }
    let partial = peft::read(&data("partial"), &model()).expect("read");
    assert!(partial.layers[0].iter().all(|x| *x == 0.0), "a layer that was left out changes nothing");
}

/// The error of a copy of an adapter's directory whose configuration has other values.
fn refused(name: &str, changes: Value) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::copy(data(name).join(WEIGHTS), dir.path().join(WEIGHTS)).expect("copied");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(data(name).join(CONFIG)).expect("there")).expect("JSON");
    for (key, value) in changes.as_object().expect("keys") {
        config[key] = value.clone();
    }
    std::fs::write(dir.path().join(CONFIG), config.to_string()).expect("written");
    peft::read(dir.path(), &model()).expect_err("it must be refused").to_string()
}

#[test]
fn what_remora_cannot_compute_is_refused_by_its_key() {
    for (key, value) in [
        ("use_dora", json!(true)),
        ("rank_pattern", json!({"q_proj": 4})),
        ("alpha_pattern", json!({"q_proj": 4})),
        ("modules_to_save", json!(["lm_head"])),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
        ("target_modules", json!(["q_proj", "lm_head"])),
        ("trainable_token_indices", json!([1, 2])),
    ] {
        let said = refused("plain", json!({key: value}));
        assert!(said.contains(CONFIG) && said.contains(key), "{key}: {said}");
    }
}

#[test]
fn files_that_do_not_fit_are_refused_with_the_tensor_that_does_not() {
    let said = refused("partial", json!({"layers_to_transform": null}));
    assert!(said.contains("layers.0.self_attn.q_proj.lora_A.weight"), "{said}");
    let said = refused("plain", json!({"r": 4}));
    assert!(said.contains("[2, 16]") && said.contains("[4, 16]"), "{said}");
    let smaller = Architecture { layers: 1, ..model() };
    let said = peft::read(&data("plain"), &smaller).expect_err("a layer too many").to_string();
    assert!(said.contains("layers.1."), "{said}");

    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::copy(data("plain").join(CONFIG), dir.path().join(CONFIG)).expect("copied");
    let whole = std::fs::read(data("plain").join(WEIGHTS)).expect("there");
    for damaged in [&whole[..5], &whole[..200], &whole[..whole.len() - 1], b""] {
        std::fs::write(dir.path().join(WEIGHTS), damaged).expect("written");
        let said = peft::read(dir.path(), &model()).expect_err("damaged").to_string();
        assert!(said.contains(WEIGHTS), "{said}");
    }
}

#[test]
fn matrices_larger_than_what_is_read_at_once_come_out_exactly() {
    let wide = Architecture { hidden: 50_001, layers: 1, ..model() };
    let shape = LoraShape::new(3, 1.0, &[Projection::Query, Projection::Output]);
    let layers = vec![(0..shape.len(&wide)).map(|i| i as f32).collect()];
    let (dir, lora) = (tempfile::tempdir().expect("a temporary directory"), Lora { shape, layers });
    let to = dir.path().join("wide");
    peft::write(&to, &lora, &wide, "x").expect("written");
    assert_eq!(peft::read(&to, &wide).expect("read"), lora);
}

#[test]
fn numbers_that_are_none_are_refused_by_their_tensor_in_every_type() {
    // With these two bytes at its end, a number of 32 bits is none, and so is one of either kind of 16.
    let none = [0xC0, 0x7F];
    for name in ["plain", "half"] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::copy(data(name).join(CONFIG), dir.path().join(CONFIG)).expect("copied");
        let mut bytes = std::fs::read(data(name).join(WEIGHTS)).expect("there");
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&none);
        std::fs::write(dir.path().join(WEIGHTS), &bytes).expect("written");
        let said = peft::read(dir.path(), &model()).expect_err("no number").to_string();
        assert!(said.contains(".lora_") && said.contains("no number"), "{said}");
    }
}

#[test]
fn a_rank_beyond_reason_or_a_longer_file_is_refused_before_memory_is_taken_for_it() {
    let said = refused("plain", json!({"r": u64::MAX}));
    assert!(said.contains(CONFIG) && said.contains("no rank"), "{said}");
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::copy(data("plain").join(CONFIG), dir.path().join(CONFIG)).expect("copied");
    let mut bytes = std::fs::read(data("plain").join(WEIGHTS)).expect("there");
    bytes.push(0);
    std::fs::write(dir.path().join(WEIGHTS), &bytes).expect("written");
    assert!(peft::read(dir.path(), &model()).expect_err("a byte too many").to_string().contains("length"));
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(dir.path().join(WEIGHTS), &bytes).expect("written");
    assert!(
        peft::read(dir.path(), &model()).expect_err("a header without end").to_string().contains("header")
    );
}

#[test]
fn an_adapter_of_another_model_is_not_written() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let other = Architecture { feed_forward: 32, ..model() };
    let lora = lora(2, &Projection::ALL);
    assert!(matches!(peft::write(&dir.path().join("x"), &lora, &other, ""), Err(AdapterError::Model { .. })));
    assert!(matches!(gguf::write(&dir.path().join("y"), &lora, &other, ""), Err(AdapterError::Model { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
}

/// A reader of GGUF that knows what these files may hold: strings and floats, tensors of f32.
struct Reader<'a>(&'a [u8], usize);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.0[self.1..self.1 + N].try_into().expect("as many");
        self.1 += N;
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn size(&mut self) -> usize {
        usize::try_from(u64::from_le_bytes(self.take())).expect("it fits")
    }

    fn text(&mut self) -> String {
        let length = self.size();
        self.1 += length;
        String::from_utf8(self.0[self.1 - length..self.1].to_vec()).expect("UTF-8")
    }
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read_gguf(bytes: &[u8]) -> (BTreeMap<String, String>, Tensors) {
    let mut r = Reader(bytes, 0);
    assert_eq!((&r.take::<4>(), r.u32()), (b"GGUF", 3));
    let (tensors, pairs) = (r.size(), r.size());
    let mut metadata = BTreeMap::new();
    for _ in 0..pairs {
        let key = r.text();
        let value = match r.u32() {
            8 => r.text(),
            6 => f32::from_le_bytes(r.take()).to_string(),
            other => panic!("{key} has type {other}"),
        };
        metadata.insert(key, value);
    }
    let infos: Vec<_> = (0..tensors)
        .map(|_| {
            let name = r.text();
            let dims: Vec<usize> = (0..r.u32()).map(|_| r.size()).collect();
            assert_eq!(r.u32(), 0, "f32");
            (name, dims, r.size())
        })
        .collect();
    let start = r.1.next_multiple_of(32);
    let mut found = Tensors::new();
    for (name, dims, offset) in infos {
        assert_eq!(offset % 32, 0, "{name} is aligned");
        let count: usize = dims.iter().product();
        let data = &bytes[start + offset..start + offset + 4 * count];
        let floats = data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
        found.insert(name, (dims, floats));
    }
    (metadata, found)
}

#[test]
fn gguf_has_llama_cpps_names_and_its_order_of_rows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let lora = lora(3, &Projection::ALL);
    let export = |family, name: &str| {
        let file = dir.path().join(name);
        gguf::write(&file, &lora, &Architecture { family, ..model() }, "tickets").expect("written");
        assert!(matches!(gguf::write(&file, &lora, &model(), ""), Err(AdapterError::Exists { .. })));
        read_gguf(&std::fs::read(file).expect("there"))
    };
    let (metadata, tensors) = export(Family::Mistral, "a.gguf");
    for (key, value) in [
        ("general.architecture", "llama"),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("adapter.lora.alpha", "4.5"),
    ] {
        assert_eq!(metadata[key], value);
    }
    assert_eq!(tensors.len(), 2 * 2 * 7);
    let (dims, a) = &tensors["blk.1.attn_q.weight.lora_a"];
    assert_eq!(
        (dims.as_slice(), a.as_slice()),
        (&[16, 3][..], matrix(&lora, 1, Projection::Query, Factor::A))
    );
    let (dims, b) = &tensors["blk.1.ffn_down.weight.lora_b"];
    assert_eq!(
        (dims.as_slice(), b.as_slice()),
        (&[3, 16][..], matrix(&lora, 1, Projection::Down, Factor::B))
    );

    // Of a head's four rows 0 1 2 3, halves (0 1) and (2 3), the file has 0 2 1 3.
    let rows = |m: &[f32]| m.chunks(3).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let ours = rows(matrix(&lora, 0, Projection::Key, Factor::B));
    let order = |b: &Tensors| rows(&b["blk.0.attn_k.weight.lora_b"].1);
    let expected: Vec<_> = [0, 2, 1, 3, 4, 6, 5, 7].map(|i: usize| ours[i].clone()).into();
    assert_eq!(order(&tensors), expected);
    let (metadata, tensors) = export(Family::Qwen2, "b.gguf");
    assert_eq!((metadata["general.architecture"].as_str(), order(&tensors)), ("qwen2", ours));
}

/// The n-th field of a table at `at`; none: it is left out.
fn field(bytes: &[u8], at: usize, n: usize) -> Option<usize> {
    let int = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
    let vtable = at.checked_add_signed(-int(at) as isize).expect("within");
    let short = |at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two")));
    let slot = 4 + 2 * n;
    let offset = if slot < short(vtable) { short(vtable + slot) } else { 0 };
    (offset != 0).then_some(at + offset)
}

#[test]
fn an_onnx_adapter_has_the_tables_that_onnx_runtime_reads() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // Odd numbers of elements, so that alignment has to be made.
    let odd = Architecture { hidden: 15, feed_forward: 23, ..model() };
    let shape = LoraShape::new(1, 0.5, &Projection::ALL);
    let layers = (0..2).map(|l| (0..shape.len(&odd)).map(|i| (l * 1000 + i) as f32).collect()).collect();
    let lora = Lora { shape, layers };
    let file = dir.path().join("x.onnx_adapter");
    ort_file::write(&file, &lora, &odd, 7).expect("written");
    let bytes = std::fs::read(&file).expect("there");

    let uint = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four")) as usize;
    let follow = |at: usize| at + uint(at);
    assert_eq!(&bytes[4..8], b"TORT");
    let root = uint(0);
    assert_eq!(uint(field(&bytes, root, 0).expect("a format version")), 1);
    assert_eq!(uint(field(&bytes, root, 1).expect("an adapter version")), 7);
    let list = follow(field(&bytes, root, 3).expect("parameters"));
    assert_eq!(uint(list), 2 * 7 * 2);
    let mut seen = BTreeMap::new();
    for i in 0..uint(list) {
        let parameter = follow(list + 4 + 4 * i);
        let part = |n| field(&bytes, parameter, n).expect("every field is there");
        let name = follow(part(0));
        let name = String::from_utf8(bytes[name + 4..name + 4 + uint(name)].to_vec()).expect("UTF-8");
        let dims = follow(part(1));
        let dim = |i: usize| i64::from_le_bytes(bytes[dims + 4 + 8 * i..][..8].try_into().expect("eight"));
        assert_eq!((uint(dims), uint(part(2))), (2, 1), "{name}: two dimensions of floats");
        let raw = follow(part(3));
        assert_eq!((raw + 4) % 8, 0, "{name} is aligned");
        assert_eq!(uint(raw) as i64, dim(0) * dim(1) * 4, "{name}");
        let floats: Vec<f32> = bytes[raw + 4..raw + 4 + uint(raw)]
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().expect("four")))
            .collect();
        seen.insert(name, floats);
    }
    let pieces = lora.shape.pieces(&odd);
    let gate =
        pieces.iter().find(|p| (p.projection, p.factor) == (Projection::Gate, Factor::B)).expect("there");
    let scaled: Vec<f32> = lora.layers[1][gate.range()].iter().map(|x| x * 0.5).collect();
    assert_eq!(seen["model.layers.1.mlp.gate_proj.lora_B.weight"], scaled);
    assert_eq!(seen["model.layers.0.self_attn.q_proj.lora_A.weight"][..2], [0.0, 1.0]);
}
