//! The graph of a forward pass with a cache.
//!
//! ```text
//! x [B, S, D] ─▶ layers ─▶ rows picked ─▶ norm ─▶ logits [R, V]
//!                  │ ▲
//!                  ▼ │ keys, values [B, KV, capacity, head_dim], read and written in place
//! ```
//!
//! Each of the B rows is a sequence of its own length; S tokens of it are new. S > 1 only with B = 1: then what the cache
//! holds comes before them.
//!
//! Adapters: of each linear map's group (`onnx::lora::GROUPS`) the A matrices of all adapters in this run are one matrix
//! `[lanes, in]`, the B matrices another `[lanes, out]`. `((x·Aᵀ) ∘ mask)·B` with a mask `[B, 1, lanes]` that is an
//! adapter's scale at its lanes in the rows that ask for it and 0 elsewhere is exact for every row, whatever ranks are
//! mixed. Without adapters there are 0 lanes.

use super::OnnxEngineError;
use super::lanes::name_of;
use super::linear::{Linear, Source};
use crate::onnx::checkpoint::{LayerPart, Part};
use crate::onnx::graph::{Attribute, Dim, F32, Graph, I64, MICROSOFT, Var};
use crate::onnx::llama::Architecture;
use crate::onnx::llama::weights::rotary_tables;
use crate::onnx::lora::{Factor, GROUPS};
use crate::onnx::program::{Program, Runtime};

/// Names of inputs and outputs; those of a layer have its number after them.
pub(super) const STREAM: &str = "x";
pub(super) const LAST: &str = "last_position";
pub(super) const TOTAL: &str = "longest";
/// Only where [`rotates_itself`] says no.
pub(super) const POSITIONS: &str = "positions";
pub(super) const PICKED: &str = "picked";
pub(super) const LOGITS: &str = "logits";

/// The names of a layer's cache, key and value: input, output.
pub(super) fn cache_names(layer: usize) -> [(String, String); 2] {
    ["key", "value"].map(|what| (format!("{what}.{layer}"), format!("{what}.{layer}.out")))
}

struct Builder<'a> {
    g: Graph,
    model: &'a Architecture,
    source: &'a Source<'a>,
    with: With,
    /// Of groups of 1, 2 and 3 projections.
    masks: [Var; 3],
    last: Var,
    total: Var,
    positions: Var,
    cos: Var,
    sin: Var,
}

const INT32: ort::value::TensorElementType = ort::value::TensorElementType::Int32;

/// What a forward pass adds to the base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum With {
    Nothing,
    Adapters,
}

/// A forward pass over at most `context` positions.
pub(super) fn program(
    runtime: &Runtime,
    source: &Source<'_>,
    context: usize,
    with: With,
) -> Result<Program, OnnxEngineError> {
    let model = &source.checkpoint.architecture;
    let mut g = Graph::new();
    let stream = [Dim::Named("B"), Dim::Named("S"), model.hidden.into()];
    let x = g.input(STREAM, &stream, F32);
    let [cos, sin] =
        rotary_tables(model, context).map(|table| g.floats(&table, &[context, model.head_dim / 2]));
    let masks = [1, 2, 3].map(|width: usize| {
        g.input(format!("mask.{width}"), &[Dim::Named("B"), Dim::Size(1), lanes(width)], F32)
    });
    let last = g.input(LAST, &[Dim::Named("B")], INT32);
    let total = g.input(TOTAL, &[Dim::Size(1)], INT32);
    let positions = g.input(POSITIONS, &stream[..2], I64);
    let mut builder = Builder { g, model, source, with, masks, last, total, positions, cos, sin };
    let mut outputs = Vec::new();
    let mut h = (x, None);
    for layer in 0..model.layers {
        h = builder.layer(layer, h, &mut outputs)?;
    }
    let logits = builder.logits(h)?;
    let mut named: Vec<(&str, Var)> = vec![(LOGITS, logits)];
    named.extend(outputs.iter().map(|(name, var)| (name.as_str(), *var)));
    Ok(builder.g.program(runtime, &named, &[])?)
}

