//! Which tokens see which: the mask that attention adds to its scores.

use super::Architecture;
use crate::onnx::graph::{Dim, Graph, I64};
use crate::onnx::program::{Program, ProgramError, Runtime};

/// Added to a score that must not count. Finite: the rows of padding would otherwise be NaN.
const HIDDEN: f32 = -1e9;

/// The program that makes a batch's mask: `segments [B, S]`, `places [S]` (0, 1, …) → `mask [B, 1, 1, S, S]`, 0 where the
/// query's token sees the key's, which is of its segment, not after it, and within the model's window. It is made where it is
/// used: as large as the scores of a head, it would take longer to copy to a device than to make there.
///
/// # Errors
/// When ONNX Runtime refuses the graph.
pub fn mask(model: &Architecture, runtime: &Runtime) -> Result<Program, ProgramError> {
    let mut g = Graph::new();
    let (b, s, one) = (Dim::Named("B"), Dim::Named("S"), Dim::Size(1));
    let segments = g.input("segments", &[b, s], I64);
    let places = g.input("places", &[s], I64);

    let of_queries = g.reshape(segments, &[b, one, one, s, one]);
    let of_keys = g.reshape(segments, &[b, one, one, one, s]);
    let same = g.compare("Equal", of_queries, of_keys);

    let (queries, keys) = (g.reshape(places, &[s, one]), g.reshape(places, &[one, s]));
    let not_after = g.compare("GreaterOrEqual", queries, keys);
    let mut seen = g.compare("And", same, not_after);
    if let Some(window) = model.sliding_window {
        let distance = g.sub(queries, keys);
        let window = g.integers(&[i64::try_from(window).expect("windows are small")]);
        let near = g.compare("Less", distance, window);
        seen = g.compare("And", seen, near);
    }

    let (visible, hidden) = (g.floats(&[0.0], &[1]), g.floats(&[HIDDEN], &[1]));
    let mask = g.choose(seen, visible, hidden);
    g.program(runtime, &[("mask", mask)], &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::program::{self, integers};
    use crate::onnx::testing;

    #[test]
    fn tokens_see_their_segment_up_to_themselves_within_the_window() {
        let runtime = testing::runtime();
        let segments: [[i64; 5]; 2] = [[1, 1, 2, 2, 2], [1, 1, 1, 1, 0]];
        for window in [None, Some(2)] {
            let mut model = testing::tiny_weights(&runtime, 1).architecture;
            model.sliding_window = window;
            let found = mask(&model, &runtime)
                .unwrap()
                .run(&[
                    ("segments", &integers(&[2, 5], segments.concat()).unwrap()),
                    ("places", &integers(&[5], (0..5).collect()).unwrap()),
                ])
                .unwrap();
            assert_eq!(**found[0].shape(), [2, 1, 1, 5, 5]);
            let mask = program::read(&found[0]).unwrap();
            for (row, segments) in segments.iter().enumerate() {
                for (query, key) in (0..25).map(|i| (i / 5, i % 5)) {
                    let near = window.is_none_or(|w| query < key + w);
                    let sees = segments[query] == segments[key] && key <= query && near;
                    let expected = if sees { 0.0 } else { HIDDEN };
                    assert_eq!(mask[(row * 5 + query) * 5 + key].to_bits(), expected.to_bits());
                }
            }
        }
    }
}
