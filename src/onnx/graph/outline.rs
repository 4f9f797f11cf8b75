//! From a graph to a program of ONNX Runtime: what the outputs need, in ONNX's terms, and nothing else.

use std::collections::{HashMap, HashSet};

use ort::value::{DynTensor, TensorElementType};

use super::{Attribute, Constant, Dim, Graph, MICROSOFT, Node, Op, Origin, Var};
use crate::onnx::program::{Program, ProgramError, Runtime};

/// Begins the names of values that the author of a graph did not name.
pub(super) const RESERVED: char = '_';

/// A part of a graph as ONNX spells it.
#[derive(Default)]
pub(super) struct Outline {
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// Name, shape, values.
    pub constants: Vec<(String, Vec<usize>, Constant)>,
    /// In topological order.
    pub nodes: Vec<Line>,
    pub initializers: Vec<(String, DynTensor)>,
}

/// An input or output.
pub(super) struct Port {
    pub name: String,
    pub shape: Vec<Dim>,
    pub kind: TensorElementType,
}

/// A node.
pub(super) struct Line {
    pub name: String,
    pub op: &'static str,
    pub domain: &'static str,
    /// Empty: not given.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: Vec<(&'static str, Attribute)>,
}

impl Graph {
    /// A program that computes `outputs`. It takes as inputs what they need of the graph's inputs, and of `cut`: values
    /// that are given instead of computed, under names of their own. So one graph gives a forward pass that puts
    /// activations out, and a backward pass that takes them in and computes again only what lies between.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the graph.
    pub fn program(
        &mut self,
        runtime: &Runtime,
        outputs: &[(&str, Var)],
        cut: &[(&str, Var)],
    ) -> Result<Program, ProgramError> {
        let outline = self.outline(outputs, cut);
        let names = |ports: &[Port]| ports.iter().map(|port| port.name.clone()).collect();
        let (inputs, outputs) = (names(&outline.inputs), names(&outline.outputs));
        let options = runtime.session_options()?;
        let session = match runtime.packed() {
            None => outline.build(&options)?,
            Some(packed) => outline.read(options.with_prepacked_weights(packed)?)?,
        };
        Program::new(session, runtime, inputs, outputs)
    }

    fn outline(&mut self, outputs: &[(&str, Var)], cut: &[(&str, Var)]) -> Outline {
        let cut: HashMap<Var, &str> = cut.iter().map(|&(name, var)| (var, name)).collect();
        let (nodes, leaves) = self.needed(outputs, &cut);
        let mut names: HashMap<Var, String> =
            outputs.iter().map(|&(name, var)| (var, name.to_owned())).collect();
        assert_eq!(names.len(), outputs.len(), "each output is another value");

        let mut outline = Outline::default();
        for var in leaves {
            let value = &self.values[var.0 as usize];
            let name = match (&value.origin, cut.get(&var)) {
                (_, Some(name)) => (*name).to_owned(),
                (Origin::Input(name) | Origin::Initializer(name), None) => name.clone(),
                (Origin::Constant(_), None) => self.name(var, &names),
                (Origin::Node(_), None) => unreachable!("nodes are not leaves"),
            };
            names.insert(var, name.clone());
            match &value.origin {
                Origin::Constant(constant) if !cut.contains_key(&var) => {
                    let shape = value.shape.iter().map(|d| d.size()).collect();
                    outline.constants.push((name, shape, constant.clone()));
                }
                Origin::Initializer(_) if !cut.contains_key(&var) => {
                    let tensor = self.initializers.remove(&name).expect("one program takes it");
                    outline.initializers.push((name, tensor));
                }
                _ => outline.inputs.push(self.port(&name, var)),
            }
        }
        outline.outputs = outputs.iter().map(|&(name, var)| self.port(name, var)).collect();
        for index in nodes {
            self.spell(index, &names, &cut, &mut outline);
        }
        outline
    }

    /// Nodes that `outputs` need, in order, and the values they start from.
    fn needed(&self, outputs: &[(&str, Var)], cut: &HashMap<Var, &str>) -> (Vec<usize>, Vec<Var>) {
        let mut pending: Vec<Var> = outputs.iter().map(|&(_, var)| var).collect();
        let mut seen: HashSet<Var> = HashSet::new();
        let (mut nodes, mut leaves) = (Vec::new(), Vec::new());
        while let Some(var) = pending.pop() {
            if !seen.insert(var) {
                continue;
            }
            match self.values[var.0 as usize].origin {
                Origin::Node(index) if !cut.contains_key(&var) => {
                    nodes.push(index);
                    pending.extend(self.nodes[index].inputs.iter().flatten());
                }
                _ => leaves.push(var),
            }
        }
        nodes.sort_unstable();
        nodes.dedup();
        leaves.sort_unstable();
        (nodes, leaves)
    }

    fn name(&self, var: Var, names: &HashMap<Var, String>) -> String {
        names.get(&var).cloned().unwrap_or_else(|| format!("{RESERVED}{}", var.0))
    }

    fn port(&self, name: &str, var: Var) -> Port {
        Port { name: name.to_owned(), shape: self.shape(var).to_vec(), kind: self.kind(var) }
    }

