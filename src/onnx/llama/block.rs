//! One decoder block with LoRA, forward and backward.
//!
//! ```text
//! x  = norm(h)              h1 = h + o(attention(rotate(q(x)), rotate(k(x)), v(x)))
//! x2 = norm(h1)             h2 = h1 + down(silu(gate(x2)) · up(x2))
//! ```
//!
//! where each linear map is `W·x + scale · B·(A·x)`: W frozen, A and B from the layer's flat vector.

use super::Architecture;
use super::attention::attention;
use super::frozen::{Storage, frozen_matrix};
use crate::onnx::graph::{Dim, F32, Graph, I64, Var};
use crate::onnx::lora::{Factor, GROUPS, LoraShape, Projection};
use crate::onnx::program::{Program, ProgramError, Runtime};

/// What a block is built for.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockOptions {
    /// `None`: the base model alone.
    pub lora: Option<LoraShape>,
    /// Of the projections' matrices, in the order of [`Projection::ALL`].
    pub storage: LayerStorage,
    /// Pieces that queries are taken in; S has to be a multiple. See [`super::MOST_CHUNKS`].
    pub chunks: usize,
}

/// How the matrices of a block are given, in the order of [`Projection::ALL`]: files mix formats.
pub type LayerStorage = [Storage; Projection::ALL.len()];

/// What a backward pass is given instead of computing it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The block's input alone: least memory.
    Input,
    /// What large matrix products gave as well; norms, scores and activations are computed again.
    Products,
}

/// The graph of a block.
///
/// Inputs: `h [B, S, D]`, `positions [B, S]`, `cos` and `sin [positions, head_dim / 2]`, `mask [B, 1, 1, S, S]` (added to
/// the scores), `lora [P]`, the weights, and for the backward pass `dh_out [B, S, D]` and `dlora_in [P]`, to which the
/// adapter's gradient is added.
pub struct Block {
    graph: Graph,
    output: Var,
    backward: Option<Backward>,
    products: Vec<(&'static str, Var)>,
}

struct Backward {
    input: Var,
    lora: Var,
    norm: Var,
}

/// Names of the inputs of a block that hold weights.
pub const ATTENTION_NORM: &str = "attention_norm";
pub const FEED_FORWARD_NORM: &str = "feed_forward_norm";
pub const QUERY_NORM: &str = "query_norm";
pub const KEY_NORM: &str = "key_norm";

/// The name of a projection's weight; its bias has `_bias` after it.
#[must_use]
pub fn weight_name(projection: Projection) -> &'static str {
    match projection {
        Projection::Query => "query",
        Projection::Key => "key",
        Projection::Value => "value",
        Projection::Output => "attention_output",
        Projection::Gate => "gate",
        Projection::Up => "up",
        Projection::Down => "down",
    }
}

/// The name of the bias of query, key or value.
#[must_use]
pub fn bias_name(projection: Projection) -> String {
    format!("{}_bias", weight_name(projection))
}

impl Block {
    #[must_use]
    pub fn new(model: &Architecture, options: &BlockOptions) -> Self {
        let mut builder = Builder { g: Graph::new(), model, options, lora: Vec::new() };
        let stream = [Dim::Named("B"), Dim::Named("S"), model.hidden.into()];
        let h = builder.g.input("h", &stream, F32);
        let vector = builder.lora_input();
        let (output, products) = builder.forward(h);
        let mut graph = builder.g;
        let backward = vector.map(|(vector, length)| {
            let dh_out = graph.input("dh_out", &stream, F32);
            let before = graph.input("dlora_in", &[length.into()], F32);
            let gradients = graph.gradient(&[(output, dh_out)], &[h, vector]);
            let lora = graph.add(gradients[1], before);
            let squares = graph.mul(lora, lora);
            let norm = graph.sum(squares, &[0]);
            Backward { input: gradients[0], lora, norm }
        });
        Self { graph, output, backward, products }
    }

