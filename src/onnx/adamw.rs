//! The AdamW step on a flat vector, as a program: Loshchilov and Hutter 2019, <https://arxiv.org/abs/1711.05101>.

use ort::value::DynTensor;

use super::graph::{F32, Graph};
use super::program::{self, Program, ProgramError, Runtime};

/// Decay of the first moment.
const BETA1: f32 = 0.9;
/// Decay of the second moment.
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// The optimiser of vectors of one length.
#[derive(Debug)]
pub struct AdamW(Program);

/// What one vector has become, and what the optimiser keeps of it; all `[P]`.
#[derive(Debug)]
pub struct Moments {
    pub values: DynTensor,
    pub first: DynTensor,
    pub second: DynTensor,
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Counted from 1.
    pub number: u64,
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// What gradients are multiplied by first: less than 1 where their norm is cut.
    pub gradient_scale: f64,
}

impl AdamW {
    /// # Errors
    /// When ONNX Runtime refuses the graph.
    pub fn new(length: usize, runtime: &Runtime) -> Result<Self, ProgramError> {
        let mut g = Graph::new();
        let vector = [length.into()];
        let [values, first, second, gradient] =
            ["values", "first", "second", "gradient"].map(|name| g.input(name, &vector, F32));
        let [rate, kept, c1, c2, scale] =
            ["rate", "kept", "c1", "c2", "scale"].map(|name| g.input(name, &[1.into()], F32));

        let gradient = g.mul(gradient, scale);
        let new_first = {
            let old = g.scaled(first, BETA1);
            let new = g.scaled(gradient, 1.0 - BETA1);
            g.add(old, new)
        };
        let new_second = {
            let old = g.scaled(second, BETA2);
            let square = g.mul(gradient, gradient);
            let new = g.scaled(square, 1.0 - BETA2);
            g.add(old, new)
        };
        let corrected = g.mul(new_second, c2);
        let root = g.sqrt(corrected);
        let root = g.plus(root, EPSILON);
        let mean = g.mul(new_first, c1);
        let direction = g.div(mean, root);
        let change = g.mul(direction, rate);
        let decayed = g.mul(values, kept);
        let new_values = g.sub(decayed, change);
        let outputs = [("new_values", new_values), ("new_first", new_first), ("new_second", new_second)];
        Ok(Self(g.program(runtime, &outputs, &[])?))
    }

    /// Moves vectors against their gradients.
    ///
    /// # Errors
    /// When the runtime fails.
    pub fn step(
        &mut self,
        of: &[Moments],
        gradients: &[DynTensor],
        step: Step,
    ) -> Result<Vec<Moments>, ProgramError> {
        #[expect(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
        let t = step.number as f64;
        let correction = |beta: f32| 1.0 / (1.0 - f64::from(beta).powf(t));
        for (name, value) in [
            ("rate", step.learning_rate),
            ("kept", 1.0 - step.learning_rate * step.weight_decay),
            ("c1", correction(BETA1)),
            ("c2", correction(BETA2)),
            ("scale", step.gradient_scale),
        ] {
            #[expect(clippy::cast_possible_truncation, reason = "computed in 64 bits, used in 32")]
            self.0.give(name, &program::floats(&[1], vec![value as f32])?)?;
        }
        let one = |(of, gradient): (&Moments, &DynTensor)| {
            let outputs = self.0.run(&[
                ("values", &of.values),
                ("first", &of.first),
                ("second", &of.second),
                ("gradient", gradient),
            ])?;
            let [values, first, second] = <[DynTensor; 3]>::try_from(outputs).expect("it has three outputs");
            Ok(Moments { values, first, second })
        };
        of.iter().zip(gradients).map(one).collect()
    }
}
