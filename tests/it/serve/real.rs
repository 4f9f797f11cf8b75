//! `remora serve` over a tiny model on ONNX Runtime, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use remora::adapters::peft;
use remora::onnx::checkpoint::Checkpoint;
use remora::onnx::lora::{Lora, LoraShape, Projection};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::value;
use crate::harness::{Answer, Connection, until};

/// A server process, killed when dropped.
struct Process {
    child: Child,
    url: String,
}

pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/engine/qwen3")
}

impl Process {
    async fn start(scratch: &Path) -> Self {
        let ready = scratch.join("ready.json");
        let config = scratch.join("remora.yaml");
        std::fs::write(&config, "serve:\n  slots: 8\n  context: 128\n  threads: 1\nonnx:\n  device: cpu\n")
            .expect("written");
        let child = Command::new(env!("CARGO_BIN_EXE_remora"))
            .args(["serve", "--listen", "127.0.0.1:0", "--json", "--model"])
            .arg(tiny())
            .args([Path::new("--config"), &config, Path::new("--ready-file"), &ready])
            .args([Path::new("--data"), &scratch.join("data")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut process = Self { child, url: String::new() };
        let found = until("the server to listen", || {
            let ended = process.child.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "it ended at the start: {ended:?}");
            serde_json::from_slice::<Value>(&std::fs::read(&ready).ok()?).ok()
        })
        .await;
        assert_eq!(found["pid"], process.child.id());
        process.url = found["serve"].as_str().expect("a URL").to_owned();
        process
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let mut connection = Connection::open(&self.url).await;
        connection.post(path, "", body.to_string().as_bytes()).await;
        connection.answer().await
    }

    /// The tokens that a model says after a prompt of tokens.
    async fn says(&self, model: &str, seed: u32) -> Value {
        let prompt: Vec<u32> = (0..10 + seed % 7).map(|at| 3 + (at * 17 + seed * 29) % 90).collect();
        let body = json!({"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 24, "ignore_eos": true,
            "logprobs": 0, "return_tokens_as_token_ids": true});
        let answer = self.post("/v1/completions", &body).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        value(&answer)["choices"][0]["logprobs"]["tokens"].clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A PEFT directory with an adapter that changes what the tiny model says.
pub fn adapter(dir: &Path, number: u32) -> PathBuf {
    let model = Checkpoint::open(&tiny()).expect("a checkpoint").architecture;
    let shape = LoraShape::new(4, 2.0, &Projection::ALL);
    let mut state = number;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    let layers = (0..model.layers).map(|_| (0..shape.len(&model)).map(|_| next()).collect()).collect();
    let path = dir.join(format!("adapter-{number}"));
    peft::write(&path, &Lora { shape, layers }, &model, "tiny").expect("written");
    path
}

#[tokio::test]
async fn a_model_and_its_adapters_answer_together_as_each_does_alone() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut process = Process::start(scratch.path()).await;
    for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
        let path = adapter(scratch.path(), number);
        let loaded =
            process.post("/v1/load_lora_adapter", &json!({"lora_name": name, "lora_path": path})).await;
        assert_eq!(loaded.status, 200, "{}", String::from_utf8_lossy(&loaded.body));
    }
    let models = ["qwen3", "a", "b", "c"];
    let of = |at: u32| models[at as usize % 4];
    let mut alone = Vec::new();
    for at in 0..8 {
        alone.push(process.says(of(at), at).await);
    }
    assert_ne!(process.says("a", 0).await, alone[0], "the adapter says something else");
    let process_ref = &process;
    let together = (0..8).map(|at| process_ref.says(of(at), at));
    let together = join(together.collect()).await;
    assert_eq!(together, alone);

    let unfit = process.post("/v1/load_lora_adapter", &json!({"lora_name": "x", "lora_path": tiny()})).await;
    assert_eq!(unfit.status, 400);

    let pid = i32::try_from(process.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::TERM).expect("it runs");
    let status = until("it to end", || process.child.try_wait().expect("it can be asked")).await;
    assert!(status.success(), "{status}");
}

/// Runs all of them at once.
async fn join<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}
