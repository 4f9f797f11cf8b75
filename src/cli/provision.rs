use clap::Args;
use serde_json::json;

use super::{Common, Failure, Outcome, output};

/// Find or fetch ONNX Runtime and the embedding model, so that nothing is fetched later.
#[derive(Args, Debug)]
pub(super) struct Provision {
    #[command(flatten)]
    common: Common,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
}

impl Provision {
    #[cfg(feature = "onnx")]
    pub fn run(self) -> Outcome {
        use super::progress::Bars;
        use crate::onnx::provision;

        let config = self.common.load()?;
        let found = provision::locate_or_fetch(&config.onnx, &Bars::default())?;
        let parts = [
            ("ONNX Runtime", &found.library),
            ("embedding model", &found.model),
            ("tokenizer", &found.tokenizer),
        ];
        if self.json {
            return Ok(output::json_line(&json!({
                "library": found.library.path, "model": found.model.path, "tokenizer": found.tokenizer.path,
            }))?);
        }
        for (what, part) in parts {
            output::line(format_args!("{what:<16} {}  ({})", part.path.display(), part.origin))?;
        }
        Ok(())
    }

    #[cfg(not(feature = "onnx"))]
    pub fn run(self) -> Outcome {
        let _ = (self.common, self.json, json!(null), output::json_line::<()>);
        Err(Failure::Failed(anyhow::anyhow!("this binary was built without ONNX Runtime (feature `onnx`)")))
    }
}

#[cfg(feature = "onnx")]
#[expect(dead_code, reason = "named in the other build only")]
type Unused = Failure;
