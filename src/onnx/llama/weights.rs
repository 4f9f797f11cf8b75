//! A model's frozen weights as tensors, loaded once and given to every program that wants them.

use std::ptr::NonNull;

use ort::AsPointer as _;
use ort::memory::{Allocator, MemoryInfo};
use ort::value::DynTensor;

use super::Architecture;
use super::block::{
    ATTENTION_NORM, FEED_FORWARD_NORM, KEY_NORM, QUERY_NORM, Storage, bias_name, weight_name,
};
use crate::onnx::checkpoint::{LayerPart, Part, Prepared};
use crate::onnx::graph::F32;
use crate::onnx::lora::{GROUPS, Projection};
use crate::onnx::program::{self, ProgramError, Runtime};

/// Weights of a model, by the names of the inputs that they are given as.
pub struct Weights {
    pub architecture: Architecture,
    pub(super) storage: Storage,
    pub(super) embedding: DynTensor,
    /// `None`: the embedding.
    pub(super) output: Option<DynTensor>,
    pub(super) norm: DynTensor,
    pub(super) layers: Vec<Vec<(String, DynTensor)>>,
    /// The memory that the tensors lie in, where it is not their own.
    _memory: Option<Prepared>,
}

/// Parts of a layer, with the names of their inputs, rows and columns (vectors: one row).
fn layer_parts(model: &Architecture) -> Vec<(LayerPart, String, (usize, usize))> {
    let mut parts = vec![
        (LayerPart::AttentionNorm, ATTENTION_NORM.to_owned(), (1, model.hidden)),
        (LayerPart::FeedForwardNorm, FEED_FORWARD_NORM.to_owned(), (1, model.hidden)),
    ];
    for (part, projection) in MATRICES {
        let (columns, rows) = projection.widths(model);
        parts.push((part, weight_name(projection).to_owned(), (rows, columns)));
    }
    if model.qkv_bias {
        for (part, projection) in BIASES {
            parts.push((part, bias_name(projection), (1, projection.widths(model).1)));
        }
    }
    if model.qk_norm {
        parts.push((LayerPart::QueryNorm, QUERY_NORM.to_owned(), (1, model.head_dim)));
        parts.push((LayerPart::KeyNorm, KEY_NORM.to_owned(), (1, model.head_dim)));
    }
    parts
}

const MATRICES: [(LayerPart, Projection); 7] = [
    (LayerPart::Query, Projection::Query),
    (LayerPart::Key, Projection::Key),
    (LayerPart::Value, Projection::Value),
    (LayerPart::AttentionOutput, Projection::Output),
    (LayerPart::Gate, Projection::Gate),
    (LayerPart::Up, Projection::Up),
    (LayerPart::Down, Projection::Down),
];

const BIASES: [(LayerPart, Projection); 3] = [
    (LayerPart::QueryBias, Projection::Query),
    (LayerPart::KeyBias, Projection::Key),
    (LayerPart::ValueBias, Projection::Value),
];

impl Weights {
    /// All weights as 32-bit floats in the processor's memory. `read` gives a part's elements, row-major.
    ///
    /// # Errors
    /// What `read` fails at, or a part of another size than the architecture says.
    pub fn floats<E: From<ProgramError>>(
        _runtime: &Runtime,
        architecture: Architecture,
        mut read: impl FnMut(Part, usize) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let model = &architecture;
        let mut tensor = |part, (rows, columns): (usize, usize)| -> Result<DynTensor, E> {
            let values = read(part, rows * columns)?;
            let shape = if rows == 1 { vec![columns] } else { vec![rows, columns] };
            Ok(program::floats(&shape, values)?)
        };
        let table = (model.vocabulary, model.hidden);
        let embedding = tensor(Part::Embedding, table)?;
        let output = if model.tied { None } else { Some(tensor(Part::Output, table)?) };
        let norm = tensor(Part::Norm, (1, model.hidden))?;
        let parts = layer_parts(model);
        let layers = (0..model.layers)
            .map(|layer| {
                let one = |(part, name, size): &(LayerPart, String, (usize, usize))| {
                    Ok((name.clone(), tensor(Part::Layer(layer, *part), *size)?))
                };
                parts.iter().map(one).collect::<Result<Vec<_>, E>>()
            })
            .collect::<Result<Vec<_>, E>>()?;
        Ok(Self {
            architecture,
            storage: Storage::Floats(F32),
            embedding,
            output,
            norm,
            layers,
            _memory: None,
        })
    }

