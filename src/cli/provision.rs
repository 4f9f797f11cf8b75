use clap::Args;
use serde_json::json;

use super::progress::Bars;
use super::{Common, Outcome, output};
use crate::onnx::provision;

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
    pub fn run(self) -> Outcome {
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
}
