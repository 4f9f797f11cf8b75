//! From the last block's output to a loss and its gradient.
//!
//! Only rows that count are looked at; the gradient of the logits has a closed form, so the logits are never stored for the
//! backward pass; rows may be taken in chunks, each adding its gradient to what the ones before gave.

use super::Architecture;
use super::frozen::{Storage, frozen_matrix, frozen_rows};
use crate::onnx::graph::{Attribute, Dim, F32, Graph, I64, Var};
use crate::onnx::program::{Program, ProgramError, Runtime};

/// What rows are trained towards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// `KL(shares ‖ student)` over `targets` tokens a row: with one, cross-entropy against labels. Inputs
    /// `labels [M, targets]`, `shares [M, targets]`, which sum to 1 in a row.
    Sparse { targets: usize },
    /// `KL(teacher ‖ student)` over the teacher's `count` most likely tokens, whose probabilities are scaled to sum to 1.
    TopKl { count: usize },
    /// `KL(student ‖ teacher)` over the whole vocabulary.
    ReverseKl,
    /// `KL(teacher ‖ student)` over the whole vocabulary.
    ForwardKl,
    /// The generalised Jensen-Shannon divergence, `β·KL(t ‖ m) + (1 − β)·KL(s ‖ m)` with `m = β·t + (1 − β)·s`: Agarwal et
    /// al. 2023, <https://arxiv.org/abs/2306.13649>, equation 1.
    JensenShannon { beta: f32 },
}

/// What a head computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadOptions {
    pub loss: Loss,
    /// Whether rows are weighted by how much likelier their sampled token has become since it was sampled.
    pub off_policy: bool,
}

/// The program of a loss.
///
/// Inputs: `h [B, S, D]`, `rows [M]` (indices into B·S), `weights [M, 1]`, `clip [1, 1]`, `norm [D]`, `output [V, D]` (or what
/// it is made of), `dh_in [B, S, D]`, and what the loss compares with: `labels` and `shares`, or `teacher [M, D]`: the
/// teacher's final rows after its norm, as [`hidden_rows`] gives them. Off policy also `sampled [M, 1]` (tokens),
/// `old [M, 1]` (log-probabilities that they had when they were sampled) and `most [1, 1]`.
///
/// Outputs: `loss [1, 1]`, the sum over rows of weight · min(loss, clip); `losses [M, 1]` of each row, unweighted and
/// uncut; `dh [B, S, D]`, `dh_in` plus the gradient of `loss`. A row above `clip` has none; infinity cuts nothing, and
/// changes no bit. Off policy a row's weight is multiplied by min(p(sampled) / p_old(sampled), most), which is held fixed:
/// truncated importance sampling, Espeholt et al. 2018, <https://arxiv.org/abs/1802.01561>.
///
/// # Errors
/// When ONNX Runtime refuses the graph.
pub fn head(
    model: &Architecture,
    options: HeadOptions,
    storage: Storage,
    runtime: &Runtime,
) -> Result<Program, ProgramError> {
    let mut g = Graph::new();
    let m = Dim::Named("M");
    let h = stream(&mut g, model, "h");
    let before = stream(&mut g, model, "dh_in");
    let rows = g.input("rows", &[m], I64);
    let (picked, x) = normed_rows(&mut g, model, h, rows);
    let output = frozen_matrix(&mut g, "output", (model.vocabulary, model.hidden), storage);

    let [total, losses, dx] = weighted(&mut g, model, x, output, options);
    let d_picked = g.gradient(&[(x, dx)], &[picked])[0];
    let dh = add_rows(&mut g, model, before, rows, d_picked);
    g.program(runtime, &[("loss", total), ("losses", losses), ("dh", dh)], &[])
}

