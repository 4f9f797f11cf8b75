//! A model's frozen weights as tensors, loaded once and given to every program that wants them.

use half::bf16;
use ort::memory::Allocator;
use ort::value::{DynTensor, Tensor, TensorElementType};

use super::Architecture;
use super::block::{
    ATTENTION_NORM, FEED_FORWARD_NORM, KEY_NORM, LayerStorage, QUERY_NORM, bias_name, weight_name,
};
use super::frozen::{OFFSETS, QUANTS, SCALES, Storage};
use crate::onnx::checkpoint::{Blocks, Held, LayerPart, Part, Prepared};
use crate::onnx::graph::F32;
use crate::onnx::lent::lent;
use crate::onnx::lora::{GROUPS, Projection};
use crate::onnx::program::{self, Program, ProgramError, Runtime};
use crate::onnx::resident::Resident;
use crate::onnx::runtime::Device;

/// Weights of a model, by the names of the inputs that they are given as.
pub struct Weights {
    pub architecture: Architecture,
    pub(super) embedding: Matrix,
    /// `None`: the embedding.
    output: Option<Matrix>,
    pub(super) norm: DynTensor,
    pub(super) layers: Vec<Layer>,
    /// How layers are stored: those that are alike share their programs.
    pub(super) kinds: Vec<LayerStorage>,
    /// The memory that the tensors lie in, where it is not their own.
    _memory: Option<Prepared>,
}

/// A layer's weights.
pub(super) struct Layer {
    /// Index into [`Weights::kinds`].
    pub kind: usize,
    given: Vec<(String, DynTensor)>,
}

impl Layer {
    pub fn give_to(&self, program: &mut Program) -> Result<(), ProgramError> {
        self.given.iter().try_for_each(|(name, value)| program.give(name, value))
    }
}

/// A frozen matrix.
pub(super) struct Matrix {
    pub storage: Storage,
    /// By what comes after the matrix's name.
    tensors: Vec<(&'static str, DynTensor)>,
}

impl Matrix {
    pub fn give_to(&self, program: &mut Program, name: &str) -> Result<(), ProgramError> {
        self.tensors.iter().try_for_each(|(end, value)| program.give(&format!("{name}{end}"), value))
    }

    fn floats(tensor: DynTensor) -> Self {
        Self { storage: Storage::Floats(F32), tensors: vec![("", tensor)] }
    }

    /// The same on the device.
    fn resident(self, resident: &mut Resident<'_>) -> Result<Self, ProgramError> {
        let put = |(end, tensor)| Ok((end, resident.put(tensor)?));
        Ok(Self { tensors: self.tensors.into_iter().map(put).collect::<Result<_, ProgramError>>()?, ..self })
    }

    /// The processor has no products of 16-bit floats.
    fn half(device: Device, values: Vec<bf16>, shape: [usize; 2]) -> Result<Self, ProgramError> {
        let kind = TensorElementType::Bfloat16;
        let storage = match device {
            Device::Cpu => Storage::Widened(kind),
            Device::Cuda(_) => Storage::Floats(kind),
        };
        Ok(Self { storage, tensors: vec![("", Tensor::from_array((shape, values))?.upcast())] })
    }

