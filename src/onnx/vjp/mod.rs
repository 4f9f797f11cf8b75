//! Reverse-mode differentiation of graphs.
//!
//! In: a graph, values whose gradients are known (seeds), values whose gradients are wanted. Out: the wanted gradients, as
//! further nodes of the same graph.
//!
//! For each node, last first, a rule turns the gradients of its outputs into those of its inputs (a vector-Jacobian
//! product); where a value is used more than once its gradients add up. See Griewank and Walther, *Evaluating
//! Derivatives*, 2008, chapter 3. Nodes that the result does not need are left behind when a program is made.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use super::graph::{Graph, Node, Op, Var};

/// What a rule may look at.
struct Backward<'a> {
    node: &'a Node,
    /// Gradients of the node's outputs; `None`: nothing depends on that output.
    outputs: Vec<Option<Var>>,
    /// Whose gradients are wanted among the inputs.
    wanted: Vec<bool>,
    /// Gradients found so far.
    found: &'a HashMap<Var, Var>,
}

impl Graph {
    /// The gradients of `wanted`, given those of `seeds` (value, its gradient). A rounded or integer value has none.
    ///
    /// # Panics
    /// When a wanted value does not reach a seed, or on the way lies an operation without a rule.
    pub fn gradient(&mut self, seeds: &[(Var, Var)], wanted: &[Var]) -> Vec<Var> {
        let mut depends: HashSet<Var> = wanted.iter().copied().collect();
        let mut path = Vec::new();
        for (index, node) in self.nodes().iter().enumerate() {
            if node.inputs.iter().flatten().any(|input| depends.contains(input)) && !is_shape(&node.op) {
                depends.extend(&node.outputs);
                path.push(index);
            }
        }
        let mut found: HashMap<Var, Var> = seeds.iter().copied().collect();
        for index in path.into_iter().rev() {
            let node = self.nodes()[index].clone();
            let outputs: Vec<Option<Var>> = node.outputs.iter().map(|o| found.get(o).copied()).collect();
            if outputs.iter().all(Option::is_none) {
                continue;
            }
            let wanted = node.inputs.iter().map(|i| i.is_some_and(|i| depends.contains(&i))).collect();
            let backward = Backward { node: &node, outputs, wanted, found: &found };
            let gradients = rules::rule(self, &backward);
            for (input, gradient) in node.inputs.iter().zip(gradients) {
                if let (Some(input), Some(gradient)) = (*input, gradient)
                    && depends.contains(&input)
                {
                    let sum = match found.get(&input) {
                        Some(&other) => self.add(other, gradient),
                        None => gradient,
                    };
                    found.insert(input, sum);
                }
            }
        }
        let gradient_of = |var| *found.get(var).expect("a wanted value reaches a seed");
        wanted.iter().map(gradient_of).collect()
    }
}

/// Shapes do not change when a value does.
fn is_shape(op: &Op) -> bool {
    matches!(op, Op::Raw { name: "Shape", .. })
}
