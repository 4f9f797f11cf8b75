//! Graphs that are built in memory, differentiated (`onnx::vjp`) and handed to ONNX Runtime.
//!
//! In: calls that append operations. Out: a [`Program`](super::program::Program) of any outputs asked for.
//!
//! Always true: a node's inputs come before it, so the list of nodes is in topological order; shapes are known but for
//! named dimensions. A graph that does not fit together is a mistake of its author: building panics and says where.

mod editor;
mod ops;
mod outline;
mod proto;
mod shape;

use std::collections::HashMap;

use ort::value::{DynTensor, TensorElementType};

pub use ops::Attribute;
pub use shape::Dim;

/// 32-bit floats: what everything is computed in unless said otherwise.
pub const F32: TensorElementType = TensorElementType::Float32;
/// Indices and shapes.
pub const I64: TensorElementType = TensorElementType::Int64;

/// A value in a [`Graph`]; only meaningful together with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(u32);

/// What a node computes. [`Graph::gradient`] can pass through all but [`Op::Expand`], which gradients themselves are made with, and
/// [`Op::Raw`].
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Neg,
    Exp,
    Log,
    Sqrt,
    Sigmoid,
    /// To the type of the output.
    Cast,
    /// `scale · left × right`, either transposed in its last two axes first.
    MatMul {
        transpose_left: bool,
        transpose_right: bool,
        scale: f32,
    },
    /// Over the last axis. `output`: within attention, the product of these weights with the values.
    Softmax {
        output: Option<Var>,
    },
    /// Over the last axis.
    LogSoftmax,
    /// Over `axes`, which stay as 1 unless `drop`.
    ReduceSum {
        axes: Vec<usize>,
        drop: bool,
    },
    Expand,
    Reshape,
    Transpose(Vec<usize>),
    Split {
        axis: usize,
        sizes: Option<Vec<usize>>,
    },
    Concat {
        axis: usize,
    },
    /// The first `part` of `of` equal parts along an axis.
    Prefix {
        axis: usize,
        part: usize,
        of: usize,
    },
    /// Rows of the first input at the indices of the second.
    Gather,
    /// For each row of the first input the elements at the indices in the same row of the second.
    GatherElements,
    /// `x / √(mean(x²) + ε) · w`, and as second output the reciprocal of that root.
    RmsNorm {
        epsilon: f32,
    },
    /// `x · sigmoid(x)`
    Silu,
    /// Rotates pairs of each head's dimensions by the angle of its position; x, positions, cosines, sines.
    Rotary,
    /// Any other operation.
    Raw {
        name: &'static str,
        domain: &'static str,
        attributes: Vec<(&'static str, Attribute)>,
    },
}

/// The domain of ONNX Runtime's own operations.
pub const MICROSOFT: &str = "com.microsoft";
/// The version of ONNX's operations.
const OPSET: u32 = 21;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub op: Op,
    pub inputs: Vec<Option<Var>>,
    pub outputs: Vec<Var>,
}

#[derive(Clone, Debug)]
enum Origin {
    Input(String),
    Constant(Constant),
    /// A weight that belongs to the program; the tensor is in `Graph::initializers`.
    Initializer(String),
    Node(usize),
}

#[derive(Clone, Debug, PartialEq)]
enum Constant {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

#[derive(Clone, Debug)]
struct Value {
    shape: Vec<Dim>,
    kind: TensorElementType,
    origin: Origin,
}

/// A graph under construction.
#[derive(Debug, Default)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    initializers: HashMap<String, DynTensor>,
}

impl Graph {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An input of the program, by a name of its own.
    pub fn input(&mut self, name: impl Into<String>, shape: &[Dim], kind: TensorElementType) -> Var {
        let name = name.into();
        assert!(!name.starts_with(outline::RESERVED), "{name}: names of inputs do not begin with _");
        self.value(shape.to_vec(), kind, Origin::Input(name))
    }

    /// A weight that becomes part of the first program that is made of this graph and needs it.
    pub fn initializer(&mut self, name: impl Into<String>, tensor: DynTensor) -> Var {
        let name = name.into();
        let shape =
            tensor.shape().iter().map(|&d| Dim::Size(usize::try_from(d).expect("sizes are positive")));
        let var = self.value(shape.collect(), *tensor.data_type(), Origin::Initializer(name.clone()));
        assert!(self.initializers.insert(name, tensor).is_none(), "initializers have names of their own");
        var
    }

    /// A constant, `[1]` unless shaped by `shape`.
    pub fn floats(&mut self, values: &[f32], shape: &[usize]) -> Var {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "a constant fills its shape");
        self.constant(Constant::Floats(values.to_vec()), shape, F32)
    }

    /// A constant vector of integers.
    pub fn integers(&mut self, values: &[i64]) -> Var {
        self.constant(Constant::Integers(values.to_vec()), &[values.len()], I64)
    }

    fn constant(&mut self, constant: Constant, shape: &[usize], kind: TensorElementType) -> Var {
        let shape: Vec<Dim> = shape.iter().map(|&n| Dim::Size(n)).collect();
        let same = |v: &Value| matches!(&v.origin, Origin::Constant(c) if *c == constant) && v.shape == shape;
        match self.values.iter().position(same) {
            Some(index) => Var(index.try_into().expect("graphs are small")),
            None => self.value(shape, kind, Origin::Constant(constant)),
        }
    }

    fn value(&mut self, shape: Vec<Dim>, kind: TensorElementType, origin: Origin) -> Var {
        let var = Var(self.values.len().try_into().expect("graphs are small"));
        self.values.push(Value { shape, kind, origin });
        var
    }

    /// Appends a node; its outputs have the shapes and types given.
    pub(super) fn node(
        &mut self,
        op: Op,
        inputs: Vec<Option<Var>>,
        outputs: &[(Vec<Dim>, TensorElementType)],
    ) -> Vec<Var> {
        let index = self.nodes.len();
        let outputs: Vec<Var> = outputs
            .iter()
            .map(|(shape, kind)| self.value(shape.clone(), *kind, Origin::Node(index)))
            .collect();
        self.nodes.push(Node { op, inputs, outputs: outputs.clone() });
        outputs
    }

    /// A node of one output, shaped as given and of the type of its first input.
    fn single(&mut self, op: Op, inputs: &[Var], shape: Vec<Dim>) -> Var {
        let kind = self.kind(inputs[0]);
        self.node(op, inputs.iter().copied().map(Some).collect(), &[(shape, kind)])[0]
    }

    #[must_use]
    pub fn shape(&self, var: Var) -> &[Dim] {
        &self.values[var.0 as usize].shape
    }

    #[must_use]
    pub fn kind(&self, var: Var) -> TensorElementType {
        self.values[var.0 as usize].kind
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn op_mut(&mut self, of: Var) -> &mut Op {
        match self.values[of.0 as usize].origin {
            Origin::Node(index) => &mut self.nodes[index].op,
            _ => panic!("an input or constant has no operation"),
        }
    }
}