/// The loss of rows that are normed already, `x [M, D]` → `loss`, `losses`, `dx [M, D]`.
#[cfg(test)]
pub(super) fn head_on_normed(
    model: &Architecture,
    options: HeadOptions,
    runtime: &Runtime,
) -> Result<Program, ProgramError> {
    let mut g = Graph::new();
    let x = g.input("x", &["M".into(), model.hidden.into()], F32);
    let output = g.input("output", &[model.vocabulary.into(), model.hidden.into()], F32);
    let [total, losses, dx] = weighted(&mut g, model, x, output, options);
    g.program(runtime, &[("loss", total), ("losses", losses), ("dx", dx)], &[])
}

/// What a loss gives of normed rows.
struct Rows {
    /// `[M, 1]`
    losses: Var,
    /// Their gradient by the rows, `[M, D]`.
    dx: Var,
    /// The student's log-probabilities, `[M, V]`.
    log_p: Var,
}

/// Σ weight · min(loss, clip) `[1, 1]`, losses `[M, 1]`, and the gradient of the sum by the normed rows `[M, D]`.
fn weighted(g: &mut Graph, model: &Architecture, x: Var, output: Var, options: HeadOptions) -> [Var; 3] {
    let m = Dim::Named("M");
    let column = [m, Dim::Size(1)];
    let one = [Dim::Size(1); 2];
    let weights = g.input("weights", &column, F32);
    let clip = g.input("clip", &one, F32);
    let Rows { losses, dx, log_p } = match options.loss {
        Loss::Sparse { targets } => {
            let labels = g.input("labels", &[m, targets.into()], I64);
            let shares = g.input("shares", &[m, targets.into()], F32);
            sparse(g, model, x, output, [labels, shares])
        }
        Loss::TopKl { count } => {
            let likely = likely(g, model, output, count);
            sparse(g, model, x, output, likely)
        }
        Loss::ReverseKl | Loss::ForwardKl | Loss::JensenShannon { .. } => {
            divergence(g, model, x, output, options.loss)
        }
    };
    let weights = if options.off_policy {
        let sampled = g.input("sampled", &column, I64);
        let (old, most) = (g.input("old", &column, F32), g.input("most", &one, F32));
        let now = g.gather_elements(log_p, sampled);
        let risen = g.sub(now, old);
        let ratio = g.exp(risen);
        let ratio = g.raw("Min", "", &[Some(ratio), Some(most)], &[(column.to_vec(), F32)], Vec::new())[0];
        g.mul(weights, ratio)
    } else {
        weights
    };
    // A loss that is not a number is not above anything, and stays to be noticed.
    let above = g.compare("Greater", losses, clip);
    let cut = g.choose(above, clip, losses);
    let products = g.mul(cut, weights);
    let total = g.sum(products, &[0, 1]);
    let zero = g.floats(&[0.0], &[1, 1]);
    let slopes = g.choose(above, zero, weights);
    [total, losses, g.mul(dx, slopes)]
}

/// The program that gives rows of the last hidden state after the final norm, `x [M, D]`: what a teacher is asked for. Its
/// logits are made from them where they are needed.
///
/// # Errors
/// When ONNX Runtime refuses the graph.
pub fn hidden_rows(model: &Architecture, runtime: &Runtime) -> Result<Program, ProgramError> {
    let mut g = Graph::new();
    let h = stream(&mut g, model, "h");
    let rows = g.input("rows", &[Dim::Named("M")], I64);
    let (_, x) = normed_rows(&mut g, model, h, rows);
    g.program(runtime, &[("x", x)], &[])
}

/// The program that gives `logits [M, V]` of rows.
///
/// # Errors
/// When ONNX Runtime refuses the graph.
pub fn logits(model: &Architecture, storage: Storage, runtime: &Runtime) -> Result<Program, ProgramError> {
    let mut g = Graph::new();
    let h = stream(&mut g, model, "h");
    let rows = g.input("rows", &[Dim::Named("M")], I64);
    let (_, x) = normed_rows(&mut g, model, h, rows);
    let output = frozen_matrix(&mut g, "output", (model.vocabulary, model.hidden), storage);
    let logits = project(&mut g, x, output);
    g.program(runtime, &[("logits", logits)], &[])
}