    /// `h2 [B, S, D]`, and what a backward pass with this `keep` wants.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the graph.
    pub fn forward(&mut self, runtime: &Runtime, keep: Keep) -> Result<Program, ProgramError> {
        let mut outputs = vec![("h2", self.output)];
        if keep == Keep::Products {
            outputs.extend(&self.products);
        }
        self.graph.program(runtime, &outputs, &[])
    }

    /// `dh [B, S, D]`, `dlora [P]`, and `norm [1]`: the sum of squares of `dlora`.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the graph.
    ///
    /// # Panics
    /// Without an adapter.
    pub fn backward(&mut self, runtime: &Runtime, keep: Keep) -> Result<Program, ProgramError> {
        let back = self.backward.as_ref().expect("a block without an adapter has nothing to train");
        let outputs = [("dh", back.input), ("dlora", back.lora), ("norm", back.norm)];
        let cut = if keep == Keep::Products { self.products.as_slice() } else { &[] };
        self.graph.program(runtime, &outputs, cut)
    }

    /// Names of what [`Keep::Products`] keeps, in the order in which the forward pass gives it, after `h2`.
    #[must_use]
    pub fn products(&self) -> Vec<&'static str> {
        self.products.iter().map(|(name, _)| *name).collect()
    }
}

struct Builder<'a> {
    g: Graph,
    model: &'a Architecture,
    options: &'a BlockOptions,
    /// The adapter's matrices by group: the A's of the group as one, and each B.
    lora: Vec<(Var, Vec<(Projection, Var)>)>,
}

