//! From a graph to a program of ONNX Runtime: what the outputs need, and nothing else.

use std::collections::{HashMap, HashSet};

use ort::editor::{Graph as OrtGraph, Model, Node as OrtNode, Opset};
use ort::memory::Allocator;
use ort::operator::Attribute as OrtAttribute;
use ort::value::{Outlet, Shape, SymbolicDimensions, Tensor, ValueType};

use super::{Attribute, Constant, Dim, Graph, MICROSOFT, Node, Op, Origin, Var};
use crate::onnx::program::{Program, ProgramError, Runtime};

/// Begins the names of values that the author of a graph did not name.
pub(super) const RESERVED: char = '_';

/// ONNX Runtime takes over the memory of initializers from 128 bytes on.
const MANY: usize = 128;

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
        let cut: HashMap<Var, &str> = cut.iter().map(|&(name, var)| (var, name)).collect();
        let (nodes, leaves) = self.needed(outputs, &cut);
        let mut names: HashMap<Var, String> =
            outputs.iter().map(|&(name, var)| (var, name.to_owned())).collect();
        assert_eq!(names.len(), outputs.len(), "each output is another value");

        let mut graph = OrtGraph::new()?;
        let mut inputs = Vec::new();
        for var in leaves {
            let value = &self.values[var.0 as usize];
            match (&value.origin, cut.get(&var)) {
                (_, Some(name)) => {
                    names.insert(var, (*name).to_owned());
                    inputs.push((*name, var));
                }
                (Origin::Input(name), None) => {
                    names.insert(var, name.clone());
                    inputs.push((name, var));
                }
                (Origin::Constant(constant), None) => {
                    let name = self.name(var, &names);
                    add_constant(&mut graph, &name, constant, &value.shape)?;
                }
                (Origin::Initializer(name), None) => {
                    names.insert(var, name.clone());
                }
                (Origin::Node(_), None) => unreachable!("nodes are not leaves"),
            }
        }
        graph.set_inputs(inputs.iter().map(|&(name, var)| self.outlet(name, var)))?;
        graph.set_outputs(outputs.iter().map(|&(name, var)| self.outlet(name, var)))?;
        for index in nodes {
            self.emit(&mut graph, index, &names, &cut)?;
        }
        let input_names = inputs.iter().map(|&(name, _)| name.to_owned()).collect();
        let weights: Vec<String> =
            self.initializers.keys().filter(|n| names.values().any(|m| m == *n)).cloned().collect();
        for name in weights {
            let tensor = self.initializers.remove(&name).expect("its name was just read");
            // Larger ones stay where they are; others the runtime wants to look into when it works out shapes.
            let is_large = tensor.shape().num_elements() >= MANY;
            graph.add_initializer(&name, tensor, is_large)?;
        }
        let mut model = Model::new([Opset::new("", 21)?, Opset::new(MICROSOFT, 1)?])?;
        model.set_graph(graph)?;
        let session = model.into_session(&runtime.session_options()?)?;
        Program::new(session, runtime, input_names, outputs.iter().map(|&(n, _)| n.to_owned()).collect())
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

    fn outlet(&self, name: &str, var: Var) -> Outlet {
        let value = &self.values[var.0 as usize];
        let (mut dims, mut symbols) = (Vec::new(), Vec::new());
        for dim in &value.shape {
            match dim {
                Dim::Size(size) => {
                    dims.push(i64::try_from(*size).expect("sizes are small"));
                    symbols.push(String::new());
                }
                Dim::Named(name) => {
                    dims.push(-1);
                    symbols.push((*name).to_owned());
                }
            }
        }
        Outlet::new(
            name,
            ValueType::Tensor {
                ty: value.kind,
                shape: Shape::new(dims),
                dimension_symbols: SymbolicDimensions::new(symbols),
            },
        )
    }

    fn emit(
        &self,
        graph: &mut OrtGraph,
        index: usize,
        names: &HashMap<Var, String>,
        cut: &HashMap<Var, &str>,
    ) -> Result<(), ProgramError> {
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
            return emit_prefix(graph, index, &inputs[0], &outputs[0], axis, (part, of));
        }
        let (name, domain, attributes) = self.spelled(node);
        let attributes = attributes
            .iter()
            .map(|(name, value)| match value {
                Attribute::Integer(v) => OrtAttribute::new(name, *v),
                Attribute::Integers(v) => OrtAttribute::new(name, v.clone()),
                Attribute::Float(v) => OrtAttribute::new(name, *v),
                Attribute::Text(v) => OrtAttribute::new(name, (*v).to_owned()),
            })
            .collect::<ort::Result<Vec<_>>>()?;
        let node = OrtNode::new(name, domain, format!("n{index}_{name}"), inputs, outputs, attributes)?;
        Ok(graph.add_node(node)?)
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

/// `Slice` up to extent · part / of.
fn emit_prefix(
    graph: &mut OrtGraph,
    index: usize,
    from: &str,
    to: &str,
    axis: usize,
    (part, of): (usize, usize),
) -> Result<(), ProgramError> {
    let small = |v: usize| i64::try_from(v).expect("ranks and parts are small");
    let name = |what: &str| format!("{RESERVED}n{index}_{what}");
    for (what, value) in [("start", 0), ("axis", small(axis)), ("part", small(part)), ("of", small(of))] {
        add_constant(graph, &name(what), &Constant::Integers(vec![value]), &[Dim::Size(1)])?;
    }
    let mut add = |op: &str, inputs: &[String], output: String, attributes: Vec<OrtAttribute>| {
        let node = OrtNode::new(op, "", format!("n{index}_{op}"), inputs, [output], attributes)?;
        graph.add_node(node)
    };
    let span = vec![OrtAttribute::new("start", small(axis))?, OrtAttribute::new("end", small(axis) + 1)?];
    add("Shape", &[from.to_owned()], name("extent"), span)?;
    add("Mul", &[name("extent"), name("part")], name("parts"), Vec::new())?;
    add("Div", &[name("parts"), name("of")], name("end"), Vec::new())?;
    add("Slice", &[from.to_owned(), name("start"), name("end"), name("axis")], to.to_owned(), Vec::new())?;
    Ok(())
}

fn add_constant(
    graph: &mut OrtGraph,
    name: &str,
    constant: &Constant,
    shape: &[Dim],
) -> Result<(), ProgramError> {
    let shape: Vec<i64> = shape.iter().map(|d| i64::try_from(d.size()).expect("sizes are small")).collect();
    let allocator = Allocator::default();
    match constant {
        Constant::Floats(values) => {
            let mut tensor = Tensor::<f32>::new(&allocator, shape)?;
            tensor.extract_tensor_mut().1.copy_from_slice(values);
            graph.add_initializer(name, tensor, false)?;
        }
        Constant::Integers(values) => {
            let mut tensor = Tensor::<i64>::new(&allocator, shape)?;
            tensor.extract_tensor_mut().1.copy_from_slice(values);
            graph.add_initializer(name, tensor, false)?;
        }
    }
    Ok(())
}
