//! Failures as points, so that alike failures are near. By how they failed rather than what they were about: on
//! plain text, clusters follow the topic.

use sha2::{Digest, Sha256};

use super::case::Case;
use crate::search::{EmbedError, Embedder};

/// Changes whenever the layout does: centroids of different layouts do not compare.
const LAYOUT: &str = "f1";

/// Dimensions and weight of each block. A block is scaled to its weight, so that no block counts for its length.
const TOOLS: (usize, f32) = (64, 1.0);
const ERROR: (usize, f32) = (96, 1.0);
const PLACE: (usize, f32) = (64, 0.7);
const SHAPE: (usize, f32) = (8, 0.3);
const TEXT: (usize, f32) = (64, 0.5);
const LENGTH: usize = TOOLS.0 + ERROR.0 + PLACE.0 + SHAPE.0 + TEXT.0;

/// Reading says less about a failure than changing.
const READ_WEIGHT: f32 = 0.25;

/// The name of the feature space with this embedder.
#[must_use]
pub(super) fn space(embedder: &dyn Embedder) -> String {
    format!("{LAYOUT}/{}", embedder.name())
}

/// One row a case, `[cases, LENGTH]`, f32, each of L2 norm 1. `progress` gets how many texts are embedded.
pub(super) fn features(
    cases: &[&Case],
    embedder: &dyn Embedder,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Vec<f32>>, EmbedError> {
    let mut rows = Vec::with_capacity(cases.len());
    for batch in cases.chunks(64) {
        let tails: Vec<&str> = batch.iter().map(|c| c.tail.as_str()).collect();
        for (case, tail) in batch.iter().zip(embedder.embed(&tails)?) {
            rows.push(row(case, &project(&tail)));
        }
        progress(rows.len() as u64);
    }
    Ok(rows)
}

fn row(case: &Case, text: &[f32]) -> Vec<f32> {
    let mut row = Vec::with_capacity(LENGTH);
    let mut block = |mut values: Vec<f32>, weight: f32| {
        scale(&mut values, weight);
        row.append(&mut values);
    };

    let mut tools = vec![0.0; TOOLS.0];
    for action in &case.actions {
        let weight = if action.changes_something() { 1.0 } else { READ_WEIGHT };
        tools[slot(&action.name, TOOLS.0)] += weight;
    }
    // The second call of a tool says less than the first.
    tools.iter_mut().for_each(|x| *x = x.ln_1p());
    block(tools, TOOLS.1);

    let signature = &case.signature;
    let mut error = vec![0.0; ERROR.0];
    error[slot(&format!("class {}", signature.class), ERROR.0)] += 1.0;
    let words: Vec<String> = words(&signature.text).collect();
    let share = 1.5 / (words.len().max(1) as f32).sqrt();
    for word in &words {
        error[slot(word, ERROR.0)] += share;
    }
    block(error, ERROR.1);

    let mut place = vec![0.0; PLACE.0];
    if let Some(tool) = &signature.tool {
        place[slot(tool, PLACE.0)] += 1.0;
    }
    for argument in &signature.arguments {
        place[slot(&format!("argument {argument}"), PLACE.0)] += 0.4;
    }
    let head = case.failing.and_then(|i| case.actions[i].head.as_deref());
    if let Some(head) = head {
        place[slot(&format!("head {head}"), PLACE.0)] += 0.5;
    }
    block(place, PLACE.1);

    let count = |n: usize| (n as f32).ln_1p();
    block(
        vec![
            count(case.turns),
            count(case.user_turns),
            count(case.actions.len()),
            2.0 * count(case.repeats()),
            2.0 * count(case.errors()),
            f32::from(u8::from(case.cut_off)) * 2.0,
            f32::from(u8::from(case.actions.is_empty())) * 2.0,
            f32::from(u8::from(!case.actions.iter().any(super::actions::Action::changes_something))),
        ],
        SHAPE.1,
    );
    block(text.to_vec(), TEXT.1);
    scale(&mut row, 1.0);
    row
}

/// Words and pairs of words.
fn words(text: &str) -> impl Iterator<Item = String> {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric() && c != '<' && c != '>')
        .filter(|w| w.len() > 1)
        .map(str::to_lowercase)
        .collect();
    let pairs: Vec<String> = words.windows(2).map(|w| w.join(" ")).collect();
    words.into_iter().chain(pairs)
}

fn slot(name: &str, of: usize) -> usize {
    let digest = Sha256::digest(name);
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]) as usize % of
}

/// An embedding of any length as [`TEXT`] dimensions: a fixed sparse sign projection keeps angles well enough for a
/// block of half weight (Achlioptas 2003) and the distances cheap.
fn project(vector: &[f32]) -> Vec<f32> {
    if vector.len() <= TEXT.0 {
        let mut padded = vector.to_vec();
        padded.resize(TEXT.0, 0.0);
        return padded;
    }
    let mut out = vec![0.0; TEXT.0];
    let mut random = super::random::Random::new(0x5eed);
    for x in vector {
        for _ in 0..4 {
            let r = random.next();
            let sign = if r & 1 == 0 { 1.0 } else { -1.0 };
            out[(r >> 1) as usize % TEXT.0] += sign * x;
        }
    }
    out
}

/// Scales to an L2 norm; zeros stay zeros.
pub(super) fn scale(values: &mut [f32], to: f32) {
    let norm = values.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 1e-9 {
        values.iter_mut().for_each(|x| *x *= to / norm);
    }
}

/// Cosine distance of two rows of norm 1: 0 to 2.
#[must_use]
pub(super) fn distance(a: &[f32], b: &[f32]) -> f64 {
    let dot: f32 = a.iter().zip(b).map(|(x, y)| x * y).sum();
    f64::from((1.0 - dot).max(0.0))
}

/// The mean of rows, scaled to norm 1.
#[must_use]
pub(super) fn mean<'a>(rows: impl IntoIterator<Item = &'a Vec<f32>>) -> Vec<f32> {
    let mut sum: Vec<f32> = Vec::new();
    for row in rows {
        sum.resize(row.len(), 0.0);
        sum.iter_mut().zip(row).for_each(|(s, x)| *s += x);
    }
    scale(&mut sum, 1.0);
    sum
}
