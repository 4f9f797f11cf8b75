//! A graph as the bytes of an ONNX model (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>): the fields that ONNX
//! Runtime asks for.
//!
//! What is built with its editor cannot share packed weights with another session; a model that is read can.

use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::DynValue;
use prost::Message;

use super::outline::{Line, Outline, Port};
use super::{Attribute, Constant, Dim, F32, I64, MICROSOFT, OPSET};
use crate::onnx::program::ProgramError;

/// Of the format; the latest that goes with [`OPSET`].
const IR_VERSION: i64 = 10;

impl Outline {
    /// A session that packs initializers once together with other sessions of the same
    /// [`PrepackedWeights`](ort::session::builder::PrepackedWeights). Their memory must not be the runtime's own.
    pub(super) fn read(self, mut options: SessionBuilder) -> Result<Session, ProgramError> {
        let model = self.model();
        for (name, tensor) in self.initializers {
            let tensor: Arc<DynValue> = Arc::new(tensor.into_dyn());
            // The first lets the model do without the data, the second has it packed together.
            options = options.with_external_initializer(&name, tensor.clone())?;
            options = options.with_initializer(&name, tensor)?;
        }
        Ok(options.commit_from_memory(&model)?)
    }

    /// The model. Initializers are only named: a session is given them beside it.
    fn model(&self) -> Vec<u8> {
        let opset = |domain: &str, version| OperatorSet { domain: domain.to_owned(), version };
        let mut initializers: Vec<TensorProto> =
            self.constants.iter().map(|(name, shape, constant)| small(name, shape, constant)).collect();
        initializers.extend(self.initializers.iter().map(|(name, tensor)| TensorProto {
            dims: tensor.shape().to_vec(),
            data_type: code(*tensor.data_type()),
            name: name.clone(),
            raw_data: None,
            external_data: vec![Entry { key: "location".to_owned(), value: name.clone() }],
            data_location: EXTERNAL,
        }));
        let graph = GraphProto {
            node: self.nodes.iter().map(node).collect(),
            name: "graph".to_owned(),
            initializer: initializers,
            input: self.inputs.iter().map(port).collect(),
            output: self.outputs.iter().map(port).collect(),
        };
        let opset_import = vec![opset("", OPSET.into()), opset(MICROSOFT, 1)];
        ModelProto { ir_version: IR_VERSION, graph: Some(graph), opset_import }.encode_to_vec()
    }
}

fn code(kind: ort::value::TensorElementType) -> i32 {
    ort::sys::ONNXTensorElementDataType::from(kind) as i32
}

