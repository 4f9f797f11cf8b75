//! Every rule against central differences.

use super::*;
use crate::onnx::graph::{Dim, F32, I64};
use crate::onnx::program::{self, Program};
use crate::onnx::testing::{Noise, runtime};

const STEP: f32 = 1e-2;

/// Gradients of `Σ c·f(inputs)` with random c, by the rules and by differences, must agree.
fn check(inputs: &[&[usize]], f: impl Fn(&mut Graph, &[Var]) -> Var) {
    check_between(0.5, 1.5, inputs, f);
}

fn check_between(low: f32, high: f32, inputs: &[&[usize]], f: impl Fn(&mut Graph, &[Var]) -> Var) {
    let mut noise = Noise::new(7);
    let runtime = runtime();
    let mut g = Graph::new();
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    let vars: Vec<Var> = inputs
        .iter()
        .zip(&names)
        .map(|(shape, name)| {
            let dims: Vec<Dim> = shape.iter().map(|&n| Dim::Size(n)).collect();
            g.input(name, &dims, F32)
        })
        .collect();
    let y = f(&mut g, &vars);
    let y_shape: Vec<usize> = g.shape(y).iter().map(|d| d.size()).collect();
    let weights = noise.uniform(-1.0, 1.0, y_shape.iter().product());
    let seed = g.floats(&weights, &y_shape);
    let gradients = g.gradient(&[(y, seed)], &vars);
    let mut forward = g.program(&runtime, &[("y", y)], &[]).unwrap();
    let outputs: Vec<(&str, Var)> = names.iter().map(String::as_str).zip(gradients).collect();
    let outputs: Vec<(String, Var)> = outputs.iter().map(|(n, v)| (format!("d_{n}"), *v)).collect();
    let outputs: Vec<(&str, Var)> = outputs.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let mut backward = g.program(&runtime, &outputs, &[]).unwrap();

    let values: Vec<Vec<f32>> =
        inputs.iter().map(|shape| noise.uniform(low, high, shape.iter().product())).collect();
    let run = |program: &mut Program, values: &[Vec<f32>]| -> Vec<Vec<f32>> {
        let tensors: Vec<_> =
            values.iter().zip(inputs).map(|(v, s)| program::floats(s, v.clone()).unwrap()).collect();
        let given: Vec<_> = names.iter().map(String::as_str).zip(&tensors).collect();
        program.run(&given).unwrap().iter().map(|t| program::read(t).unwrap().to_vec()).collect()
    };
    let total = |y: &[f32]| y.iter().zip(&weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let analytic = run(&mut backward, &values);
    for (i, gradient) in analytic.iter().enumerate() {
        assert_eq!(gradient.len(), values[i].len());
        for at in 0..gradient.len() {
            let mut shifted = values.clone();
            shifted[i][at] += STEP;
            let above = total(&run(&mut forward, &shifted)[0]);
            shifted[i][at] -= 2.0 * STEP;
            let below = total(&run(&mut forward, &shifted)[0]);
            let difference = (above - below) / f64::from(2.0 * STEP);
            let found = f64::from(gradient[at]);
            let scale = difference.abs().max(0.1);
            assert!(
                (found - difference).abs() < 4e-3 * scale,
                "x{i}[{at}]: {found}, by differences {difference}"
            );
        }
    }
}

#[test]
fn arithmetic_with_broadcasting() {
    check(&[&[2, 3], &[3]], |g, x| g.add(x[0], x[1]));
    check(&[&[2, 1], &[2, 3]], |g, x| g.sub(x[0], x[1]));
    check(&[&[2, 1, 3], &[4, 1]], |g, x| g.mul(x[0], x[1]));
    check(&[&[2, 3], &[1]], |g, x| g.div(x[0], x[1]));
    check(&[&[3], &[2, 3]], |g, x| g.div(x[0], x[1]));
}

#[test]
fn functions_of_one_value() {
    let functions: [fn(&mut Graph, Var) -> Var; 6] =
        [Graph::neg, Graph::exp, Graph::log, Graph::sqrt, Graph::sigmoid, Graph::silu];
    for f in functions {
        check(&[&[2, 4]], |g, x| f(g, x[0]));
    }
    check_between(-3.0, 3.0, &[&[9]], |g, x| g.silu(x[0]));
}

#[test]
fn casts_carry_gradients_back_in_the_type_they_came_from() {
    check(&[&[3]], |g, x| {
        let wide = g.cast(x[0], ort::value::TensorElementType::Float64);
        let square = g.mul(wide, wide);
        g.cast(square, F32)
    });
}

#[test]
fn matrix_products_in_every_transposition() {
    for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
        let a: &[usize] = if left { &[2, 4, 3] } else { &[2, 3, 4] };
        let b: &[usize] = if right { &[2, 5, 4] } else { &[2, 4, 5] };
        check(&[a, b], |g, x| g.matmul_with(x[0], x[1], left, right, 0.5));
    }
    // A weight that all leading axes share, as in a linear map.
    check(&[&[2, 3, 4], &[5, 4]], |g, x| g.linear(x[0], x[1]));
    check(&[&[2, 3, 4], &[4, 5]], |g, x| g.matmul(x[0], x[1]));
}

#[test]
fn softmax_and_its_logarithm() {
    check(&[&[2, 5]], |g, x| g.softmax(x[0]));
    check(&[&[2, 5]], |g, x| g.log_softmax(x[0]));
}

