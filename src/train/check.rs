//! Whether a job can be run.

use super::TrainError;
use super::example::Goal;
use super::run::Job;
use crate::onnx::llama::stack::Stack;

/// # Errors
/// What is unusable: an option, or the first example that does not fit.
pub(super) fn check(stack: &Stack, job: &Job<'_>) -> Result<(), TrainError> {
    if let Some((name, rule)) = job.options.problem() {
        return Err(TrainError::Option { name, rule });
    }
    let vocabulary = stack.architecture().vocabulary;
    let context = job.options.context;
    for (index, example) in job.examples.iter().chain(job.held_out).enumerate() {
        let tokens = example.tokens.len();
        if tokens > context {
            return Err(TrainError::TooLong { index, tokens, context });
        }
        if let Some(&token) = example.tokens.iter().find(|t| **t as usize >= vocabulary) {
            return Err(TrainError::Token { index, token, vocabulary });
        }
        assert_eq!(tokens, example.weights.len(), "each token has a weight");
    }
    if job.examples.iter().any(|e| e.goal == Goal::Tokens && e.counts()) {
        Ok(())
    } else {
        Err(TrainError::NoExamples)
    }
}
