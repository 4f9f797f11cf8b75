//! Examples to batches: several short examples share a row, each seeing only itself.

use crate::onnx::llama::batch::{Batch, Slot};
use crate::onnx::program::ProgramError;

use super::example::Example;

/// Where the examples of a pass lie.
pub(super) struct Packed {
    pub batch: Batch,
    /// For each example, by its index among those that were packed: the position of its first token in the batch.
    pub placed: Vec<(usize, usize)>,
}

/// Passes over `examples`, given with indices of the caller's, each of about `pass_tokens` tokens at most.
pub(super) fn passes(
    examples: &[(usize, &Example)],
    pass_tokens: usize,
) -> Result<Vec<Packed>, ProgramError> {
    let lengths: Vec<usize> = examples.iter().map(|(_, e)| e.tokens.len()).collect();
    rows(&lengths, pass_tokens).into_iter().map(|(length, rows)| pass(examples, length, &rows)).collect()
}

/// Rows of indices, each with at most the pass's length in tokens, in passes of at most `pass_tokens` (or one row).
fn rows(lengths: &[usize], pass_tokens: usize) -> Vec<(usize, Vec<Vec<usize>>)> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // Longest first, then by index: where an example lands must not depend on anything else.
    order.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    let mut passes: Vec<(usize, Vec<Vec<usize>>)> = Vec::new();
    let used = |row: &[usize]| row.iter().map(|&i| lengths[i]).sum::<usize>();
    for index in order {
        let fitting = passes.iter_mut().find_map(|(length, rows)| {
            if let Some(row) = rows.iter().position(|row| used(row) + lengths[index] <= *length) {
                return Some(&mut rows[row]);
            }
            if (rows.len() + 1) * *length > pass_tokens {
                return None;
            }
            rows.push(Vec::new());
            rows.last_mut()
        });
        match fitting {
            Some(row) => row.push(index),
            None => passes.push((Batch::padded(lengths[index]), vec![vec![index]])),
        }
    }
    passes
}

fn pass(examples: &[(usize, &Example)], length: usize, rows: &[Vec<usize>]) -> Result<Packed, ProgramError> {
    let mut slots = Vec::with_capacity(rows.len() * length);
    let mut placed = Vec::new();
    for (row, indices) in rows.iter().enumerate() {
        for (segment, &index) in (1..).zip(indices) {
            let (name, example) = examples[index];
            placed.push((name, slots.len()));
            let slot = |(&token, position)| Slot { token, position, segment };
            slots.extend(example.tokens.iter().zip(0..).map(slot));
        }
        slots.resize((row + 1) * length, Slot::default());
    }
    Ok(Packed { batch: Batch::new(&slots, length)?, placed })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_example_has_one_place_and_no_row_is_overfull(
            lengths in proptest::collection::vec(1_usize..300, 1..40), pass_tokens in 1_usize..1500,
        ) {
            let mut seen = vec![0; lengths.len()];
            for (length, rows) in rows(&lengths, pass_tokens) {
                prop_assert!(rows.len() == 1 || rows.len() * length <= pass_tokens);
                for row in rows {
                    prop_assert!(row.iter().map(|&i| lengths[i]).sum::<usize>() <= length);
                    row.iter().for_each(|&i| seen[i] += 1);
                }
            }
            prop_assert!(seen.iter().all(|&n| n == 1));
        }
    }
}