/// The program that looks tokens up: `ids [B, S]`, `embedding [V, D]` → `h [B, S, D]`.
///
/// # Errors
/// When ONNX Runtime refuses the graph.
pub fn embed(model: &Architecture, storage: Storage, runtime: &Runtime) -> Result<Program, ProgramError> {
    let mut g = Graph::new();
    let ids = g.input("ids", &["B".into(), "S".into()], I64);
    let h = frozen_rows(&mut g, "embedding", (model.vocabulary, model.hidden), storage, ids);
    g.program(runtime, &[("h", h)], &[])
}

/// The program of a gradient that nothing has been added to yet: `ids [B, S]` → `dh [B, S, D]`, zeros.
///
/// # Errors
/// When ONNX Runtime refuses the graph.
pub fn no_gradient(model: &Architecture, runtime: &Runtime) -> Result<Program, ProgramError> {
    let mut g = Graph::new();
    let ids = g.input("ids", &["B".into(), "S".into()], I64);
    let positions = g.extents(ids);
    let width = g.integers(&[i64::try_from(model.hidden).expect("widths are small")]);
    let extents = g.concat(&[positions, width], 0, Dim::Size(3));
    let zero = g.floats(&[0.0], &[1]);
    let dh = g.expand_to(zero, extents, &["B".into(), "S".into(), model.hidden.into()]);
    g.program(runtime, &[("dh", dh)], &[])
}

fn stream(g: &mut Graph, model: &Architecture, name: &str) -> Var {
    g.input(name, &["B".into(), "S".into(), model.hidden.into()], F32)
}

/// Rows of the stream, and the same after the final norm.
fn normed_rows(g: &mut Graph, model: &Architecture, h: Var, rows: Var) -> (Var, Var) {
    let flat = g.reshape(h, &[Dim::Named("N"), model.hidden.into()]);
    let picked = g.gather(flat, rows);
    let norm = g.input("norm", &[model.hidden.into()], F32);
    let x = g.rms_norm(picked, norm, model.norm_epsilon);
    (picked, x)
}

fn add_rows(g: &mut Graph, model: &Architecture, to: Var, rows: Var, added: Var) -> Var {
    let flat = g.reshape(to, &[Dim::Named("N"), model.hidden.into()]);
    let last = g.integers(&[-1]);
    let shape = (vec![Dim::Named("M"), Dim::Size(1)], I64);
    let rows = g.raw("Unsqueeze", "", &[Some(rows), Some(last)], &[shape], Vec::new())[0];
    let shape = (g.shape(flat).to_vec(), F32);
    let add = vec![("reduction", Attribute::Text("add"))];
    let sum = g.raw("ScatterND", "", &[Some(flat), Some(rows), Some(added)], &[shape], add)[0];
    g.reshape_like(sum, to)
}

fn project(g: &mut Graph, x: Var, output: Var) -> Var {
    let kind = g.kind(output);
    let x = g.cast(x, kind);
    let logits = g.linear(x, output);
    g.cast(logits, F32)
}

/// The gradient of rows from that of their logits.
fn unproject(g: &mut Graph, d_logits: Var, output: Var) -> Var {
    let kind = g.kind(output);
    let d_logits = g.cast(d_logits, kind);
    let dx = g.matmul(d_logits, output);
    g.cast(dx, F32)
}

/// The teacher's likeliest tokens, and their shares, `[M, count]` each.
fn likely(g: &mut Graph, model: &Architecture, output: Var, count: usize) -> [Var; 2] {
    let m = Dim::Named("M");
    let teacher = g.input("teacher", &[m, model.hidden.into()], F32);
    let logits = project(g, teacher, output);
    let most = g.integers(&[i64::try_from(count).expect("counts are small")]);
    let outputs = [(vec![m, count.into()], F32), (vec![m, count.into()], I64)];
    let found = g.raw("TopK", "", &[Some(logits), Some(most)], &outputs, Vec::new());
    [found[1], g.softmax(found[0])]
}

