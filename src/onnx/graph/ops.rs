//! Operations, and the shapes they give.

use ort::value::TensorElementType;

use super::shape::{broadcast, reshape_dims};
use super::{Dim, F32, Graph, I64, Op, Var};

/// The value of an attribute of a raw operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Integer(i64),
    Integers(Vec<i64>),
    Float(f32),
    Text(&'static str),
}

impl Graph {
    fn binary(&mut self, op: Op, left: Var, right: Var) -> Var {
        assert_eq!(self.kind(left), self.kind(right), "{op:?} takes two of a type");
        let shape = broadcast(self.shape(left), self.shape(right));
        self.single(op, &[left, right], shape)
    }

    fn unary(&mut self, op: Op, x: Var) -> Var {
        let shape = self.shape(x).to_vec();
        self.single(op, &[x], shape)
    }

    pub fn add(&mut self, left: Var, right: Var) -> Var {
        self.binary(Op::Add, left, right)
    }

    pub fn sub(&mut self, left: Var, right: Var) -> Var {
        self.binary(Op::Sub, left, right)
    }

    pub fn mul(&mut self, left: Var, right: Var) -> Var {
        self.binary(Op::Mul, left, right)
    }

    pub fn div(&mut self, left: Var, right: Var) -> Var {
        self.binary(Op::Div, left, right)
    }

    /// A constant of the type of `like`.
    pub fn scalar(&mut self, value: f32, like: Var) -> Var {
        let constant = self.floats(&[value], &[1]);
        let kind = self.kind(like);
        self.cast(constant, kind)
    }

    pub fn scaled(&mut self, x: Var, factor: f32) -> Var {
        let factor = self.scalar(factor, x);
        self.mul(x, factor)
    }

    pub fn plus(&mut self, x: Var, summand: f32) -> Var {
        let summand = self.scalar(summand, x);
        self.add(x, summand)
    }

    pub fn neg(&mut self, x: Var) -> Var {
        self.unary(Op::Neg, x)
    }

    pub fn exp(&mut self, x: Var) -> Var {
        self.unary(Op::Exp, x)
    }

    pub fn log(&mut self, x: Var) -> Var {
        self.unary(Op::Log, x)
    }

    pub fn sqrt(&mut self, x: Var) -> Var {
        self.unary(Op::Sqrt, x)
    }

    pub fn sigmoid(&mut self, x: Var) -> Var {
        self.unary(Op::Sigmoid, x)
    }

    pub fn silu(&mut self, x: Var) -> Var {
        self.unary(Op::Silu, x)
    }

    /// Over the last axis.
    pub fn softmax(&mut self, x: Var) -> Var {
        self.unary(Op::Softmax { output: None }, x)
    }

    /// Over the last axis.
    pub fn log_softmax(&mut self, x: Var) -> Var {
        self.unary(Op::LogSoftmax, x)
    }

    pub fn cast(&mut self, x: Var, kind: TensorElementType) -> Var {
        if self.kind(x) == kind {
            return x;
        }
        let shape = self.shape(x).to_vec();
        self.node(Op::Cast, vec![Some(x)], &[(shape, kind)])[0]
    }

    /// Truth values of two values of a type, by ONNX's operation of that name: `Equal`, `Less`, `And`, …
    pub fn compare(&mut self, operation: &'static str, left: Var, right: Var) -> Var {
        assert_eq!(self.kind(left), self.kind(right), "{operation} takes two of a type");
        let truth = (broadcast(self.shape(left), self.shape(right)), TensorElementType::Bool);
        self.raw(operation, "", &[Some(left), Some(right)], &[truth], Vec::new())[0]
    }

    /// `then` where the condition holds, `otherwise` elsewhere.
    pub fn choose(&mut self, condition: Var, then: Var, otherwise: Var) -> Var {
        let either = broadcast(self.shape(then), self.shape(otherwise));
        let chosen = (broadcast(self.shape(condition), &either), self.kind(then));
        let inputs = [condition, then, otherwise].map(Some);
        self.raw("Where", "", &inputs, &[chosen], Vec::new())[0]
    }

    pub fn matmul(&mut self, left: Var, right: Var) -> Var {
        self.matmul_with(left, right, false, false, 1.0)
    }

    /// `x · wᵀ` for a weight `[out, in]`.
    pub fn linear(&mut self, x: Var, weight: Var) -> Var {
        self.matmul_with(x, weight, false, true, 1.0)
    }

