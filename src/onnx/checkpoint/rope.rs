//! The angles by which positions turn.

/// How a model was stretched to a longer context than it was first trained for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scaling {
    None,
    /// Positions divided by a factor.
    Linear(f64),
    /// Llama 3.1's: slow rotations divided, fast ones left, those between interpolated.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original_context: f64,
    },
    /// GGUF writes what each frequency is divided by, `[head_dim / 2]`.
    Divided(Vec<f32>),
}

/// Radians a position for each pair of dimensions, `[head_dim / 2]`: `theta^(-2i / head_dim)`, scaled.
///
/// The formula of Llama 3.1 is that of `apply_scaling` in Meta's `llama-models`, also in Hugging Face's
/// `modeling_rope_utils.py`.
pub(super) fn frequencies(theta: f64, head_dim: usize, scaling: &Scaling) -> Vec<f64> {
    let scaled = |(i, frequency): (usize, f64)| match scaling {
        Scaling::None => frequency,
        Scaling::Linear(factor) => frequency / factor,
        Scaling::Divided(by) => by.get(i).map_or(frequency, |by| frequency / f64::from(*by)),
        Scaling::Llama3 { factor, low, high, original_context } => {
            let turns = original_context * frequency / std::f64::consts::TAU;
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    };
    (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64)).enumerate().map(scaled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_from_one_turn_by_turn() {
        let plain = frequencies(10_000.0, 4, &Scaling::None);
        assert_eq!(plain, [1.0, 0.01]);
        assert_eq!(frequencies(10_000.0, 4, &Scaling::Linear(4.0)), [0.25, 0.0025]);
        assert_eq!(frequencies(10_000.0, 4, &Scaling::Divided(vec![1.0, 2.0])), [1.0, 0.005]);
    }

    /// `transformers.modeling_rope_utils` for Llama 3.2 1B: theta 500000, head_dim 64, factor 32, 1 to 4, 8192.
    #[test]
    fn llama_3_scaling_is_that_of_transformers() {
        let scaling = Scaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original_context: 8192.0 };
        let ours = frequencies(500_000.0, 64, &scaling);
        let golden =
            [(0, 1.0), (14, 3.211_446e-3), (16, 4.295_567e-4), (18, 1.946_163_8e-5), (31, 9.418_306e-8)];
        for (i, expected) in golden {
            assert!((ours[i] / expected - 1.0).abs() < 1e-5, "{i}: {} is not {expected}", ours[i]);
        }
    }
}