/// `Σ t·(log t − log p)`, whose gradient by the row is `p·E − Σ t·E[label]`: no one-hot rows, nothing to scatter.
fn sparse(g: &mut Graph, model: &Architecture, x: Var, output: Var, [labels, shares]: [Var; 2]) -> Rows {
    let m = Dim::Named("M");
    let targets = g.shape(labels)[1];
    let logits = project(g, x, output);
    let log_p = g.log_softmax(logits);
    let log_labels = g.gather_elements(log_p, labels);
    let log_labels = if targets == Dim::Size(1) {
        log_labels
    } else {
        // A share of 0 counts as nothing, and must still be a number.
        let positive = g.plus(shares, f32::MIN_POSITIVE);
        let log_shares = g.log(positive);
        g.sub(log_labels, log_shares)
    };
    let product = g.mul(log_labels, shares);
    let sum = g.sum(product, &[1]);
    let losses = g.neg(sum);

    let p = g.exp(log_p);
    let expected = unproject(g, p, output);
    let chosen = g.gather(output, labels);
    let chosen = g.cast(chosen, F32);
    let shares = g.reshape(shares, &[m, 1.into(), targets]);
    let chosen = g.matmul(shares, chosen);
    let chosen = g.reshape(chosen, &[m, model.hidden.into()]);
    Rows { losses, dx: g.sub(expected, chosen), log_p }
}

/// Divergences between the student's distribution and that of a teacher with the same output matrix.
fn divergence(g: &mut Graph, model: &Architecture, x: Var, output: Var, loss: Loss) -> Rows {
    let teacher = g.input("teacher", &["M".into(), model.hidden.into()], F32);
    let student_logits = project(g, x, output);
    let teacher_logits = project(g, teacher, output);
    let (log_s, log_t) = (g.log_softmax(student_logits), g.log_softmax(teacher_logits));
    let (s, t) = (g.exp(log_s), g.exp(log_t));
    let (losses, d_logits) = match loss {
        Loss::ForwardKl => {
            // d = s − t
            let difference = g.sub(log_t, log_s);
            let losses = expectation(g, t, difference);
            (losses, g.sub(s, t))
        }
        Loss::ReverseKl => {
            let difference = g.sub(log_s, log_t);
            centred(g, s, difference)
        }
        Loss::JensenShannon { beta } => {
            // With u = log(s / m): d = (1 − β) · s · (u − Σ s·u); the part through m cancels.
            let (of_t, of_s) = (g.scaled(t, beta), g.scaled(s, 1.0 - beta));
            let mixture = g.add(of_t, of_s);
            // Where both have no mass left in 32 bits, what is multiplied by it must still be a number.
            let mixture = g.plus(mixture, f32::MIN_POSITIVE);
            let log_m = g.log(mixture);
            let u = g.sub(log_s, log_m);
            let (from_s, d) = centred(g, s, u);
            let w = g.sub(log_t, log_m);
            let from_t = expectation(g, t, w);
            let (from_t, from_s) = (g.scaled(from_t, beta), g.scaled(from_s, 1.0 - beta));
            (g.add(from_t, from_s), g.scaled(d, 1.0 - beta))
        }
        Loss::Sparse { .. } | Loss::TopKl { .. } => unreachable!("handled by `sparse`"),
    };
    Rows { losses, dx: unproject(g, d_logits, output), log_p: log_s }
}

/// `Σ p·f` over a row.
fn expectation(g: &mut Graph, p: Var, f: Var) -> Var {
    let product = g.mul(p, f);
    g.sum(product, &[1])
}

/// `Σ p·f`, and `p · (f − Σ p·f)`, its gradient by the logits of p when f is log p less something held fixed.
fn centred(g: &mut Graph, p: Var, f: Var) -> (Var, Var) {
    let mean = expectation(g, p, f);
    let difference = g.sub(f, mean);
    (mean, g.mul(p, difference))
}