fn small(name: &str, shape: &[usize], constant: &Constant) -> TensorProto {
    let (kind, bytes) = match constant {
        Constant::Floats(values) => (F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Constant::Integers(values) => (I64, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    };
    TensorProto {
        dims: shape.iter().map(|&n| size(n)).collect(),
        data_type: code(kind),
        name: name.to_owned(),
        raw_data: Some(bytes),
        external_data: Vec::new(),
        data_location: 0,
    }
}

fn node(line: &Line) -> NodeProto {
    NodeProto {
        input: line.inputs.clone(),
        output: line.outputs.clone(),
        name: line.name.clone(),
        op_type: line.op.to_owned(),
        attribute: line.attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        domain: line.domain.to_owned(),
    }
}

fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    match value {
        Attribute::Float(v) => (proto.f, proto.r#type) = (Some(*v), 1),
        Attribute::Integer(v) => (proto.i, proto.r#type) = (Some(*v), 2),
        Attribute::Text(v) => (proto.s, proto.r#type) = (Some(v.as_bytes().to_vec()), 3),
        Attribute::Integers(v) => (proto.ints, proto.r#type) = (v.clone(), 7),
    }
    proto
}

fn port(port: &Port) -> ValueInfoProto {
    let dim = |dim: &Dim| match dim {
        Dim::Size(n) => DimProto { dim_value: Some(size(*n)), dim_param: None },
        Dim::Named(name) => DimProto { dim_value: None, dim_param: Some((*name).to_owned()) },
    };
    let shape = ShapeProto { dim: port.shape.iter().map(dim).collect() };
    let tensor = TensorTypeProto { elem_type: code(port.kind), shape: Some(shape) };
    ValueInfoProto { name: port.name.clone(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

fn size(n: usize) -> i64 {
    i64::try_from(n).expect("sizes are small")
}

/// `TensorProto.data_location`: the data is not in the model.
const EXTERNAL: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSet>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    domain: String,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, optional, tag = "2")]
    f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    s: Option<Vec<u8>>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    /// FLOAT 1, INT 2, STRING 3, INTS 7
    #[prost(int32, tag = "20")]
    r#type: i32,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    /// Little-endian, row-major.
    #[prost(bytes = "vec", optional, tag = "9")]
    raw_data: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<Entry>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfoProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorTypeProto {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<ShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct ShapeProto {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<DimProto>,
}

#[derive(Clone, PartialEq, Message)]
struct DimProto {
    #[prost(int64, optional, tag = "1")]
    dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    dim_param: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::graph::{Graph, Var};
    use crate::onnx::lent::lent;
    use crate::onnx::program::{Runtime, floats, read};
    use crate::onnx::testing::{Noise, runtime};

    /// An operation with each kind of attribute, constants of both kinds, a symbolic dimension, and a matrix that is lent.
    fn graph(weights: &[f32]) -> (Graph, Var) {
        let mut g = Graph::new();
        let x = g.input("x", &[Dim::Named("N"), 8.into()], F32);
        let matrix = g.initializer("matrix", lent(weights, &[16, 8]).unwrap());
        let y = g.linear(x, matrix);
        let shape = g.shape(y).to_vec();
        let tanh = vec![("approximate", Attribute::Text("tanh"))];
        let y = g.raw("Gelu", "", &[Some(y)], &[(shape, F32)], tanh)[0];
        let shift = g.floats(&[0.5], &[1]);
        let y = g.add(y, shift);
        let norm = g.floats(&[2.0; 16], &[16]);
        let y = g.rms_norm(y, norm, 1e-3);
        let halves = g.split(y, 1, &[8, 8]);
        let turned = g.transpose(halves[0], &[1, 0]);
        let turned = g.transpose(turned, &[1, 0]);
        let y = g.mul(turned, halves[1]);
        (g, y)
    }

    fn results(runtime: &Runtime, weights: &[f32], x: &[f32]) -> Vec<f32> {
        let (mut g, y) = graph(weights);
        let mut program = g.program(runtime, &[("y", y)], &[]).unwrap();
        let x = floats(&[x.len() / 8, 8], x.to_vec()).unwrap();
        read(&program.run(&[("x", &x)]).unwrap()[0]).unwrap().to_vec()
    }

    #[test]
    fn a_model_that_is_read_computes_what_the_built_graph_does() {
        let mut noise = Noise::new(5);
        let weights = noise.uniform(-1.0, 1.0, 16 * 8);
        let x = noise.uniform(-1.0, 1.0, 3 * 8);
        let built = results(&runtime(), &weights, &x);
        assert_eq!(built.len(), 3 * 8);
        let sharing = runtime().packing_once();
        for _ in 0..2 {
            assert_eq!(results(&sharing, &weights, &x), built);
        }
    }

    #[test]
    fn memory_of_the_runtime_itself_is_refused_in_words() {
        let sharing = runtime().packing_once();
        let mut g = Graph::new();
        let x = g.input("x", &[Dim::Named("N"), 8.into()], F32);
        let matrix = crate::onnx::lent::owned(&[1.0_f32; 128], &[16, 8]).unwrap();
        let matrix = g.initializer("matrix", matrix);
        let y = g.linear(x, matrix);
        let error = g.program(&sharing, &[("y", y)], &[]).unwrap_err();
        assert!(error.to_string().contains("owned by the user"), "{error}");
    }
}