    fn blocks(blocks: Blocks) -> Result<Self, ProgramError> {
        let Blocks { bits, block, rows, columns, mut quants, scales, offsets } = blocks;
        // From an offset of 8 or 128 to two's complement: the highest bit turns.
        let (kind, highest) =
            if bits == 4 { (TensorElementType::Int4, 0x88) } else { (TensorElementType::Int8, 0x80) };
        quants.iter_mut().for_each(|byte| *byte ^= highest);
        let per_block = [rows, columns / block];
        let storage = Storage::Blocks { bits, block, offsets: offsets.is_some() };
        let mut tensors = vec![
            (QUANTS, packed(&quants, kind, &[rows, columns])?),
            (SCALES, program::floats(&per_block, scales)?),
        ];
        if let Some(offsets) = offsets {
            tensors.push((OFFSETS, program::floats(&per_block, offsets)?));
        }
        Ok(Self { storage, tensors })
    }
}

/// Vectors of a layer, with the names of their inputs and their lengths.
fn layer_vectors(model: &Architecture) -> Vec<(LayerPart, String, usize)> {
    let mut parts = vec![
        (LayerPart::AttentionNorm, ATTENTION_NORM.to_owned(), model.hidden),
        (LayerPart::FeedForwardNorm, FEED_FORWARD_NORM.to_owned(), model.hidden),
    ];
    if model.qkv_bias {
        for (part, projection) in BIASES {
            parts.push((part, bias_name(projection), projection.widths(model).1));
        }
    }
    if model.qk_norm {
        parts.push((LayerPart::QueryNorm, QUERY_NORM.to_owned(), model.head_dim));
        parts.push((LayerPart::KeyNorm, KEY_NORM.to_owned(), model.head_dim));
    }
    parts
}

/// In the order of [`Projection::ALL`].
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
    /// All weights as 32-bit floats in the device's memory. `read` gives a part's elements, row-major.
    ///
    /// # Errors
    /// What `read` fails at, or a part of another size than the architecture says.
    pub fn floats<E: From<ProgramError>>(
        runtime: &Runtime,
        architecture: Architecture,
        mut read: impl FnMut(Part, usize) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        Self::held(runtime, architecture, |part, count| Ok(Held::Floats(read(part, count)?)))
    }

    /// Weights in the device's memory, each matrix as `read` gives it; it is told how many elements the part has.
    ///
    /// # Errors
    /// What `read` fails at, or a part of another size than the architecture says.
    ///
    /// # Panics
    /// When `read` gives a vector otherwise than as 32-bit floats.
    pub fn held<E: From<ProgramError>>(
        runtime: &Runtime,
        architecture: Architecture,
        mut read: impl FnMut(Part, usize) -> Result<Held, E>,
    ) -> Result<Self, E> {
        let model = &architecture;
        let mut resident = Resident::on(runtime);
        let mut vector = |part, length: usize| -> Result<DynTensor, E> {
            match read(part, length)? {
                Held::Floats(values) => Ok(resident.put(program::floats(&[length], values)?)?),
                Held::Half(_) | Held::Blocks(_) => panic!("vectors are 32-bit floats"),
            }
        };
        let norm = vector(Part::Norm, model.hidden)?;
        let names = layer_vectors(model);
        let mut layers = (0..model.layers)
            .map(|layer| {
                let one = |(part, name, length): &(LayerPart, String, usize)| {
                    Ok((name.clone(), vector(Part::Layer(layer, *part), *length)?))
                };
                names.iter().map(one).collect()
            })
            .collect::<Result<Vec<Vec<_>>, E>>()?;

        let mut matrix = |part, (rows, columns): (usize, usize)| -> Result<Matrix, E> {
            let matrix = match read(part, rows * columns)? {
                Held::Floats(values) => Matrix::floats(program::floats(&[rows, columns], values)?),
                Held::Half(values) => Matrix::half(runtime.device(), values, [rows, columns])?,
                Held::Blocks(blocks) if part == Part::Embedding => Matrix::blocks(blocks.widened())?,
                Held::Blocks(blocks) => Matrix::blocks(blocks)?,
            };
            Ok(matrix.resident(&mut resident)?)
        };
        let table = (model.vocabulary, model.hidden);
        let embedding = matrix(Part::Embedding, table)?;
        let output = if model.tied { None } else { Some(matrix(Part::Output, table)?) };
        let mut kinds: Vec<LayerStorage> = Vec::new();
        let mut stored = Vec::new();
        for (layer, given) in layers.iter_mut().enumerate() {
            let mut storages = [Storage::Floats(F32); MATRICES.len()];
            for (storage, (part, projection)) in storages.iter_mut().zip(MATRICES) {
                let (columns, rows) = projection.widths(model);
                let found = matrix(Part::Layer(layer, part), (rows, columns))?;
                *storage = found.storage;
                let name = weight_name(projection);
                given.extend(found.tensors.into_iter().map(|(end, value)| (format!("{name}{end}"), value)));
            }
            let kind = kinds.iter().position(|k| *k == storages).unwrap_or_else(|| {
                kinds.push(storages);
                kinds.len() - 1
            });
            stored.push(kind);
        }
        let layers = stored.into_iter().zip(layers).map(|(kind, given)| Layer { kind, given }).collect();
        Ok(Self { architecture, embedding, output, norm, layers, kinds, _memory: None })
    }

