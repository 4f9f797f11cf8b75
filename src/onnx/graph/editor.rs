//! A graph as ONNX Runtime's editor builds it: weights change hands, nothing is copied.

use ort::editor::{Graph, Model, Node, Opset};
use ort::operator::Attribute as OrtAttribute;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::{Outlet, Shape, SymbolicDimensions, ValueType};

use super::outline::{Line, Outline, Port};
use super::{Attribute, Constant, Dim, MICROSOFT, OPSET};
use crate::onnx::lent::owned;
use crate::onnx::program::ProgramError;

/// ONNX Runtime takes over the memory of initializers from 128 bytes on.
const MANY: usize = 128;

impl Outline {
    /// A session of its own for this graph.
    pub(super) fn build(self, options: &SessionBuilder) -> Result<Session, ProgramError> {
        let mut graph = Graph::new()?;
        for (name, shape, constant) in &self.constants {
            let tensor = match constant {
                Constant::Floats(values) => owned(values, shape)?,
                Constant::Integers(values) => owned(values, shape)?,
            };
            graph.add_initializer(name, tensor, false)?;
        }
        graph.set_inputs(self.inputs.iter().map(outlet))?;
        graph.set_outputs(self.outputs.iter().map(outlet))?;
        for line in self.nodes {
            graph.add_node(node(line)?)?;
        }
        for (name, tensor) in self.initializers {
            // Larger ones stay where they are; others the runtime wants to look into when it works out shapes.
            let is_large = tensor.shape().num_elements() >= MANY;
            graph.add_initializer(&name, tensor, is_large)?;
        }
        let mut model = Model::new([Opset::new("", OPSET)?, Opset::new(MICROSOFT, 1)?])?;
        model.set_graph(graph)?;
        Ok(model.into_session(options)?)
    }
}

fn node(line: Line) -> ort::Result<Node> {
    let attributes = line.attributes.into_iter().map(|(name, value)| match value {
        Attribute::Integer(v) => OrtAttribute::new(name, v),
        Attribute::Integers(v) => OrtAttribute::new(name, v),
        Attribute::Float(v) => OrtAttribute::new(name, v),
        Attribute::Text(v) => OrtAttribute::new(name, v.to_owned()),
    });
    let attributes = attributes.collect::<ort::Result<Vec<_>>>()?;
    Node::new(line.op, line.domain, line.name, line.inputs, line.outputs, attributes)
}

fn outlet(port: &Port) -> Outlet {
    let (mut dims, mut symbols) = (Vec::new(), Vec::new());
    for dim in &port.shape {
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
    let (shape, dimension_symbols) = (Shape::new(dims), SymbolicDimensions::new(symbols));
    Outlet::new(&port.name, ValueType::Tensor { ty: port.kind, shape, dimension_symbols })
}
