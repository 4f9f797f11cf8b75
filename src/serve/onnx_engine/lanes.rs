//! Adapters side by side, in the form in which the forward pass takes them.
//!
//! A lane is one rank of one adapter: a row of A and a column of B for every projection. An adapter of rank r has r lanes
//! next to each other. A run is given the lanes from the first to the last that it uses, where they lie: an adapter
//! that comes or goes costs what writing its own lanes costs, and a run with one adapter computes with that one alone.
//!
//! Always true: all numbers in all lanes are finite, so that what a mask multiplies by 0 is 0.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Instant;

use ort::value::DynTensor;

use super::{OnnxEngineError, Pass};
use crate::onnx::lent::lent;
use crate::onnx::llama::Architecture;
use crate::onnx::lora::{Factor, GROUPS, Lora, Piece, all_finite};
use crate::onnx::program;

/// Lanes that there are from the first adapter on. Memory is only taken by those that were written.
const FEWEST: usize = 64;

/// The name of the input that holds the lanes of a group of projections in a layer.
pub(super) fn name_of(layer: usize, group: usize, factor: Factor) -> String {
    format!("{factor:?}.{layer}.{group}")
}

struct Held {
    /// Keeps the address from being given to another adapter, not the adapter.
    adapter: Weak<Lora>,
    lanes: Range<usize>,
    /// When a run last used it.
    used: u64,
}

/// One group of one layer.
struct Bank {
    /// `[lanes, projections, in]`
    a: Vec<f32>,
    /// `[lanes, projections, out of all projections]`: 0 where the output is another projection's, which nothing ever
    /// writes to.
    b: Vec<f32>,
}

pub(super) struct Lanes {
    model: Architecture,
    capacity: usize,
    /// `[layers, groups]`
    banks: Vec<Bank>,
    held: Vec<Held>,
    runs: u64,
    /// Counts how often the banks moved.
    version: u64,
}

/// Columns in and out of a group, projections together.
fn widths(model: &Architecture, group: usize) -> (usize, usize) {
    let outputs = GROUPS[group].iter().map(|p| p.widths(model).1).sum();
    (GROUPS[group][0].widths(model).0, outputs)
}

impl Lanes {
    pub fn new(model: Architecture) -> Self {
        let banks = (0..model.layers * GROUPS.len()).map(|_| Bank { a: Vec::new(), b: Vec::new() }).collect();
        Self { model, capacity: 0, banks, held: Vec::new(), runs: 0, version: 0 }
    }

    /// Gives `pass` the lanes and masks of a run; one adapter for each of its rows.
    pub fn give(&mut self, pass: &mut Pass, rows: &[Option<&Arc<Lora>>]) -> Result<(), OnnxEngineError> {
        self.runs += 1;
        let mut lanes: Vec<Option<Range<usize>>> = Vec::new();
        for adapter in rows {
            lanes.push(adapter.map(|adapter| self.place(adapter)).transpose()?);
        }
        let start = lanes.iter().flatten().map(|lanes| lanes.start).min().unwrap_or(0);
        let end = lanes.iter().flatten().map(|lanes| lanes.end).max().unwrap_or(0);
        for width in 1..=3 {
            let mut mask = vec![0.0; rows.len() * (end - start) * width];
            let masks = mask.chunks_exact_mut(((end - start) * width).max(1));
            for ((adapter, lanes), mask) in rows.iter().zip(&lanes).zip(masks) {
                if let (Some(adapter), Some(lanes)) = (adapter, lanes) {
                    mask[(lanes.start - start) * width..(lanes.end - start) * width]
                        .fill(adapter.shape.scale);
                }
            }
            let mask = program::floats(&[rows.len(), 1, (end - start) * width], mask)?;
            pass.program.give(&format!("mask.{width}"), &mask)?;
        }
        let now = Some((self.version, start..end));
        if pass.lanes != now {
            pass.lanes = None;
            for layer in 0..self.model.layers {
                for group in 0..GROUPS.len() {
                    for factor in [Factor::A, Factor::B] {
                        let view = self.view(layer, group, factor, &(start..end))?;
                        pass.program.give(&name_of(layer, group, factor), &view)?;
                    }
                }
            }
            pass.lanes = now;
        }
        Ok(())
    }

    fn view(
        &self,
        layer: usize,
        group: usize,
        factor: Factor,
        lanes: &Range<usize>,
    ) -> Result<DynTensor, OnnxEngineError> {
        let bank = &self.banks[layer * GROUPS.len() + group];
        let (input, output) = widths(&self.model, group);
        let (values, columns) = match factor {
            Factor::A => (&bank.a, input),
            Factor::B => (&bank.b, output),
        };
        let projections = GROUPS[group].len();
        let row = projections * columns;
        Ok(lent(&values[lanes.start * row..lanes.end * row], &[lanes.len() * projections, columns])?)
    }

