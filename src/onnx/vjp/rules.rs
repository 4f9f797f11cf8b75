//! One rule for each operation: from the gradient of the output to those of the inputs.

use super::Backward;
use crate::onnx::graph::{Attribute, Dim, F32, Graph, Op, Var};

/// The gradients of a node's inputs, in their order; `None` where there is none or none is wanted.
pub(super) fn rule(g: &mut Graph, back: &Backward<'_>) -> Vec<Option<Var>> {
    let inputs: Vec<Var> = back.node.inputs.iter().map(|i| i.expect("its rule knows all inputs")).collect();
    let (x, y) = (inputs[0], back.node.outputs[0]);
    if let Op::Split { axis, .. } = back.node.op {
        return vec![Some(split(g, back, x, axis))];
    }
    let dy = back.outputs[0].expect("only splits have outputs that may be unused");
    match &back.node.op {
        Op::Add => each(g, back, |g, i| unbroadcast(g, dy, inputs[i])),
        Op::Sub => each(g, back, |g, i| {
            let signed = if i == 0 { dy } else { g.neg(dy) };
            unbroadcast(g, signed, inputs[i])
        }),
        Op::Mul => each(g, back, |g, i| {
            let product = g.mul(dy, inputs[1 - i]);
            unbroadcast(g, product, inputs[i])
        }),
        Op::Div => each(g, back, |g, i| {
            let quotient = g.div(dy, inputs[1]);
            let part = if i == 0 {
                quotient
            } else {
                let product = g.mul(quotient, y);
                g.neg(product)
            };
            unbroadcast(g, part, inputs[i])
        }),
        Op::Neg => vec![Some(g.neg(dy))],
        Op::Exp => vec![Some(g.mul(dy, y))],
        Op::Log => vec![Some(g.div(dy, x))],
        Op::Sqrt => {
            let half = g.scaled(dy, 0.5);
            vec![Some(g.div(half, y))]
        }
        Op::Sigmoid => {
            // s' = s − s²
            let square = g.mul(y, y);
            let slope = g.sub(y, square);
            vec![Some(g.mul(dy, slope))]
        }
        Op::Silu => {
            // y = x·s: y' = s + y − y·s
            let s = g.sigmoid(x);
            let sum = g.add(s, y);
            let product = g.mul(y, s);
            let slope = g.sub(sum, product);
            vec![Some(g.mul(dy, slope))]
        }
        Op::Cast => vec![Some(g.cast(dy, g.kind(x)))],
        Op::MatMul { transpose_left, transpose_right, scale } => {
            matmul(g, back, dy, (*transpose_left, *transpose_right, *scale))
        }
        Op::Softmax { output } => vec![Some(softmax(g, back, dy, *output))],
        Op::LogSoftmax => {
            let last = g.shape(x).len() - 1;
            let total = g.sum(dy, &[last]);
            let p = g.exp(y);
            let share = g.mul(p, total);
            vec![Some(g.sub(dy, share))]
        }
        Op::ReduceSum { drop, .. } => {
            assert!(!drop, "sums that are differentiated keep their axes");
            vec![Some(g.expand_like(dy, x)), None]
        }
        Op::Reshape => vec![Some(g.reshape_like(dy, x)), None],
        Op::Transpose(order) => {
            let mut back = vec![0; order.len()];
            for (to, &from) in order.iter().enumerate() {
                back[from] = to;
            }
            vec![Some(g.transpose(dy, &back))]
        }
        Op::Concat { axis } => concat(g, dy, &inputs, *axis),
        Op::Prefix { axis, .. } => vec![Some(pad_like(g, dy, x, *axis))],
        Op::Gather => vec![Some(scatter_rows(g, dy, x, inputs[1])), None],
        Op::GatherElements => vec![Some(scatter_elements(g, dy, x, inputs[1])), None],
        Op::RmsNorm { .. } => {
            assert!(!back.wanted[1], "the weights of norms are frozen");
            vec![Some(rms_norm(g, dy, x, inputs[1], back.node.outputs[1])), None]
        }
        Op::Rotary => {
            // A rotation's transpose turns the other way.
            let sin = g.neg(inputs[3]);
            vec![Some(g.rotary(dy, inputs[1], inputs[2], sin)), None, None, None]
        }
        Op::Expand | Op::Raw { .. } | Op::Split { .. } => {
            panic!("there is no rule for {:?}", back.node.op)
        }
    }
}

