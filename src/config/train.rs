use serde::{Deserialize, Serialize};

use super::Quantize;

/// `train:` — adapters from what was recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// When it runs: a crontab line in local time; null: only by hand.
    pub schedule: Option<String>,
    /// The base model: `default`, a GGUF file or a directory of safetensors; null: none is trained on a schedule.
    pub model: Option<String>,
    /// `tenant/app` of those to train for; empty: of all.
    pub scopes: Vec<String>,
    pub examples: TrainExamples,
    pub lora: TrainLora,
    pub gate: TrainGate,
    /// Threads that train and evaluate; 0: one a core.
    pub threads: u16,
    /// What the process adds to its nice value, 0 to 19.
    pub nice: u8,
}

/// `train.examples:` — what is learned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainExamples {
    /// With fewer to train on, a scope is left for a later night.
    pub least: usize,
    /// More are left out, the oldest first.
    pub most: usize,
    /// Whether corrections are answers, to be learned word for word.
    pub corrections: bool,
    /// Probability of success from which a trajectory is learned from, more than 0.5.
    pub confidence: f64,
    /// Share of conversations that are held out for the gate, between 0 and 1.
    pub held_out: f64,
    /// Tokens of a night's examples in all, prompts included.
    pub tokens: usize,
}

/// `train.lora:` — how it is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainLora {
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f32,
    /// The highest; reached after `warmup` steps, then falling along a cosine.
    pub learning_rate: f64,
    pub warmup: u64,
    pub epochs: f64,
    /// Examples a step.
    pub batch: usize,
    /// General texts a step beside them, on which the model is held to its base: they keep what it knows. 0: none.
    pub replay: usize,
    /// What the loss on general text counts against that on the examples.
    pub replay_weight: f64,
    /// What one token's loss counts at most, in nats; 0: all of it.
    pub loss_clip: f64,
    /// Tokens of an example at most; longer ones are left out.
    pub context: usize,
    pub seed: u64,
    /// How the model's own weights are kept while it is trained and examined.
    pub quantize: Quantize,
}

/// `train.gate:` — what an adapter must show before it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainGate {
    /// Held-out conversations that are answered, at most.
    pub prompts: usize,
    /// Worked examples in the prompt that the base is tried with, at most: its best prompt is what the adapter has to
    /// beat.
    pub worked: usize,
    /// Tokens of an answer at most.
    pub answer: usize,
    /// By this share the held-out loss has to be lower.
    pub loss: f64,
    /// By this much the mean score of held-out answers (0 to 1) has to be higher.
    pub gain: f64,
    /// The exact sign test's significance level.
    pub alpha: f64,
    /// Perplexity on general text may rise by this share.
    pub perplexity: f64,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            schedule: None,
            model: None,
            scopes: Vec::new(),
            examples: TrainExamples::default(),
            lora: TrainLora::default(),
            gate: TrainGate::default(),
            threads: 0,
            nice: 10,
        }
    }
}

impl Default for TrainExamples {
    fn default() -> Self {
        Self { least: 20, most: 2_000, corrections: true, confidence: 0.9, held_out: 0.25, tokens: 200_000 }
    }
}

impl Default for TrainLora {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            learning_rate: 1e-3,
            warmup: 10,
            epochs: 5.0,
            batch: 4,
            replay: 2,
            replay_weight: 1.0,
            loss_clip: 0.0,
            context: 1024,
            seed: 0,
            quantize: Quantize::None,
        }
    }
}

impl Default for TrainGate {
    fn default() -> Self {
        Self { prompts: 60, worked: 4, answer: 128, loss: 0.02, gain: 0.05, alpha: 0.05, perplexity: 0.05 }
    }
}

/// Tenant and app of `tenant/app`.
#[must_use]
pub fn parse_scope(text: &str) -> Option<(&str, &str)> {
    text.split_once('/').filter(|(tenant, app)| !tenant.is_empty() && !app.is_empty() && !app.contains('/'))
}

impl Train {
    pub(super) fn check(&self, wrong: &mut impl FnMut(&str, String)) {
        let mut wrong = |path: &str, message: String| wrong(&format!("train.{path}"), message);
        if let Some(text) = &self.schedule {
            if let Err(reason) = super::parse_schedule(text) {
                wrong("schedule", reason);
            }
            if self.model.is_none() {
                wrong("model", "a schedule needs a model: default, a GGUF file or a directory".into());
            }
        }
        for (i, text) in self.scopes.iter().enumerate() {
            if parse_scope(text).is_none() {
                wrong(&format!("scopes[{i}]"), format!("{text:?} is no tenant/app, such as default/default"));
            }
        }
        let (examples, lora, gate) = (&self.examples, &self.lora, &self.gate);
        for (path, good, what) in [
            ("examples.least", examples.least > 0, "must be at least 1"),
            ("examples.most", examples.most >= examples.least, "is less than train.examples.least"),
            (
                "examples.confidence",
                examples.confidence > 0.5 && examples.confidence <= 1.0,
                "must be more than 0.5 and at most 1",
            ),
            (
                "examples.held_out",
                examples.held_out > 0.0 && examples.held_out < 1.0,
                "must be between 0 and 1: nothing is learned that is not tested",
            ),
            ("lora.rank", (1..=512).contains(&lora.rank), "must be from 1 to 512"),
            ("lora.alpha", lora.alpha > 0.0 && lora.alpha.is_finite(), "must be more than 0"),
            (
                "lora.learning_rate",
                lora.learning_rate > 0.0 && lora.learning_rate < 1.0,
                "must be between 0 and 1",
            ),
            ("lora.epochs", lora.epochs > 0.0 && lora.epochs <= 1000.0, "must be more than 0, at most 1000"),
            ("lora.replay", lora.replay <= 64, "must be at most 64"),
            ("lora.replay_weight", (0.0..=100.0).contains(&lora.replay_weight), "must be from 0 to 100"),
            ("lora.loss_clip", (0.0..=1000.0).contains(&lora.loss_clip), "must be from 0 to 1000"),
            ("lora.batch", lora.batch > 0, "must be at least 1"),
            ("lora.context", lora.context >= 16, "must be at least 16"),
            ("gate.prompts", gate.prompts > 0, "must be at least 1"),
            ("gate.answer", gate.answer > 0, "must be at least 1"),
            ("gate.loss", (0.0..1.0).contains(&gate.loss), "must be from 0 to less than 1"),
            ("gate.gain", (0.0..1.0).contains(&gate.gain), "must be from 0 to less than 1"),
            ("gate.alpha", gate.alpha > 0.0 && gate.alpha <= 0.5, "must be more than 0 and at most 0.5"),
            ("gate.perplexity", gate.perplexity >= 0.0 && gate.perplexity.is_finite(), "must be 0 or more"),
            ("nice", self.nice <= 19, "must be at most 19"),
        ] {
            if !good {
                wrong(path, what.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn every_wrong_setting_of_a_night_is_named() {
        let yaml = "train:\n  schedule: nightly\n  scopes: [mine]\n  nice: 20\n  examples: {held_out: 1, confidence: 0.4}\n  \
            lora: {rank: 0, learning_rate: 2}\n  gate: {alpha: 0}\n";
        let said = Config::from_yaml(yaml, "test", |_| None).expect_err("nearly all is wrong").to_string();
        for path in [
            "schedule",
            "model",
            "scopes[0]",
            "nice",
            "examples.held_out",
            "examples.confidence",
            "lora.rank",
            "lora.learning_rate",
            "gate.alpha",
        ] {
            assert!(said.contains(&format!("train.{path}: ")), "{path} is missing in {said}");
        }
    }
}
