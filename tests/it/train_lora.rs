//! `remora train lora`: a file of chats in, an adapter out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use remora::adapters::peft;
use remora::onnx::checkpoint::Checkpoint;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};

use crate::harness::until;

/// A tiny model with random weights that reads printable ASCII, a token a character.
fn model(dir: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/engine/qwen3");
    let to = dir.join("model");
    fs::create_dir(&to).expect("the scratch directory can be used");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(from.join(file), to.join(file)).expect("the scratch directory can be used");
    }
    let mut vocabulary: Map<String, Value> =
        ('!'..='~').zip(2..).map(|(c, id)| (c.to_string(), json!(id))).collect();
    vocabulary.insert("</s>".into(), json!(0));
    // How a space is spelled in this kind of vocabulary.
    vocabulary.insert("\u{120}".into(), json!(1));
    vocabulary.retain(|_, id| id.as_u64() < Some(96));
    let tokenizer = json!({
        "version": "1.0", "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 0, "content": "</s>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    fs::write(to.join("tokenizer.json"), tokenizer.to_string()).expect("the scratch directory can be used");
    let template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\
        {% if m.role == 'assistant' %}{{ eos_token }}{% else %} {% endif %}{% endfor %}\
        {% if add_generation_prompt %}a:{% endif %}";
    let config = json!({"eos_token": "</s>", "chat_template": template});
    fs::write(to.join("tokenizer_config.json"), config.to_string())
        .expect("the scratch directory can be used");
    to
}

fn chats(dir: &Path, count: usize) -> PathBuf {
    let chat = |i: usize| {
        let (asked, said) = (format!("is {i} odd"), if i % 2 == 1 { "yes" } else { "no" });
        json!({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]})
    };
    let lines: String = (0..count).map(|i| format!("{}\n", chat(i))).collect();
    let path = dir.join(format!("chats-{count}.jsonl"));
    fs::write(&path, lines).expect("the scratch directory can be used");
    path
}

fn command(dir: &Path, model: &Path, data: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    let (config, out) = (dir.join("remora.yaml"), dir.join(out));
    fs::write(&config, "onnx:\n  device: cpu\n").expect("the scratch directory can be used");
    command.args(["train", "lora", "--json", "--threads", "1", "--replay", "0", "--rank", "4"]);
    command.args([Path::new("--model"), model, Path::new("--data"), data, Path::new("--out"), &out]);
    command.args([Path::new("--config"), &config]).args(more);
    command
}

fn run(dir: &Path, model: &Path, data: &Path, out: &str, more: &[&str]) -> Output {
    command(dir, model, data, out, more).output().expect("the binary runs")
}

fn said(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_str(text.lines().last().unwrap_or_default()).expect("the last line is JSON")
}

fn weights(dir: &Path, out: &str) -> Vec<u8> {
    fs::read(dir.join(out).join("adapter_model.safetensors")).expect("the scratch directory can be used")
}

#[test]
fn chats_become_an_adapter_that_is_the_same_each_time_and_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (model, data, held_out) = (model(dir), chats(dir, 12), chats(dir, 5));
    let settings = ["--epochs", "4", "--learning-rate", "0.01", "--also", "gguf", "--also", "onnx"];
    let held_out = ["--held-out", held_out.to_str().unwrap()];
    let told = said(&run(dir, &model, &data, "first", &[&settings[..], &held_out].concat()));
    let report = &told["report"];
    assert_eq!((report["step"].as_u64(), report["ended"].as_str()), (Some(12), Some("finished")));
    let (before, after) = (&report["held_out_before"], &report["held_out_after"]);
    assert!(after.as_f64() < before.as_f64(), "{report}");

    let architecture = Checkpoint::open(&model).unwrap().architecture;
    let lora = peft::read(&dir.join("first"), &architecture).unwrap();
    assert_eq!((lora.shape.rank, lora.shape.scale), (4, 2.0));
    assert!(lora.layers.iter().all(|layer| layer.iter().any(|v| *v != 0.0)));
    assert!(dir.join("first.gguf").is_file() && dir.join("first.onnx_adapter").is_file());
    assert!(!dir.join("first.state").exists(), "nothing is left of a run that is done");

    said(&run(dir, &model, &data, "second", &[&settings[..4], &held_out].concat()));
    assert!(weights(dir, "first") == weights(dir, "second"));
    let again = run(dir, &model, &data, "first", &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("first exists"));
}