/// A gradient for each input of two that is wanted.
fn each(
    g: &mut Graph,
    back: &Backward<'_>,
    mut of: impl FnMut(&mut Graph, usize) -> Var,
) -> Vec<Option<Var>> {
    (0..2).map(|i| back.wanted[i].then(|| of(g, i))).collect()
}

/// Sums a gradient over the axes along which its value was stretched.
fn unbroadcast(g: &mut Graph, dy: Var, x: Var) -> Var {
    let (stretched, own) = (g.shape(dy).to_vec(), g.shape(x).to_vec());
    let missing = stretched.len() - own.len();
    let one = Dim::Size(1);
    let axes: Vec<usize> = (0..stretched.len())
        .filter(|&i| i < missing || (own[i - missing] == one && stretched[i] != one))
        .collect();
    let sum = if axes.is_empty() { dy } else { g.sum(dy, &axes) };
    if g.shape(sum) == own { sum } else { g.reshape_like(sum, x) }
}

/// For y = s·a·b: da = s·dy·bᵀ, db = s·aᵀ·dy, with the transpositions that the operation has itself.
fn matmul(
    g: &mut Graph,
    back: &Backward<'_>,
    dy: Var,
    (left, right, scale): (bool, bool, f32),
) -> Vec<Option<Var>> {
    let (a, b) = (back.node.inputs[0].expect("given"), back.node.inputs[1].expect("given"));
    let da = back.wanted[0].then(|| {
        let da = if left {
            g.matmul_with(b, dy, right, true, scale)
        } else {
            g.matmul_with(dy, b, false, !right, scale)
        };
        unbroadcast(g, da, a)
    });
    let db = back.wanted[1].then(|| {
        // A weight that is shared by all leading axes: they are rows of one product.
        if g.shape(b).len() == 2 && g.shape(a).len() > 2 {
            assert!(!left, "rows cannot be joined across a transposition");
            let (a, dy) = (rows(g, a), rows(g, dy));
            return if right {
                g.matmul_with(dy, a, true, false, scale)
            } else {
                g.matmul_with(a, dy, true, false, scale)
            };
        }
        let db = if right {
            g.matmul_with(dy, a, true, left, scale)
        } else {
            g.matmul_with(a, dy, !left, false, scale)
        };
        unbroadcast(g, db, b)
    });
    vec![da, db]
}

/// All axes but the last joined.
fn rows(g: &mut Graph, x: Var) -> Var {
    let last = *g.shape(x).last().expect("it has axes");
    g.reshape(x, &[Dim::Named("rows"), last])
}

/// dx = (dy − Σ dy·p)·p. Within attention o = p·v, and Σ dy·p = Σ do·o, which is as wide as a head instead of as long as
/// the sequence: Dao et al. 2022, <https://arxiv.org/abs/2205.14135>, appendix B.
fn softmax(g: &mut Graph, back: &Backward<'_>, dy: Var, output: Option<Var>) -> Var {
    let p = back.node.outputs[0];
    let last = g.shape(p).len() - 1;
    let total = match output.and_then(|o| Some((o, *back.found.get(&o)?))) {
        Some((o, d_o)) => {
            let product = g.mul(d_o, o);
            let last_of_output = g.shape(o).len() - 1;
            let total = g.sum(product, &[last_of_output]);
            let mut shape = g.shape(p).to_vec();
            shape[last] = Dim::Size(1);
            g.reshape(total, &shape)
        }
        None => {
            let product = g.mul(dy, p);
            g.sum(product, &[last])
        }
    };
    let centred = g.sub(dy, total);
    g.mul(centred, p)
}

