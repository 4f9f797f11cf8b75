//! How fast a run learns, when it does what, and when its numbers cannot be right.

use std::f64::consts::PI;

use super::Options;
use super::state::Reached;

/// Steps over which losses are averaged to see whether a run diverges.
const WINDOW: usize = 8;

/// Whether something that happens every so many steps happens now.
pub(super) fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// The learning rate of a step, counted from 1: a straight rise, then half a cosine down to 0.
pub(super) fn rate(options: &Options, step: u64, steps: u64) -> f64 {
    let warmup = options.warmup.min(steps / 2);
    #[expect(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
    let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    if step <= warmup {
        return options.learning_rate * ratio(step, warmup);
    }
    let along = ratio(step - warmup - 1, steps - warmup);
    options.learning_rate * 0.5 * (1.0 + (PI * along).cos())
}

/// The mean of the last losses, given as their bits.
pub(super) fn recent(losses: &[u64]) -> f64 {
    mean(&losses[losses.len().saturating_sub(WINDOW)..])
}

#[expect(clippy::cast_precision_loss, reason = "windows are small")]
fn mean(losses: &[u64]) -> f64 {
    losses.iter().map(|bits| f64::from_bits(*bits)).sum::<f64>() / losses.len() as f64
}

/// Why the numbers of the step after `reached` cannot be right, if so.
pub(super) fn trouble(reached: &Reached, loss: f64, norm: f64) -> Option<String> {
    let step = reached.step + 1;
    if !loss.is_finite() || !norm.is_finite() {
        return Some(format!("at step {step} the loss was {loss} and the gradient's norm {norm}"));
    }
    let losses = &reached.losses;
    if losses.len() < 2 * WINDOW {
        return None;
    }
    let (first, last) = (mean(&losses[..WINDOW]), recent(losses));
    (last > 2.0 * first + 1.0)
        .then(|| format!("at step {step} the loss had risen from {first:.3} to {last:.3}"))
}