    /// `scale · left × right`, either transposed in its last two axes first.
    pub fn matmul_with(
        &mut self,
        left: Var,
        right: Var,
        transpose_left: bool,
        transpose_right: bool,
        scale: f32,
    ) -> Var {
        let (a, b) = (self.shape(left), self.shape(right));
        let (ra, rb) = (a.len(), b.len());
        assert!(ra >= 2 && rb >= 2, "matrices have two axes or more");
        let (rows, inner) = if transpose_left { (a[ra - 1], a[ra - 2]) } else { (a[ra - 2], a[ra - 1]) };
        let (also_inner, columns) =
            if transpose_right { (b[rb - 1], b[rb - 2]) } else { (b[rb - 2], b[rb - 1]) };
        assert_eq!(inner, also_inner, "{a:?} × {b:?} (transposed: {transpose_left}, {transpose_right})");
        let mut shape = broadcast(&a[..ra - 2], &b[..rb - 2]);
        shape.extend([rows, columns]);
        self.single(Op::MatMul { transpose_left, transpose_right, scale }, &[left, right], shape)
    }

    /// The sum over `axes`, which stay as 1.
    pub fn sum(&mut self, x: Var, axes: &[usize]) -> Var {
        let mut shape = self.shape(x).to_vec();
        for &axis in axes {
            shape[axis] = Dim::Size(1);
        }
        let over = self.axes(axes);
        self.single(Op::ReduceSum { axes: axes.to_vec(), drop: false }, &[x, over], shape)
    }

