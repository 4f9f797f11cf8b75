//! Values that stay on the device: what lies elsewhere is copied there each time a program is given it.

use ort::value::{DynTensor, TensorElementType};

use super::graph::{Dim, Graph};
use super::program::{Program, ProgramError, Runtime};
use super::runtime::Device;

/// Names of the axes of what is copied.
const AXES: [&str; 5] = ["A", "B", "C", "D", "E"];

/// Type and number of axes.
type Kind = (TensorElementType, usize);

/// Brings values to the device of a runtime.
#[derive(Debug)]
pub struct Resident<'a> {
    runtime: &'a Runtime,
    /// (`ort` can copy as well, but not 16-bit floats.)
    copies: Vec<(Kind, Program)>,
}

impl<'a> Resident<'a> {
    #[must_use]
    pub fn on(runtime: &'a Runtime) -> Self {
        Self { runtime, copies: Vec::new() }
    }

    /// `value`, which has at most five axes, in the device's memory. Integers of 4 bits stay where they are: the runtime has no
    /// operation that hands them on as they are.
    ///
    /// # Errors
    /// When the device's memory is full.
    pub fn put(&mut self, value: DynTensor) -> Result<DynTensor, ProgramError> {
        match self.runtime.device() {
            Device::Cuda(_) if *value.data_type() != TensorElementType::Int4 => self.copy(&value),
            Device::Cpu | Device::Cuda(_) => Ok(value),
        }
    }

    /// A copy where programs leave what they compute.
    fn copy(&mut self, value: &DynTensor) -> Result<DynTensor, ProgramError> {
        let kind = (*value.data_type(), value.shape().len());
        let index = match self.copies.iter().position(|(of, _)| *of == kind) {
            Some(index) => index,
            None => {
                self.copies.push((kind, copies(self.runtime, kind)?));
                self.copies.len() - 1
            }
        };
        let program = &mut self.copies[index].1;
        let copy = program.run(&[("value", value)])?.remove(0);
        program.forget_inputs();
        Ok(copy)
    }
}

fn copies(runtime: &Runtime, (kind, axes): Kind) -> Result<Program, ProgramError> {
    let mut g = Graph::new();
    let shape: Vec<Dim> = AXES[..axes].iter().map(|name| Dim::Named(name)).collect();
    let value = g.input("value", &shape, kind);
    let copy = g.raw("Identity", "", &[Some(value)], &[(shape, kind)], Vec::new())[0];
    g.program(runtime, &[("copy", copy)], &[])
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use ort::value::Tensor;

    use super::*;
    use crate::onnx::program::{self, integers};
    use crate::onnx::testing;

    #[test]
    fn what_programs_are_given_can_be_copied() {
        let runtime = testing::runtime();
        let mut resident = Resident::on(&runtime);
        let halves: Vec<bf16> = (0..64_u8).map(|n| bf16::from_f32(f32::from(n) / 4.0)).collect();
        for tensor in [
            program::floats(&[2, 32], vec![-0.25; 64]).unwrap(),
            program::floats(&[3], vec![1.0, 2.0, 3.0]).unwrap(),
            integers(&[1, 1, 2], vec![i64::MIN, 7]).unwrap(),
            Tensor::from_array(([2_usize, 32], halves)).unwrap().upcast(),
            Tensor::from_array(([2_usize, 32], (0..64).collect::<Vec<i8>>())).unwrap().upcast(),
        ] {
            let kind = *tensor.data_type();
            let copy = resident.copy(&tensor).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            assert_eq!((copy.shape(), *copy.data_type()), (tensor.shape(), kind));
            assert_ne!(copy.data_ptr(), tensor.data_ptr());
            assert_eq!(bytes(&copy), bytes(&tensor), "{kind:?}");
        }
    }

    #[expect(unsafe_code, reason = "the test looks at values of several types in one way")]
    fn bytes(tensor: &DynTensor) -> &[u8] {
        let width = match tensor.data_type() {
            TensorElementType::Int8 => 1,
            TensorElementType::Bfloat16 => 2,
            TensorElementType::Float32 => 4,
            _ => 8,
        };
        let count = tensor.shape().num_elements();
        // SAFETY: the tensor lies in the processor's memory, of as many elements of that width.
        unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), count * width) }
    }
}