    /// All weights as the 32-bit floats of a prepared file, where they lie: processes that do so share the memory.
    ///
    /// # Errors
    /// When the runtime refuses memory that is not its own.
    pub fn mapped(
        _runtime: &Runtime,
        architecture: Architecture,
        memory: Prepared,
    ) -> Result<Self, ProgramError> {
        let model = &architecture;
        let table = [model.vocabulary, model.hidden];
        let (queries, keys) = (model.query_width(), model.kv_width());
        let embedding = lent(memory.embedding(), &table)?;
        let output = if model.tied { None } else { Some(lent(memory.output(), &table)?) };
        let norm = lent(memory.norm(), &[model.hidden])?;
        let layer = |index| -> Result<Vec<(String, DynTensor)>, ProgramError> {
            let layer = memory.layer(index);
            let mut given = Vec::new();
            let mut give = |name: String, values: &[f32], shape: &[usize]| -> Result<(), ProgramError> {
                given.push((name, lent(values, shape)?));
                Ok(())
            };
            give(ATTENTION_NORM.to_owned(), layer.attention_norm, &[model.hidden])?;
            give(FEED_FORWARD_NORM.to_owned(), layer.feed_forward_norm, &[model.hidden])?;
            for (joined, projections) in [
                (layer.qkv, GROUPS[0]),
                (layer.attention_output, GROUPS[1]),
                (layer.gate_up, GROUPS[2]),
                (layer.down, GROUPS[3]),
            ] {
                let mut rest = joined;
                for projection in projections {
                    let (columns, rows) = projection.widths(model);
                    let (values, after) = rest.split_at(rows * columns);
                    give(weight_name(*projection).to_owned(), values, &[rows, columns])?;
                    rest = after;
                }
            }
            if let Some(bias) = layer.qkv_bias {
                for (projection, span) in GROUPS[0].iter().zip([
                    0..queries,
                    queries..queries + keys,
                    queries + keys..queries + 2 * keys,
                ]) {
                    give(bias_name(*projection), &bias[span.clone()], &[span.len()])?;
                }
            }
            if let Some((query, key)) = layer.head_norms {
                give(QUERY_NORM.to_owned(), query, &[model.head_dim])?;
                give(KEY_NORM.to_owned(), key, &[model.head_dim])?;
            }
            Ok(given)
        };
        let layers = (0..model.layers).map(layer).collect::<Result<_, _>>()?;
        Ok(Self {
            architecture,
            storage: Storage::Floats(F32),
            embedding,
            output,
            norm,
            layers,
            _memory: Some(memory),
        })
    }

    /// `[V, D]`
    #[must_use]
    pub fn output(&self) -> &DynTensor {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    #[must_use]
    pub fn embedding(&self) -> &DynTensor {
        &self.embedding
    }

    /// `[D]`
    #[must_use]
    pub fn norm(&self) -> &DynTensor {
        &self.norm
    }
}

/// Cosines and sines of rotary positions, `[positions, head_dim / 2]` each.
///
/// # Errors
/// When memory is short.
pub fn rotary_tables(model: &Architecture, positions: usize) -> Result<[DynTensor; 2], ProgramError> {
    #[expect(clippy::cast_precision_loss, reason = "positions are far below 2^52")]
    let angles: Vec<f64> =
        (0..positions).flat_map(|p| model.rotary_frequencies.iter().map(move |f| p as f64 * f)).collect();
    let shape = [positions, model.head_dim / 2];
    #[expect(clippy::cast_possible_truncation, reason = "computed in 64 bits, used in 32")]
    let table = |f: fn(f64) -> f64| program::floats(&shape, angles.iter().map(|&a| f(a) as f32).collect());
    Ok([table(f64::cos)?, table(f64::sin)?])
}

/// Rotary tables that grow with the longest sequence seen.
#[derive(Default)]
pub(super) struct Rotary(Option<(usize, [DynTensor; 2])>);

impl Rotary {
    /// Cosines and sines for at least `positions` positions.
    pub fn tables(
        &mut self,
        model: &Architecture,
        positions: usize,
    ) -> Result<&[DynTensor; 2], ProgramError> {
        let enough = self.0.take_if(|(most, _)| *most >= positions);
        let (most, tables) = match enough {
            Some(tables) => tables,
            None => (positions.next_power_of_two(), rotary_tables(model, positions.next_power_of_two())?),
        };
        Ok(&self.0.insert((most, tables)).1)
    }
}

/// A tensor over memory that somebody else keeps.
///
/// `Tensor::from_array_view` would do, but bindings copy what such a view shows at every call.
#[expect(unsafe_code, reason = "ONNX Runtime takes borrowed memory by address")]
fn lent(values: &[f32], shape: &[usize]) -> Result<DynTensor, ProgramError> {
    assert_eq!(values.len(), shape.iter().product::<usize>(), "the values fill the shape");
    let shape: Vec<i64> = shape.iter().map(|&n| i64::try_from(n).expect("sizes are small")).collect();
    let mut value = std::ptr::null_mut();
    // SAFETY: the address and length are those of a slice of floats; it is only read, since these tensors are bound as
    // inputs and never as outputs; it outlives the tensor, since `Weights` keeps the memory with the tensors over it, and
    // `Stack` keeps `Weights` with the programs that they are bound to.
    let tensor = unsafe {
        let status = (ort::api().CreateTensorWithDataAsOrtValue)(
            MemoryInfo::default().ptr(),
            values.as_ptr().cast_mut().cast(),
            size_of_val(values),
            shape.as_ptr(),
            shape.len(),
            ort::sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
            &raw mut value,
        );
        ort::Error::result_from_status(status)?;
        let value = NonNull::new(value).expect("a value comes with success");
        DynTensor::from_ptr(value, Some(&Allocator::default()))
    };
    Ok(tensor)
}
