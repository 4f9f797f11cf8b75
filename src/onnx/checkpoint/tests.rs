use super::*;
use crate::config;
use crate::model::Silent;

fn default_model() -> Checkpoint {
    let path = crate::onnx::provision::default_model(&config::Onnx::default(), &Silent).unwrap().path;
    Checkpoint::open(&path).unwrap()
}

#[test]
fn time_it() {
    let t = std::time::Instant::now();
    let path = crate::onnx::provision::default_model(&config::Onnx::default(), &Silent).unwrap().path;
    eprintln!("provision {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let c = Checkpoint::open(&path).unwrap();
    eprintln!("open {:?}", t.elapsed());
    let t = std::time::Instant::now();
    eprintln!("{} {:?}", c.hash().unwrap(), t.elapsed());
    let t = std::time::Instant::now();
    let mut n = 0;
    for (part, (r, k)) in parts::of(&c.architecture) {
        let mut out = vec![0.0; r * k];
        c.read(part, &mut out).unwrap();
        n += r * k;
    }
    eprintln!("read {n} {:?}", t.elapsed());
    let t = std::time::Instant::now();
    for (part, _) in parts::of(&c.architecture) {
        c.blocks(part).unwrap();
    }
    eprintln!("blocks {:?}", t.elapsed());
    let d = tempfile::tempdir().unwrap();
    let t = std::time::Instant::now();
    c.prepared(d.path()).unwrap();
    eprintln!("prepared {:?}", t.elapsed());
    let t = std::time::Instant::now();
    c.prepared(d.path()).unwrap();
    eprintln!("prepared again {:?}", t.elapsed());
    eprintln!("{:?} {:?}", c.tokenizer.encode("Hello world 123\n<|im_end|>"), c.tokenizer.stops());
    eprintln!(
        "{:?}",
        c.template.render(
            &[serde_json::json!({"role":"user","content":"hi"})],
            &serde_json::Value::Null,
            true
        )
    );
}