#[test]
fn weights_may_be_kept_in_few_bits() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (model, data) = (model(dir), chats(dir, 4));
    let first_loss = |out: &str, bits: &str| {
        let settings = ["--epochs", "1", "--quantize", bits, "--loss-clip", "20"];
        let told = said(&run(dir, &model, &data, out, &settings));
        told["report"]["losses"][0].as_f64().unwrap()
    };
    let (floats, eight, four) =
        (first_loss("floats", "none"), first_loss("eight", "8"), first_loss("four", "4"));
    let apart = |loss: f64| (loss - floats).abs() / floats;
    assert!(apart(eight) > 0.0 && apart(eight) < 0.01, "{eight} and {floats}");
    assert!(apart(four) > apart(eight) && apart(four) < 0.1, "{four} and {floats}");
    let wrong = run(dir, &model, &data, "wrong", &["--quantize", "5"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("none, stored, 4 or 8"));
}

#[tokio::test]
async fn a_run_that_was_interrupted_goes_on_to_the_adapter_of_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (model, data) = (model(dir), chats(dir, 8));
    let settings = ["--epochs", "40", "--save-every", "5"];
    said(&run(dir, &model, &data, "whole", &settings));
    let mut child = command(dir, &model, &data, "parts", &settings)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let state = dir.join("parts.state/state.safetensors");
    until("a state to be saved", || state.exists().then_some(())).await;
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ended = child.wait().unwrap();
    // On a machine that computes faster than a signal travels it may be done.
    if ended.code() == Some(1) {
        assert!(state.exists(), "what was reached is kept");
        let told = said(&run(dir, &model, &data, "parts", &settings));
        assert_eq!(told["report"]["step"], 80);
    } else {
        assert_eq!(ended.code(), Some(0));
    }
    assert!(weights(dir, "whole") == weights(dir, "parts"));
}

#[test]
fn a_run_that_goes_wrong_says_so_and_leaves_an_adapter_from_before() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (model, data) = (model(dir), chats(dir, 8));
    let settings = ["--learning-rate", "1e30", "--clip", "0", "--warmup", "0", "--save-every", "1"];
    let output = run(dir, &model, &data, "wrong", &settings);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("at step 2") && message.contains("after step 0"), "{message}");
    let text = String::from_utf8_lossy(&output.stdout);
    let told: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert!(told["report"]["ended"]["diverged"].is_string(), "{told}");
    let lora = peft::read(&dir.join("wrong"), &Checkpoint::open(&model).unwrap().architecture).unwrap();
    assert!(lora.layers.iter().flatten().all(|value| value.abs() < 1.0), "as it was begun");
    assert!(!dir.join("wrong.state").exists(), "the state is that of the step that went wrong");
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (model, data) = (model(dir), dir.join("bad.jsonl"));
    fs::write(&data, "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n{\"messages\": 3}\n")
        .unwrap();
    let refused = |data: &Path, more: &[&str]| {
        let output = run(dir, &model, data, "never", more);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = refused(&data, &[]);
    assert!(code == Some(1) && message.contains("bad.jsonl:"), "{code:?} {message}");
    let good = chats(dir, 3);
    let (code, message) = refused(&good, &["--targets", "q_proj,x_proj"]);
    assert!(code == Some(2) && message.contains("gate_proj"), "{message}");
    let (code, message) = refused(&good, &["--batch", "0"]);
    assert!(code == Some(2) && message.contains("--batch is 1 or more"), "{message}");
    let (code, message) = refused(&good, &["--context", "6"]);
    assert!(code == Some(1) && message.contains("chat 1 is left out"), "{message}");
    assert!(!dir.join("never").exists());
}