#[test]
fn sums_reshapes_and_transpositions() {
    check(&[&[2, 3, 4]], |g, x| g.sum(x[0], &[0, 2]));
    check(&[&[2, 6]], |g, x| g.reshape(x[0], &[3.into(), 4.into()]));
    check(&[&[2, 3, 4]], |g, x| {
        let square = g.mul(x[0], x[0]);
        g.transpose(square, &[2, 0, 1])
    });
}

#[test]
fn splits_also_with_a_piece_that_is_not_used() {
    check(&[&[2, 6]], |g, x| {
        let pieces = g.split(x[0], 1, &[1, 2, 3]);
        g.mul(pieces[1], pieces[0])
    });
    check(&[&[6, 2]], |g, x| {
        let pieces = g.split_evenly(x[0], 0, 3, "third");
        let product = g.mul(pieces[0], pieces[2]);
        let sum = g.sum(product, &[1]);
        g.reshape(sum, &[2.into()])
    });
}

#[test]
fn concatenations_of_sized_and_of_equal_pieces() {
    check(&[&[2, 1], &[2, 3]], |g, x| {
        let square = g.mul(x[0], x[0]);
        g.concat(&[square, x[1]], 1, 4.into())
    });
    check(&[&[4, 2]], |g, x| {
        let pieces = g.split_evenly(x[0], 0, 2, "half");
        let first = g.mul(pieces[0], pieces[1]);
        let joined = g.concat(&[first, pieces[1]], 0, 4.into());
        g.mul(joined, x[0])
    });
}

#[test]
fn prefixes_pass_gradients_to_the_part_they_took() {
    check(&[&[2, 8, 3]], |g, x| {
        let part = g.prefix(x[0], 1, 3, 4, "three quarters");
        let square = g.mul(part, part);
        g.reshape(square, &[2.into(), 6.into(), 3.into()])
    });
}

#[test]
fn gathered_rows_and_elements_add_up_where_they_came_from() {
    check(&[&[4, 3]], |g, x| {
        let rows = g.integers(&[2, 0, 2]);
        g.gather(x[0], rows)
    });
    check(&[&[2, 4]], |g, x| {
        let which = g.integers(&[3, 3, 0, 1]);
        let which = g.reshape(which, &[2.into(), 2.into()]);
        g.gather_elements(x[0], which)
    });
}

#[test]
fn rms_norm_with_frozen_weights() {
    check(&[&[2, 2, 5]], |g, x| {
        let weight = g.floats(&[0.5, 1.0, 1.5, -1.0, 2.0], &[5]);
        g.rms_norm(x[0], weight, 1e-5)
    });
}

#[test]
fn rotations_turn_gradients_back() {
    check(&[&[1, 3, 8]], |g, x| {
        let positions = g.integers(&[0, 2, 1]);
        let positions = g.reshape(positions, &[1.into(), 3.into()]);
        let angles = [0.0_f32, 0.0, 0.3, 0.1, 1.2, 0.7];
        let cos = g.floats(&angles.map(f32::cos), &[3, 2]);
        let sin = g.floats(&angles.map(f32::sin), &[3, 2]);
        g.rotary(x[0], positions, cos, sin)
    });
}

#[test]
fn the_attention_form_of_softmax_gives_what_the_plain_form_gives() {
    let attend = |g: &mut Graph, x: &[Var], marked: bool| {
        let scores = g.matmul_with(x[0], x[1], false, true, 0.7);
        let weights = g.softmax(scores);
        let output = g.matmul(weights, x[2]);
        if marked {
            *g.op_mut(weights) = Op::Softmax { output: Some(output) };
        }
        output
    };
    let shapes: [&[usize]; 3] = [&[2, 3, 4], &[2, 5, 4], &[2, 5, 4]];
    check(&shapes, |g, x| attend(g, x, false));
    check(&shapes, |g, x| attend(g, x, true));
}

#[test]
fn a_value_used_twice_gets_both_gradients_and_an_unneeded_input_is_not_asked_for() {
    let mut g = Graph::new();
    let x = g.input("x", &[1.into()], F32);
    let unused = g.input("unused", &[1.into()], F32);
    let square = g.mul(x, x);
    let cube = g.mul(square, x);
    let _ = g.add(cube, unused);
    let one = g.floats(&[1.0], &[1]);
    let slope = g.gradient(&[(cube, one)], &[x])[0];
    let mut program = g.program(&runtime(), &[("slope", slope)], &[]).unwrap();
    assert_eq!(program.inputs(), ["x"]);
    let out = program.run(&[("x", &program::floats(&[1], vec![2.0]).unwrap())]).unwrap();
    assert_eq!(*program::read(&out[0]).unwrap(), [12.0]);
}

#[test]
fn a_cut_value_is_taken_in_instead_of_being_computed() {
    let mut g = Graph::new();
    let x = g.input("x", &[1.into()], F32);
    let y = g.exp(x);
    let z = g.mul(y, y);
    let mut program = g.program(&runtime(), &[("z", z)], &[("kept", y)]).unwrap();
    assert_eq!(program.inputs(), ["kept"]);
    let out = program.run(&[("kept", &program::floats(&[1], vec![3.0]).unwrap())]).unwrap();
    assert_eq!(*program::read(&out[0]).unwrap(), [9.0]);
}

#[test]
#[should_panic(expected = "no rule for")]
fn an_operation_without_a_rule_is_named() {
    let mut g = Graph::new();
    let x = g.input("x", &[2.into()], F32);
    let kind = (vec![Dim::Size(2)], F32);
    let y = g.raw("Erf", "", &[Some(x)], &[kind], Vec::new())[0];
    let index = g.input("i", &[1.into()], I64);
    let _ = index;
    g.gradient(&[(y, y)], &[x]);
}