    fn spell(
        &self,
        index: usize,
        names: &HashMap<Var, String>,
        cut: &HashMap<Var, &str>,
        outline: &mut Outline,
    ) {
        let node = &self.nodes[index];
        let inputs: Vec<String> =
            node.inputs.iter().map(|v| v.map(|v| self.name(v, names)).unwrap_or_default()).collect();
        // An output that is cut but has a sister that is needed is computed for nothing, under another name.
        let outputs: Vec<String> =
            node.outputs
                .iter()
                .map(|v| {
                    if cut.contains_key(v) {
                        format!("{RESERVED}{}_again", v.0)
                    } else {
                        self.name(*v, names)
                    }
                })
                .collect();
        if let Op::Prefix { axis, part, of } = node.op {
            return outline.prefix(index, &inputs[0], &outputs[0], axis, (part, of));
        }
        let (op, domain, attributes) = self.spelled(node);
        outline.nodes.push(Line { name: format!("n{index}_{op}"), op, domain, inputs, outputs, attributes });
    }

    /// ONNX's name of an operation, its domain and attributes.
    fn spelled(&self, node: &Node) -> (&'static str, &'static str, Vec<(&'static str, Attribute)>) {
        let integer = |v: usize| Attribute::Integer(i64::try_from(v).expect("ranks are small"));
        let plain = |name| (name, "", Vec::new());
        match &node.op {
            Op::Add => plain("Add"),
            Op::Sub => plain("Sub"),
            Op::Mul => plain("Mul"),
            Op::Div => plain("Div"),
            Op::Neg => plain("Neg"),
            Op::Exp => plain("Exp"),
            Op::Log => plain("Log"),
            Op::Sqrt => plain("Sqrt"),
            Op::Sigmoid => plain("Sigmoid"),
            Op::Cast => {
                let to = ort::sys::ONNXTensorElementDataType::from(self.kind(node.outputs[0]));
                ("Cast", "", vec![("to", Attribute::Integer(to as i64))])
            }
            Op::MatMul { transpose_left: false, transpose_right: false, scale: 1.0 } => plain("MatMul"),
            Op::MatMul { transpose_left, transpose_right, scale } => (
                "FusedMatMul",
                MICROSOFT,
                vec![
                    ("transA", Attribute::Integer((*transpose_left).into())),
                    ("transB", Attribute::Integer((*transpose_right).into())),
                    ("alpha", Attribute::Float(*scale)),
                ],
            ),
            Op::Softmax { .. } => ("Softmax", "", vec![("axis", Attribute::Integer(-1))]),
            Op::LogSoftmax => ("LogSoftmax", "", vec![("axis", Attribute::Integer(-1))]),
            Op::ReduceSum { drop, .. } => {
                ("ReduceSum", "", vec![("keepdims", Attribute::Integer((!drop).into()))])
            }
            Op::Expand => plain("Expand"),
            Op::Reshape => plain("Reshape"),
            Op::Transpose(order) => {
                let order = order.iter().map(|&a| i64::try_from(a).expect("ranks are small")).collect();
                ("Transpose", "", vec![("perm", Attribute::Integers(order))])
            }
            Op::Split { axis, sizes: Some(_) } => ("Split", "", vec![("axis", integer(*axis))]),
            Op::Split { axis, sizes: None } => {
                ("Split", "", vec![("axis", integer(*axis)), ("num_outputs", integer(node.outputs.len()))])
            }
            Op::Concat { axis } => ("Concat", "", vec![("axis", integer(*axis))]),
            Op::Gather => ("Gather", "", vec![("axis", integer(0))]),
            Op::GatherElements => ("GatherElements", "", vec![("axis", Attribute::Integer(-1))]),
            Op::RmsNorm { epsilon } => (
                "SimplifiedLayerNormalization",
                "",
                vec![("axis", Attribute::Integer(-1)), ("epsilon", Attribute::Float(*epsilon))],
            ),
            Op::Silu => ("QuickGelu", MICROSOFT, vec![("alpha", Attribute::Float(1.0))]),
            Op::Rotary => ("RotaryEmbedding", MICROSOFT, Vec::new()),
            Op::Raw { name, domain, attributes } => (*name, *domain, attributes.clone()),
            Op::Prefix { .. } => unreachable!("made of several nodes"),
        }
    }
}

impl Outline {
    /// `Slice` up to extent · part / of.
    fn prefix(&mut self, index: usize, from: &str, to: &str, axis: usize, (part, of): (usize, usize)) {
        let small = |v: usize| i64::try_from(v).expect("ranks and parts are small");
        let name = |what: &str| format!("{RESERVED}n{index}_{what}");
        for (what, value) in [("start", 0), ("axis", small(axis)), ("part", small(part)), ("of", small(of))] {
            self.constants.push((name(what), vec![1], Constant::Integers(vec![value])));
        }
        let mut add = |op: &'static str, inputs: &[String], output: String, attributes| {
            let name = format!("n{index}_{op}");
            let (inputs, outputs) = (inputs.to_vec(), vec![output]);
            self.nodes.push(Line { name, op, domain: "", inputs, outputs, attributes });
        };
        let bound = |v: usize| Attribute::Integer(small(v));
        let span = vec![("start", bound(axis)), ("end", bound(axis + 1))];
        add("Shape", &[from.to_owned()], name("extent"), span);
        add("Mul", &[name("extent"), name("part")], name("parts"), Vec::new());
        add("Div", &[name("parts"), name("of")], name("end"), Vec::new());
        add("Slice", &[from.to_owned(), name("start"), name("end"), name("axis")], to.to_owned(), Vec::new());
    }
}
