//! Scaled dot-product attention over grouped heads.

use crate::onnx::graph::{Dim, Graph, Op, Var};

use super::Architecture;

/// Names for the extents of the keys that a chunk of queries sees.
const KEYS: [&str; 8] = ["K1", "K2", "K3", "K4", "K5", "K6", "K7", "K8"];

/// The most chunks that queries are cut into.
pub const MOST_CHUNKS: usize = KEYS.len();

/// Causal attention. `query [B, S, H·hd]`, `key` and `value [B, S, KV·hd]`, `mask [B, 1, 1, S, S]` is added to the scores.
/// The result is `[B, S, H·hd]`.
///
/// Queries are taken in `chunks` equal pieces, which must divide S: a piece needs only the keys up to its own end, so with
/// n pieces the work on scores is (n + 1) / 2n of the square, and only a piece's scores are in memory at once.
pub(super) fn attention(
    g: &mut Graph,
    model: &Architecture,
    [query, key, value]: [Var; 3],
    mask: Var,
    chunks: usize,
) -> Var {
    let (b, s) = (Dim::Named("B"), Dim::Named("S"));
    let (kv, hd) = (model.kv_heads, model.head_dim);
    let heads = |g: &mut Graph, x: Var| {
        let split = g.reshape(x, &[b, s, kv.into(), hd.into()]);
        g.transpose(split, &[0, 2, 1, 3])
    };
    let (key, value) = (heads(g, key), heads(g, value));
    if chunks == 1 {
        return chunk(g, model, query, [key, value], mask, (s, s));
    }
    let queries = g.split_evenly(query, 1, chunks, "C");
    let masks = g.split_evenly(mask, 3, chunks, "C");
    let outputs: Vec<Var> = (1..=chunks)
        .map(|part| {
            let name = if part == chunks { "S" } else { KEYS[part - 1] };
            let key = g.prefix(key, 2, part, chunks, name);
            let value = g.prefix(value, 2, part, chunks, name);
            let mask = g.prefix(masks[part - 1], 4, part, chunks, name);
            chunk(g, model, queries[part - 1], [key, value], mask, (Dim::Named("C"), Dim::Named(name)))
        })
        .collect();
    g.concat(&outputs, 1, s)
}

/// Attention of some queries over some keys. The heads of a group are rows of one matrix, so keys are not repeated.
fn chunk(
    g: &mut Graph,
    model: &Architecture,
    query: Var,
    [key, value]: [Var; 2],
    mask: Var,
    (rows, keys): (Dim, Dim),
) -> Var {
    let (b, kv, hd) = (Dim::Named("B"), Dim::Size(model.kv_heads), Dim::Size(model.head_dim));
    let group = Dim::Size(model.heads / model.kv_heads);
    let joined = Dim::Named("GC");
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
    let scale = (model.head_dim as f32).sqrt().recip();

    let query = g.reshape(query, &[b, rows, kv, group, hd]);
    let query = g.transpose(query, &[0, 2, 3, 1, 4]);
    let upto_rows = g.extents_of(query, 0..4);
    let query = g.reshape(query, &[b, kv, joined, hd]);
    let joined_scores = g.matmul_with(query, key, false, true, scale);
    // The mask is the same for all heads of a group.
    let rest = g.integers(&[-1]);
    let extents = g.concat(&[upto_rows, rest], 0, Dim::Size(5));
    let scores = g.reshape_to(joined_scores, extents, &[b, kv, group, rows, keys]);
    let scores = g.add(scores, mask);
    let weights = g.softmax(scores);
    let joined_weights = g.reshape_like(weights, joined_scores);
    let output = g.matmul(joined_weights, value);
    *g.op_mut(weights) = Op::Softmax { output: Some(output) };
    let output = g.reshape(output, &[b, kv, group, rows, hd]);
    let output = g.transpose(output, &[0, 3, 1, 2, 4]);
    g.reshape(output, &[b, rows, model.query_width().into()])
}
