//! What tests of graphs share.

use super::checkpoint::{LayerPart, Part};
use super::llama::weights::Weights;
use super::llama::{Architecture, Family};
use super::program::{ProgramError, Runtime};
use super::runtime::Device;
use crate::config;

/// The stock library, fetched where it is missing, with one thread.
pub fn runtime() -> Runtime {
    let library = super::provision::library(&config::Onnx::default(), &crate::model::Silent)
        .expect("ONNX Runtime can be had")
        .path;
    Runtime::on(super::runtime::environment(&library, 1, false).expect("it starts"), Device::Cpu)
}

/// Numbers that look random and are the same each time: SplitMix64, Steele et al. 2014.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn uniform(&mut self, low: f32, high: f32, count: usize) -> Vec<f32> {
        #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
        let mut one = || (self.next() >> 40) as f32 / (1_u64 << 24) as f32;
        (0..count).map(|_| low + (high - low) * one()).collect()
    }
}

/// A model of two layers with random weights.
pub fn tiny_weights(runtime: &Runtime, seed: u64) -> Weights {
    let architecture = Architecture {
        family: Family::Llama,
        hidden: 32,
        feed_forward: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        vocabulary: 96,
        norm_epsilon: 1e-5,
        rotary_frequencies: vec![1.0, 0.3, 0.1, 0.03],
        context: 64,
        sliding_window: None,
        qkv_bias: false,
        qk_norm: false,
        tied: true,
    };
    let mut noise = Noise::new(seed);
    let norm = |part| {
        let of_layer = matches!(part, Part::Layer(_, LayerPart::AttentionNorm | LayerPart::FeedForwardNorm));
        of_layer || part == Part::Norm
    };
    Weights::floats(runtime, architecture, |part, count| {
        let values = if norm(part) { vec![1.0; count] } else { noise.uniform(-0.25, 0.25, count) };
        Ok::<_, ProgramError>(values)
    })
    .expect("the weights fit together")
}