fn split(g: &mut Graph, back: &Backward<'_>, x: Var, axis: usize) -> Var {
    let pieces: Vec<Var> = back
        .outputs
        .iter()
        .zip(&back.node.outputs)
        .map(|(gradient, &output)| gradient.unwrap_or_else(|| g.scaled(output, 0.0)))
        .collect();
    g.concat(&pieces, axis, g.shape(x)[axis])
}

fn concat(g: &mut Graph, dy: Var, inputs: &[Var], axis: usize) -> Vec<Option<Var>> {
    let extents: Vec<Dim> = inputs.iter().map(|&i| g.shape(i)[axis]).collect();
    let sizes: Option<Vec<usize>> =
        extents.iter().map(|d| if let Dim::Size(size) = d { Some(*size) } else { None }).collect();
    let pieces = match (sizes, extents[0]) {
        (Some(sizes), _) => g.split(dy, axis, &sizes),
        (None, Dim::Named(name)) => {
            assert!(extents.iter().all(|e| *e == extents[0]), "named pieces are equal");
            g.split_evenly(dy, axis, inputs.len(), name)
        }
        (None, Dim::Size(_)) => panic!("pieces are all named or all sized"),
    };
    pieces.into_iter().map(Some).collect()
}

/// `dy` with zeros after it along an axis, as long as `like`.
fn pad_like(g: &mut Graph, dy: Var, like: Var, axis: usize) -> Var {
    let shape = g.shape(like).to_vec();
    let (whole, part) = (g.extents(like), g.extents(dy));
    let after = g.sub(whole, part);
    let before = g.integers(&vec![0; shape.len()]);
    debug_assert!(axis < shape.len());
    let pads = g.concat(&[before, after], 0, Dim::Size(2 * shape.len()));
    g.raw("Pad", "", &[Some(dy), Some(pads)], &[(shape, g.kind(dy))], Vec::new())[0]
}

/// Adds rows up where they were gathered from.
fn scatter_rows(g: &mut Graph, dy: Var, x: Var, indices: Var) -> Var {
    let zeros = zeros_like(g, x);
    let last = g.integers(&[-1]);
    let mut shape = g.shape(indices).to_vec();
    shape.push(Dim::Size(1));
    let kind = g.kind(indices);
    let indices = g.raw("Unsqueeze", "", &[Some(indices), Some(last)], &[(shape, kind)], Vec::new())[0];
    let shape = (g.shape(x).to_vec(), g.kind(x));
    let add = vec![("reduction", Attribute::Text("add"))];
    g.raw("ScatterND", "", &[Some(zeros), Some(indices), Some(dy)], &[shape], add)[0]
}

/// Adds elements up where they were gathered from.
fn scatter_elements(g: &mut Graph, dy: Var, x: Var, indices: Var) -> Var {
    let zeros = zeros_like(g, x);
    let shape = (g.shape(x).to_vec(), g.kind(x));
    let how = vec![("axis", Attribute::Integer(-1)), ("reduction", Attribute::Text("add"))];
    g.raw("ScatterElements", "", &[Some(zeros), Some(indices), Some(dy)], &[shape], how)[0]
}

fn zeros_like(g: &mut Graph, x: Var) -> Var {
    let extents = g.extents(x);
    let shape = (g.shape(x).to_vec(), F32);
    let zeros = g.raw("ConstantOfShape", "", &[Some(extents)], &[shape], Vec::new())[0];
    g.cast(zeros, g.kind(x))
}

/// With r the reciprocal root and x̂ = x·r: dx = (dy·w − x̂ · mean(dy·w · x̂)) · r.
fn rms_norm(g: &mut Graph, dy: Var, x: Var, weight: Var, reciprocal: Var) -> Var {
    let last = g.shape(x).len() - 1;
    #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
    let width = g.shape(x)[last].size() as f32;
    let reciprocal = g.cast(reciprocal, g.kind(x));
    let dx = g.mul(dy, weight);
    let unit = g.mul(x, reciprocal);
    let product = g.mul(dx, unit);
    let total = g.sum(product, &[last]);
    let mean = g.scaled(total, 1.0 / width);
    let along = g.mul(unit, mean);
    let across = g.sub(dx, along);
    g.mul(across, reciprocal)
}