    /// The lanes of an adapter, written where it has none yet.
    fn place(&mut self, adapter: &Arc<Lora>) -> Result<Range<usize>, OnnxEngineError> {
        let now = self.runs;
        let here =
            self.held.iter_mut().find(|held| std::ptr::eq(held.adapter.as_ptr(), Arc::as_ptr(adapter)));
        if let Some(held) = here {
            held.used = now;
            return Ok(held.lanes.clone());
        }
        fits(&self.model, adapter)?;
        let began = Instant::now();
        let lanes = self.room(adapter.shape.rank);
        let pieces = adapter.shape.pieces(&self.model);
        for (layer, vector) in adapter.layers.iter().enumerate() {
            // Of this adapter, too: lanes hold only what is finite. A layer's vector is read from memory once for both.
            if !all_finite(vector) {
                return Err(OnnxEngineError::NotFinite);
            }
            self.write(layer, &lanes, &pieces, vector);
        }
        self.held.push(Held { adapter: Arc::downgrade(adapter), lanes: lanes.clone(), used: now });
        self.held.sort_by_key(|held| held.lanes.start);
        let milliseconds = began.elapsed().as_secs_f64() * 1e3;
        tracing::info!(milliseconds, ?lanes, "an adapter has its place in the engine");
        Ok(lanes)
    }

    /// Free lanes: those of adapters that are gone, then those that were not used for longest, then new ones.
    fn room(&mut self, rank: usize) -> Range<usize> {
        self.held.retain(|held| held.adapter.strong_count() > 0);
        loop {
            let mut start = 0;
            for held in &self.held {
                if held.lanes.start - start >= rank {
                    return start..start + rank;
                }
                start = held.lanes.end;
            }
            if self.capacity >= start + rank {
                return start..start + rank;
            }
            let idle = self.held.iter().filter(|held| held.used < self.runs).map(|held| held.used).min();
            match idle {
                Some(idle) => self.held.retain(|held| held.used != idle),
                None => self.grow(start + rank),
            }
        }
    }

    fn grow(&mut self, lanes: usize) {
        self.capacity = lanes.next_power_of_two().max(FEWEST);
        self.version += 1;
        for (index, bank) in self.banks.iter_mut().enumerate() {
            let group = index % GROUPS.len();
            let (input, output) = widths(&self.model, group);
            let rows = self.capacity * GROUPS[group].len();
            for (values, columns) in [(&mut bank.a, input), (&mut bank.b, output)] {
                // Zeros from the system take no memory until they are written.
                let mut larger = vec![0.0; rows * columns];
                larger[..values.len()].copy_from_slice(values);
                *values = larger;
            }
        }
    }

    fn write(&mut self, layer: usize, lanes: &Range<usize>, pieces: &[Piece], vector: &[f32]) {
        for (group, projections) in GROUPS.iter().enumerate() {
            let bank = &mut self.banks[layer * GROUPS.len() + group];
            let (input, output) = widths(&self.model, group);
            let mut offset = 0;
            for (index, projection) in projections.iter().enumerate() {
                let own = projection.widths(&self.model).1;
                let matrix = |factor| {
                    let piece = pieces.iter().find(|p| p.projection == *projection && p.factor == factor)?;
                    Some(&vector[piece.range()])
                };
                // Rows of this projection in all lanes of the adapter, and where each begins.
                let first = lanes.start * projections.len() + index;
                let rows = (first..).step_by(projections.len()).take(lanes.len());
                match (matrix(Factor::A), matrix(Factor::B)) {
                    (Some(a), Some(b)) => {
                        for (row, values) in rows.zip(a.chunks_exact(input)) {
                            bank.a[row * input..][..input].copy_from_slice(values);
                        }
                        let to = &mut bank.b[first * output + offset..];
                        transpose(b, lanes.len(), to, projections.len() * output);
                    }
                    _ => {
                        for row in rows {
                            bank.a[row * input..][..input].fill(0.0);
                            bank.b[row * output + offset..][..own].fill(0.0);
                        }
                    }
                }
                offset += own;
            }
        }
    }
}

/// Rows that are turned at once: what is read of them stays in the nearest cache until all columns are written.
const TILE: usize = 64;

/// Writes each column of `from [rows, columns]` in one piece to `to`, `stride` apart.
fn transpose(from: &[f32], columns: usize, to: &mut [f32], stride: usize) {
    for (tile, rows) in from.chunks(TILE * columns).enumerate() {
        for (column, to) in to.chunks_mut(stride).take(columns).enumerate() {
            let to = to[tile * TILE..].iter_mut();
            to.zip(rows[column..].iter().step_by(columns)).for_each(|(to, from)| *to = *from);
        }
    }
}

/// Whether an adapter is one of this model.
fn fits(model: &Architecture, adapter: &Lora) -> Result<(), OnnxEngineError> {
    let length = adapter.shape.len(model);
    if adapter.layers.len() != model.layers || adapter.layers.iter().any(|layer| layer.len() != length) {
        return Err(OnnxEngineError::AnotherModel);
    }
    if adapter.shape.scale.is_finite() { Ok(()) } else { Err(OnnxEngineError::NotFinite) }
}