    /// All weights as the 32-bit floats of a prepared file: on the processor where they lie, so that processes share the
    /// memory, else copied to the device.
    ///
    /// # Errors
    /// When the runtime refuses memory that is not its own, or the device's is full.
    pub fn mapped(
        runtime: &Runtime,
        architecture: Architecture,
        memory: Prepared,
    ) -> Result<Self, ProgramError> {
        let model = &architecture;
        let mut resident = Resident::on(runtime);
        let mut lent = |values: &[f32], shape: &[usize]| resident.put(lent(values, shape)?);
        let table = [model.vocabulary, model.hidden];
        let (queries, keys) = (model.query_width(), model.kv_width());
        let embedding = Matrix::floats(lent(memory.embedding(), &table)?);
        let output = if model.tied { None } else { Some(Matrix::floats(lent(memory.output(), &table)?)) };
        let norm = lent(memory.norm(), &[model.hidden])?;
        let layer = |index| -> Result<Layer, ProgramError> {
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
            Ok(Layer { kind: 0, given })
        };
        let layers = (0..model.layers).map(layer).collect::<Result<_, _>>()?;
        let kinds = vec![[Storage::Floats(F32); MATRICES.len()]];
        let memory = (runtime.device() == Device::Cpu).then_some(memory);
        Ok(Self { architecture, embedding, output, norm, layers, kinds, _memory: memory })
    }

    /// `[V, D]`
    pub(super) fn output(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// How each matrix is stored: embedding, output, then those of each layer.
    pub fn storage(&self) -> impl Iterator<Item = Storage> {
        let of_layers = self.layers.iter().flat_map(|layer| self.kinds[layer.kind]);
        [self.embedding.storage, self.output().storage].into_iter().chain(of_layers)
    }
}

/// Cosines and sines of rotary positions, `[positions, head_dim / 2]` each.
#[must_use]
pub fn rotary_tables(model: &Architecture, positions: usize) -> [Vec<f32>; 2] {
    #[expect(clippy::cast_precision_loss, reason = "positions are far below 2^52")]
    let angles: Vec<f64> =
        (0..positions).flat_map(|p| model.rotary_frequencies.iter().map(move |f| p as f64 * f)).collect();
    #[expect(clippy::cast_possible_truncation, reason = "computed in 64 bits, used in 32")]
    [f64::cos, f64::sin].map(|f| angles.iter().map(|&angle| f(angle) as f32).collect())
}

/// Rotary tables that grow with the longest sequence seen.
#[derive(Default)]
pub(super) struct Rotary(Option<(usize, [DynTensor; 2])>);

impl Rotary {
    /// Cosines and sines for at least `positions` positions.
    pub fn tables(
        &mut self,
        runtime: &Runtime,
        model: &Architecture,
        positions: usize,
    ) -> Result<&[DynTensor; 2], ProgramError> {
        if self.0.as_ref().is_none_or(|(most, _)| *most < positions) {
            let most = positions.next_power_of_two();
            let mut resident = Resident::on(runtime);
            let [cos, sin] = rotary_tables(model, most)
                .map(|table| resident.put(program::floats(&[most, model.head_dim / 2], table)?));
            self.0 = Some((most, [cos?, sin?]));
        }
        Ok(&self.0.as_ref().expect("just made").1)
    }
}

/// A tensor of whole numbers of 8 bits, or of 4, two of which are packed into a byte.
#[expect(unsafe_code, reason = "there is no Rust type of 4 bits to make the tensor of")]
fn packed(bytes: &[u8], kind: TensorElementType, shape: &[usize]) -> Result<DynTensor, ProgramError> {
    let mut tensor = DynTensor::new(&Allocator::default(), kind, shape)?;
    assert_eq!(tensor.size(), Some(bytes.len()), "the numbers fill the shape");
    // SAFETY: the tensor was just made in the processor's memory, of exactly as many bytes, and nobody else knows it.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), tensor.data_ptr_mut().cast(), bytes.len());
    }
    Ok(tensor)
}