    /// The sum over `axes`, which go.
    pub fn sum_away(&mut self, x: Var, axes: &[usize]) -> Var {
        let shape = self.shape(x).iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| *d);
        let shape = shape.collect();
        let over = self.axes(axes);
        self.single(Op::ReduceSum { axes: axes.to_vec(), drop: true }, &[x, over], shape)
    }

    fn axes(&mut self, axes: &[usize]) -> Var {
        let axes: Vec<i64> = axes.iter().map(|&a| i64::try_from(a).expect("ranks are small")).collect();
        self.integers(&axes)
    }

    /// Stretches `x` to the shape of `like`.
    pub fn expand_like(&mut self, x: Var, like: Var) -> Var {
        let shape = self.shape(like).to_vec();
        let extents = self.extents(like);
        self.expand_to(x, extents, &shape)
    }

    /// Stretches `x` to extents that the program works out when it runs; `shape` says what they will be.
    pub fn expand_to(&mut self, x: Var, extents: Var, shape: &[Dim]) -> Var {
        self.single(Op::Expand, &[x, extents], shape.to_vec())
    }

    /// The extents of `x` when the program runs: integers `[rank]`.
    pub fn extents(&mut self, x: Var) -> Var {
        let rank = self.shape(x).len();
        self.extents_of(x, 0..rank)
    }

    /// The extents of some axes of `x` when the program runs.
    pub fn extents_of(&mut self, x: Var, axes: std::ops::Range<usize>) -> Var {
        let small = |axis: usize| Attribute::Integer(i64::try_from(axis).expect("ranks are small"));
        let attributes = vec![("start", small(axes.start)), ("end", small(axes.end))];
        let op = Op::Raw { name: "Shape", domain: "", attributes };
        self.node(op, vec![Some(x)], &[(vec![Dim::Size(axes.len())], I64)])[0]
    }

    /// # Panics
    /// When more than one extent of `shape` is neither a size nor where it was: see [`Graph::reshape_like`].
    pub fn reshape(&mut self, x: Var, shape: &[Dim]) -> Var {
        let from = self.shape(x);
        let dims = reshape_dims(from, shape);
        let dims = dims.unwrap_or_else(|| panic!("a reshape from {from:?} to {shape:?} has to guess twice"));
        if from == shape {
            return x;
        }
        let dims = self.integers(&dims);
        self.single(Op::Reshape, &[x, dims], shape.to_vec())
    }

    /// Reshapes to the shape of another value.
    pub fn reshape_like(&mut self, x: Var, like: Var) -> Var {
        let shape = self.shape(like).to_vec();
        if reshape_dims(self.shape(x), &shape).is_some() {
            return self.reshape(x, &shape);
        }
        let extents = self.extents(like);
        self.reshape_to(x, extents, &shape)
    }

    /// Reshapes to extents that the program works out when it runs; `shape` says what they will be.
    pub fn reshape_to(&mut self, x: Var, extents: Var, shape: &[Dim]) -> Var {
        self.single(Op::Reshape, &[x, extents], shape.to_vec())
    }

    pub fn transpose(&mut self, x: Var, order: &[usize]) -> Var {
        let shape = order.iter().map(|&axis| self.shape(x)[axis]).collect();
        self.single(Op::Transpose(order.to_vec()), &[x], shape)
    }

    /// Pieces of `sizes` along an axis of known extent.
    pub fn split(&mut self, x: Var, axis: usize, sizes: &[usize]) -> Vec<Var> {
        assert_eq!(self.shape(x)[axis], Dim::Size(sizes.iter().sum()), "the pieces make up the axis");
        let told: Vec<i64> = sizes.iter().map(|&s| i64::try_from(s).expect("sizes are small")).collect();
        let told = self.integers(&told);
        let piece = |&size: &usize| {
            let mut shape = self.shape(x).to_vec();
            shape[axis] = Dim::Size(size);
            (shape, self.kind(x))
        };
        let outputs: Vec<_> = sizes.iter().map(piece).collect();
        self.node(Op::Split { axis, sizes: Some(sizes.to_vec()) }, vec![Some(x), Some(told)], &outputs)
    }

    /// `parts` equal pieces, each of extent `name`, along an axis whose extent they divide.
    pub fn split_evenly(&mut self, x: Var, axis: usize, parts: usize, name: &'static str) -> Vec<Var> {
        let mut shape = self.shape(x).to_vec();
        shape[axis] = Dim::Named(name);
        let outputs = vec![(shape, self.kind(x)); parts];
        self.node(Op::Split { axis, sizes: None }, vec![Some(x)], &outputs)
    }

    /// Values one after another along an axis, of extent `extent` then.
    pub fn concat(&mut self, parts: &[Var], axis: usize, extent: Dim) -> Var {
        if let [only] = parts {
            return *only;
        }
        let mut shape = self.shape(parts[0]).to_vec();
        shape[axis] = extent;
        self.single(Op::Concat { axis }, parts, shape)
    }

    /// The first `part` of `of` equal parts along an axis, of extent `name`.
    pub fn prefix(&mut self, x: Var, axis: usize, part: usize, of: usize, name: &'static str) -> Var {
        if part == of {
            return x;
        }
        let mut shape = self.shape(x).to_vec();
        shape[axis] = Dim::Named(name);
        self.single(Op::Prefix { axis, part, of }, &[x], shape)
    }

    /// Rows (along the first axis) of `x` at `indices`.
    pub fn gather(&mut self, x: Var, indices: Var) -> Var {
        let mut shape = self.shape(indices).to_vec();
        shape.extend_from_slice(&self.shape(x)[1..]);
        self.single(Op::Gather, &[x, indices], shape)
    }

    /// For each row of `x` the elements at `indices [rows, k]`.
    pub fn gather_elements(&mut self, x: Var, indices: Var) -> Var {
        let shape = self.shape(indices).to_vec();
        self.single(Op::GatherElements, &[x, indices], shape)
    }

    /// RMS norm over the last axis: Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>.
    pub fn rms_norm(&mut self, x: Var, weight: Var, epsilon: f32) -> Var {
        let shape = self.shape(x).to_vec();
        let mut roots = shape.clone();
        *roots.last_mut().expect("x has axes") = Dim::Size(1);
        let kind = self.kind(x);
        let outputs = [(shape, kind), (roots, F32)];
        self.node(Op::RmsNorm { epsilon }, vec![Some(x), Some(weight)], &outputs)[0]
    }

    /// Rotary positions: Su et al. 2021, <https://arxiv.org/abs/2104.09864>, with the halves of a head as pairs, as
    /// Hugging Face checkpoints have it. `x [B, S, heads · head_dim]`, `positions [B, S]`, `cos`, `sin`
    /// `[positions, head_dim / 2]`.
    pub fn rotary(&mut self, x: Var, positions: Var, cos: Var, sin: Var) -> Var {
        let shape = self.shape(x).to_vec();
        self.single(Op::Rotary, &[x, positions, cos, sin], shape)
    }

    /// `q · scale`, with a scale for each `block` elements along the last axis (ONNX `DequantizeLinear`, opset 21).
    pub fn dequantize(&mut self, quants: Var, scales: Var, block: usize) -> Var {
        let outputs = [(self.shape(quants).to_vec(), self.kind(scales))];
        let block = i64::try_from(block).expect("blocks are small");
        let attributes = vec![("axis", Attribute::Integer(-1)), ("block_size", Attribute::Integer(block))];
        self.raw("DequantizeLinear", "", &[Some(quants), Some(scales)], &outputs, attributes)[0]
    }

    /// Any operation: optional inputs that are left out are `None`.
    pub fn raw(
        &mut self,
        name: &'static str,
        domain: &'static str,
        inputs: &[Option<Var>],
        outputs: &[(Vec<Dim>, TensorElementType)],
        attributes: Vec<(&'static str, Attribute)>,
    ) -> Vec<Var> {
        self.node(Op::Raw { name, domain, attributes }, inputs.to_vec(), outputs)
    }
}
