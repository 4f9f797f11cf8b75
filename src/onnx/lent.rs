//! Tensors over memory that somebody else keeps, and tensors that a program takes over.

use std::ptr::NonNull;

use ort::AsPointer as _;
use ort::memory::{Allocator, MemoryInfo};
use ort::value::{DynTensor, PrimitiveTensorElementType, Tensor};

use super::program::ProgramError;

/// A tensor of `shape` over floats that are only read, and that the caller keeps for as long as a program has the tensor.
/// (`Tensor::from_array_view` would do, but bindings copy what such a view shows at every call.)
///
/// # Errors
/// When the runtime refuses the memory.
pub(crate) fn lent(values: &[f32], shape: &[usize]) -> Result<DynTensor, ProgramError> {
    over(values.as_ptr().cast_mut(), values.len(), shape)
}

/// As [`lent`], over floats that programs write to: a cache is input and output of the same run at the same address, which
/// is what the operation that uses it asks for.
///
/// # Errors
/// When the runtime refuses the memory.
pub(crate) fn lent_to_write(values: &mut [f32], shape: &[usize]) -> Result<DynTensor, ProgramError> {
    over(values.as_mut_ptr(), values.len(), shape)
}

#[expect(unsafe_code, reason = "ONNX Runtime takes borrowed memory by address")]
fn over(address: *mut f32, count: usize, shape: &[usize]) -> Result<DynTensor, ProgramError> {
    assert_eq!(count, shape.iter().product::<usize>(), "the values fill the shape");
    let shape = extents(shape);
    let mut value = std::ptr::null_mut();
    // SAFETY: address and count are those of a slice of floats. Whoever asks for the tensor keeps the memory with the
    // programs: `Stack` with `Weights`, which only read; `OnnxEngine`, which drops its programs first, and touches what they
    // write to only between runs. Its cache and adapters lie in vectors whose address stays until they are replaced, and
    // then a program is given new tensors before it runs again.
    unsafe {
        let status = (ort::api().CreateTensorWithDataAsOrtValue)(
            MemoryInfo::default().ptr(),
            address.cast(),
            count * size_of::<f32>(),
            shape.as_ptr(),
            shape.len(),
            ort::sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
            &raw mut value,
        );
        ort::Error::result_from_status(status)?;
        let value = NonNull::new(value).expect("a value comes with success");
        Ok(DynTensor::from_ptr(value, Some(&Allocator::default())))
    }
}

/// A tensor with memory of its own, which a program can take over.
///
/// # Errors
/// When memory is short.
pub(crate) fn owned<T>(values: &[T], shape: &[usize]) -> Result<DynTensor, ProgramError>
where
    T: PrimitiveTensorElementType + Copy + std::fmt::Debug + 'static,
{
    let mut tensor = Tensor::<T>::new(&Allocator::default(), extents(shape))?;
    tensor.extract_tensor_mut().1.copy_from_slice(values);
    Ok(tensor.upcast())
}

fn extents(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&n| i64::try_from(n).expect("sizes are small")).collect()
}
