use clap::Args;
use serde_json::json;

use super::progress::Bars;
use super::{Common, Outcome, output};
use crate::onnx::provision::{self, Located, Origin};

/// Find or fetch ONNX Runtime and the embedding model, so that nothing is fetched later. The default language model, which
/// is fetched on need, comes along with `--model default`.
#[derive(Args, Debug)]
pub(super) struct Provision {
    #[command(flatten)]
    common: Common,
    /// A language model to have as well: `default`, or a path to look at.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
}

impl Provision {
    pub fn run(self) -> Outcome {
        let config = self.common.load()?;
        let found = provision::locate_or_fetch(&config.onnx, &Bars::default())?;
        let language = match &self.model {
            Some(model) => Some(language_model(&config.onnx, model)?),
            None => None,
        };
        let mut parts = vec![
            ("ONNX Runtime", &found.library),
            ("embedding model", &found.model),
            ("tokenizer", &found.tokenizer),
        ];
        parts.extend(language.as_ref().map(|model| ("language model", model)));
        if self.json {
            return Ok(output::json_line(&json!({
                "library": found.library.path, "model": found.model.path, "tokenizer": found.tokenizer.path,
                "language_model": language.as_ref().map(|model| &model.path),
            }))?);
        }
        for (what, part) in parts {
            output::line(format_args!("{what:<16} {}  ({})", part.path.display(), part.origin))?;
        }
        Ok(())
    }
}

/// Where a model is; whoever names a path of their own is told whether it can be opened.
fn language_model(config: &crate::config::Onnx, model: &str) -> anyhow::Result<Located> {
    if model == provision::DEFAULT_MODEL {
        return Ok(provision::default_model(config, &Bars::default())?);
    }
    let path = provision::model_path(config, model, &Bars::default())?;
    crate::onnx::checkpoint::Checkpoint::open(&path)?;
    Ok(Located { path, origin: Origin::Configuration })
}