impl Builder<'_> {
    /// The adapter's vector, cut into matrices.
    fn lora_input(&mut self) -> Option<(Var, usize)> {
        let shape = self.options.lora.as_ref()?;
        let pieces = shape.pieces(self.model);
        let length = shape.len(self.model);
        let vector = self.g.input("lora", &[length.into()], F32);
        let (mut sizes, mut matrices) = (Vec::new(), Vec::new());
        for group in GROUPS {
            let of =
                |factor| pieces.iter().filter(move |p| group.contains(&p.projection) && p.factor == factor);
            let Some(first) = of(Factor::A).next() else { continue };
            let rows = of(Factor::A).map(|p| p.rows).sum::<usize>();
            sizes.push(rows * first.columns);
            matrices.push((None, rows, first.columns));
            for piece in of(Factor::B) {
                sizes.push(piece.rows * piece.columns);
                matrices.push((Some(piece.projection), piece.rows, piece.columns));
            }
        }
        let parts = self.g.split(vector, 0, &sizes);
        for (part, (projection, rows, columns)) in parts.into_iter().zip(matrices) {
            let matrix = self.g.reshape(part, &[rows.into(), columns.into()]);
            match (projection, self.lora.last_mut()) {
                (Some(projection), Some((_, outs))) => outs.push((projection, matrix)),
                _ => self.lora.push((matrix, Vec::new())),
            }
        }
        Some((vector, length))
    }

    fn forward(&mut self, h: Var) -> (Var, Vec<(&'static str, Var)>) {
        let model = self.model;
        let (b, s) = (Dim::Named("B"), Dim::Named("S"));
        let half = Dim::Size(model.head_dim / 2);
        let positions = self.g.input("positions", &[b, s], I64);
        let cos = self.g.input("cos", &["positions".into(), half], F32);
        let sin = self.g.input("sin", &["positions".into(), half], F32);
        let mask = self.g.input("mask", &[b, 1.into(), 1.into(), s, s], F32);

        let x = self.norm(h, ATTENTION_NORM, model.hidden);
        let [query, key, value] = self.linears(x, GROUPS[0])[..] else { unreachable!("three projections") };
        let (query, key, value) = (
            self.biased(query, Projection::Query),
            self.biased(key, Projection::Key),
            self.biased(value, Projection::Value),
        );
        let normed_query = self.head_norm(query, QUERY_NORM, model.heads);
        let normed_key = self.head_norm(key, KEY_NORM, model.kv_heads);
        let rotated_query = self.g.rotary(normed_query, positions, cos, sin);
        let rotated_key = self.g.rotary(normed_key, positions, cos, sin);
        let attended =
            attention(&mut self.g, model, [rotated_query, rotated_key, value], mask, self.options.chunks);
        let attention_out = self.linears(attended, GROUPS[1])[0];
        let h1 = self.g.add(h, attention_out);

        let x2 = self.norm(h1, FEED_FORWARD_NORM, model.hidden);
        let [gate, up] = self.linears(x2, GROUPS[2])[..] else { unreachable!("two projections") };
        let active = self.g.silu(gate);
        let product = self.g.mul(active, up);
        let down = self.linears(product, GROUPS[3])[0];
        let h2 = self.g.add(h1, down);

        // A rotation is undone without its input, a norm is not.
        let (query, key) = if model.qk_norm { (query, key) } else { (rotated_query, rotated_key) };
        let products = vec![
            ("kept_query", query),
            ("kept_key", key),
            ("kept_value", value),
            ("kept_attended", attended),
            ("kept_h1", h1),
            ("kept_gate", gate),
            ("kept_up", up),
        ];
        (h2, products)
    }

    fn norm(&mut self, x: Var, name: &'static str, width: usize) -> Var {
        let weight = self.g.input(name, &[width.into()], F32);
        self.g.rms_norm(x, weight, self.model.norm_epsilon)
    }

    /// The norm over each head that Qwen3 has.
    fn head_norm(&mut self, x: Var, name: &'static str, heads: usize) -> Var {
        if !self.model.qk_norm {
            return x;
        }
        let whole = self.g.shape(x).to_vec();
        let split = [whole[0], whole[1], heads.into(), self.model.head_dim.into()];
        let split = self.g.reshape(x, &split);
        let normed = self.norm(split, name, self.model.head_dim);
        self.g.reshape(normed, &whole)
    }

    fn biased(&mut self, x: Var, projection: Projection) -> Var {
        if !self.model.qkv_bias {
            return x;
        }
        let (_, width) = projection.widths(self.model);
        let bias = self.g.input(bias_name(projection), &[width.into()], F32);
        self.g.add(x, bias)
    }

    /// The projections of a group, which read the same input.
    fn linears(&mut self, x: Var, group: &[Projection]) -> Vec<Var> {
        let lora = self.lora.iter().find(|(_, outs)| outs.iter().any(|(p, _)| group.contains(p)));
        let updates: Vec<(Projection, Var)> = match (lora.cloned(), &self.options.lora) {
            (Some((down, outs)), Some(shape)) => {
                let g = &mut self.g;
                let inner = g.linear(x, down);
                let axis = g.shape(inner).len() - 1;
                let inner = if outs.len() == 1 {
                    vec![inner]
                } else {
                    g.split(inner, axis, &vec![shape.rank; outs.len()])
                };
                inner
                    .into_iter()
                    .zip(outs)
                    .map(|(inner, (p, up))| (p, g.matmul_with(inner, up, false, true, shape.scale)))
                    .collect()
            }
            _ => Vec::new(),
        };
        group
            .iter()
            .map(|&projection| {
                let base = self.frozen(x, projection);
                match updates.iter().find(|(p, _)| *p == projection) {
                    Some((_, update)) => self.g.add(base, *update),
                    None => base,
                }
            })
            .collect()
    }

    /// `W·x`, in the precision of the weights.
    fn frozen(&mut self, x: Var, projection: Projection) -> Var {
        let (columns, rows) = projection.widths(self.model);
        let name = weight_name(projection);
        let storage = self.options.storage[projection as usize];
        let weight = frozen_matrix(&mut self.g, name, (rows, columns), storage);
        let kind = self.g.kind(weight);
        let x = self.g.cast(x, kind);
        let y = self.g.linear(x, weight);
        self.g.cast(y, F32)
    }
}
