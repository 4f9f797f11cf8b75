/// Draws a token: `unit` within [0, 1) picks it from the distribution that `logits` have at `temperature`, cut to the
/// likeliest tokens that together have the probability `top_p` (at least one; Holtzman et al., 2020). `highest` is the
/// highest logit, and finite.
pub(super) fn draw(logits: &[f32], highest: f32, temperature: f64, top_p: f64, unit: f64) -> u32 {
    let weight = |logit: f32| (f64::from(logit - highest) / temperature).exp();
    let sum: f64 = logits.iter().map(|&l| weight(l)).sum();
    if top_p >= 1.0 {
        return pick(logits.iter().map(|&l| weight(l)).enumerate(), unit * sum);
    }
    // What is left out here, less than 1 − top_p in all, cannot be within the nucleus: a few tokens are left to sort.
    let least = (1.0 - top_p) * sum / logits.len() as f64;
    let mut candidates: Vec<(usize, f64)> =
        logits.iter().map(|&l| weight(l)).enumerate().filter(|(_, w)| *w >= least && *w > 0.0).collect();
    candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut mass = 0.0;
    let mut length = 0;
    for (_, weight) in &candidates {
        length += 1;
        mass += weight;
        if mass >= top_p * sum {
            break;
        }
    }
    pick(candidates.into_iter().take(length), unit * mass)
}

/// The first token at which the weights so far exceed `target`.
fn pick(weights: impl Iterator<Item = (usize, f64)>, target: f64) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    for (token, weight) in weights {
        if weight == 0.0 {
            continue;
        }
        sum += weight;
        last = token;
        if sum > target {
            break;
        }
    }
    u32::try_from(last).expect("tokens are 32-bit numbers")
}
