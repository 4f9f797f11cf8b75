use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::adapters::open;
use super::progress::Bars;
use super::{Common, Outcome, output};
use crate::adapters::{gguf, ort_file, peft};
use crate::onnx::checkpoint::Checkpoint;
use crate::onnx::provision::model_path;

/// Write an adapter as a file for another program.
#[derive(Args, Debug)]
pub(super) struct Export {
    #[command(flatten)]
    common: Common,
    /// An id, its beginning or its end, an alias, or a PEFT directory.
    #[arg(value_name = "ID|ALIAS|DIR")]
    adapter: String,
    /// gguf: for llama.cpp; onnx: .onnx_adapter, for ONNX Runtime; peft: a PEFT directory in f32.
    #[arg(long)]
    format: Format,
    /// The base model: default, a GGUF file or a directory of safetensors.
    #[arg(long, value_name = "default|PATH")]
    model: String,
    /// Must not be there yet.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Gguf,
    Onnx,
    Peft,
}

impl Export {
    pub fn run(self) -> Outcome {
        let (config, registry) = open(&self.common)?;
        let given = PathBuf::from(&self.adapter);
        let directory =
            if given.is_dir() { given } else { registry.directory(registry.find(&self.adapter)?) };
        let model = model_path(&config.onnx, &self.model, &Bars::default())?;
        let model = Checkpoint::open(&model)?.architecture;
        let lora = peft::read(&directory, &model)?;
        match self.format {
            Format::Gguf => gguf::write(&self.out, &lora, &model, &self.adapter)?,
            Format::Onnx => ort_file::write(&self.out, &lora, &model, 1)?,
            Format::Peft => {
                let base = peft::PeftConfig::read(&directory)?.base_model.unwrap_or_default();
                peft::write(&self.out, &lora, &model, &base)?;
            }
        }
        Ok(output::line(format_args!("written to {}", self.out.display()))?)
    }
}