/// Whether the attention operation turns queries and keys as well: it refuses heads of other widths.
fn rotates_itself(model: &Architecture) -> bool {
    model.head_dim.is_multiple_of(16)
}

/// Lanes of a group of `width` projections.
fn lanes(width: usize) -> Dim {
    Dim::Named(["L", "L2", "L3"][width - 1])
}

/// The residual stream: what it was, and what is still to be added to it (done by the norm that comes next).
type Residual = (Var, Option<Var>);

impl Builder<'_> {
    fn layer(
        &mut self,
        layer: usize,
        h: Residual,
        outputs: &mut Vec<(String, Var)>,
    ) -> Result<Residual, OnnxEngineError> {
        let part = |part| Part::Layer(layer, part);
        let (h, x) = self.norm(h, part(LayerPart::AttentionNorm))?;
        let attention = self.attention(layer, x, outputs)?;
        let linear =
            self.source.linear(&[part(LayerPart::AttentionOutput)], |p| p.layer(layer).attention_output)?;
        let out = self.adapted(linear, attention, layer, 1);
        let (h, x) = self.norm((h, Some(out)), part(LayerPart::FeedForwardNorm))?;
        let linear =
            self.source.linear(&[part(LayerPart::Gate), part(LayerPart::Up)], |p| p.layer(layer).gate_up)?;
        let both = self.adapted(linear, x, layer, 2);
        let halves = self.g.split(both, 2, &[self.model.feed_forward; 2]);
        let gate = self.g.silu(halves[0]);
        let gated = self.g.mul(gate, halves[1]);
        let linear = self.source.linear(&[part(LayerPart::Down)], |p| p.layer(layer).down)?;
        let down = self.adapted(linear, gated, layer, 3);
        Ok((h, Some(down)))
    }

    /// The sum of the stream, and its RMS norm.
    fn norm(&mut self, (h, more): Residual, weight: Part) -> Result<(Var, Var), OnnxEngineError> {
        let weight = self.vector(weight)?;
        let epsilon = self.model.norm_epsilon;
        let Some(more) = more else { return Ok((h, self.g.rms_norm(h, weight, epsilon))) };
        let shape = self.g.shape(h).to_vec();
        let mut roots = shape.clone();
        *roots.last_mut().expect("the stream has axes") = Dim::Size(1);
        let outputs = [(shape.clone(), F32), (roots.clone(), F32), (roots, F32), (shape, F32)];
        let attributes = vec![("epsilon", Attribute::Float(epsilon))];
        let inputs = [Some(h), Some(more), Some(weight)];
        let out = self.g.raw("SkipSimplifiedLayerNormalization", MICROSOFT, &inputs, &outputs, attributes);
        Ok((out[3], out[0]))
    }

    fn attention(
        &mut self,
        layer: usize,
        x: Var,
        outputs: &mut Vec<(String, Var)>,
    ) -> Result<Var, OnnxEngineError> {
        let model = self.model;
        let part = |part| Part::Layer(layer, part);
        let parts = [part(LayerPart::Query), part(LayerPart::Key), part(LayerPart::Value)];
        let linear = self.source.linear(&parts, |p| p.layer(layer).qkv)?;
        let mut qkv = self.adapted(linear, x, layer, 0);
        if model.qkv_bias {
            let mut bias = Vec::new();
            for part in [LayerPart::QueryBias, LayerPart::KeyBias, LayerPart::ValueBias] {
                bias.extend(self.source.floats(Part::Layer(layer, part))?);
            }
            let bias = self.g.floats(&bias, &[bias.len()]);
            qkv = self.g.add(qkv, bias);
        }
        let (queries, keys) = (model.query_width(), model.kv_width());
        let rotates = rotates_itself(model);
        let taken = if model.qk_norm || !rotates {
            let parts = self.g.split(qkv, 2, &[queries, keys, keys]);
            let (mut q, mut k) = (parts[0], parts[1]);
            if model.qk_norm {
                q = self.head_norm(q, part(LayerPart::QueryNorm))?;
                k = self.head_norm(k, part(LayerPart::KeyNorm))?;
            }
            if !rotates {
                q = self.g.rotary(q, self.positions, self.cos, self.sin);
                k = self.g.rotary(k, self.positions, self.cos, self.sin);
            }
            [Some(q), Some(k), Some(parts[2])]
        } else {
            [Some(qkv), None, None]
        };
        let held: [Dim; 4] =
            [Dim::Named("B"), model.kv_heads.into(), Dim::Named("capacity"), model.head_dim.into()];
        let names = cache_names(layer);
        let past = names.each_ref().map(|(input, _)| self.g.input(input, &held, F32));
        let small = |n: usize| Attribute::Integer(i64::try_from(n).expect("counts are small"));
        let mut attributes = vec![
            ("num_heads", small(model.heads)),
            ("kv_num_heads", small(model.kv_heads)),
            ("do_rotary", Attribute::Integer(rotates.into())),
        ];
        if let Some(window) = model.sliding_window {
            attributes.push(("local_window_size", small(window)));
        }
        let mut inputs = taken.to_vec();
        inputs.extend([past[0], past[1], self.last, self.total].map(Some));
        if rotates {
            inputs.extend([self.cos, self.sin].map(Some));
        }
        let mut shape = self.g.shape(x).to_vec();
        shape[2] = queries.into();
        let kinds = [(shape, F32), (held.to_vec(), F32), (held.to_vec(), F32)];
        let out = self.g.raw("GroupQueryAttention", MICROSOFT, &inputs, &kinds, attributes);
        outputs.extend(names.into_iter().map(|(_, output)| output).zip([out[1], out[2]]));
        Ok(out[0])
    }

    /// The RMS norm of each head of `x [B, S, heads · head_dim]`.
    fn head_norm(&mut self, x: Var, weight: Part) -> Result<Var, OnnxEngineError> {
        let weight = self.vector(weight)?;
        let flat = self.g.shape(x).to_vec();
        let width = self.model.head_dim;
        let heads = [flat[0], flat[1], Dim::Size(flat[2].size() / width), width.into()];
        let x = self.g.reshape(x, &heads);
        let x = self.g.rms_norm(x, weight, self.model.norm_epsilon);
        Ok(self.g.reshape(x, &flat))
    }

    /// `W·x` and what the adapters of this run add to it. `group`: of `onnx::lora::GROUPS`.
    fn adapted(&mut self, linear: Linear, x: Var, layer: usize, group: usize) -> Var {
        let width = GROUPS[group].len();
        let (input, output) = (self.g.shape(x)[2], linear.rows());
        let base = linear.apply(&mut self.g, x, &format!("layer{layer}.{group}"));
        if self.with == With::Nothing {
            return base;
        }
        let down = self.g.input(name_of(layer, group, Factor::A), &[lanes(width), input], F32);
        let up = self.g.input(name_of(layer, group, Factor::B), &[lanes(width), output.into()], F32);
        let inner = self.g.linear(x, down);
        let masked = self.g.mul(inner, self.masks[width - 1]);
        let added = self.g.matmul(masked, up);
        self.g.add(base, added)
    }

    fn logits(&mut self, (h, more): Residual) -> Result<Var, OnnxEngineError> {
        let model = self.model;
        let h = self.g.add(h, more.expect("models have layers"));
        let rows = self.g.reshape(h, &[Dim::Named("N"), model.hidden.into()]);
        let picked = self.g.input(PICKED, &[Dim::Named("R")], I64);
        let rows = self.g.gather(rows, picked);
        let weight = self.vector(Part::Norm)?;
        let x = self.g.rms_norm(rows, weight, model.norm_epsilon);
        let part = if model.tied { Part::Embedding } else { Part::Output };
        let linear = self.source.linear(&[part], |p| p.output())?;
        let x = self.g.reshape(x, &[Dim::Named("R"), Dim::Size(1), model.hidden.into()]);
        let logits = linear.apply(&mut self.g, x, "output");
        Ok(self.g.reshape(logits, &[Dim::Named("R"), model.vocabulary.into()]))
    }

    fn vector(&mut self, part: Part) -> Result<Var, OnnxEngineError> {
        let values = self.source.floats(part)?;
        Ok(self.g.floats(&values, &[values.len()]))
    }
}
