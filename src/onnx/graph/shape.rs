//! Shapes of sizes and names.

/// The extent of an axis: known, or named and bound when the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    Size(usize),
    Named(&'static str),
}

impl From<usize> for Dim {
    fn from(size: usize) -> Self {
        Self::Size(size)
    }
}

impl From<&'static str> for Dim {
    fn from(name: &'static str) -> Self {
        Self::Named(name)
    }
}

impl Dim {
    /// # Panics
    /// When the extent is only known by name.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Size(size) => size,
            Self::Named(name) => panic!("the extent of {name} is not known before the program runs"),
        }
    }
}

/// The shape of an element-wise operation: axes are matched from the last, 1 stretches.
pub(super) fn broadcast(left: &[Dim], right: &[Dim]) -> Vec<Dim> {
    let rank = left.len().max(right.len());
    let axis = |shape: &[Dim], i: usize| match (i + shape.len()).checked_sub(rank) {
        Some(i) => shape[i],
        None => Dim::Size(1),
    };
    (0..rank)
        .map(|i| match (axis(left, i), axis(right, i)) {
            (Dim::Size(1), other) | (other, Dim::Size(1)) => other,
            (a, b) => {
                assert_eq!(a, b, "{left:?} and {right:?} do not fit together");
                a
            }
        })
        .collect()
}

/// What a `Reshape` from `from` to `to` is told: 0 copies an axis, −1 (once) takes what is left. `None` when more than one
/// extent would be left to guess.
pub(super) fn reshape_dims(from: &[Dim], to: &[Dim]) -> Option<Vec<i64>> {
    let mut guessed = false;
    to.iter()
        .enumerate()
        .map(|(i, dim)| match dim {
            Dim::Size(size) => Some(i64::try_from(*size).expect("sizes are small")),
            Dim::Named(_) if from.get(i) == Some(dim) => Some(0),
            Dim::Named(_) if guessed => None,
            Dim::Named(_) => {
                guessed = true;
                Some(-1)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_stretches_ones_from_the_last_axis() {
        let a = [Dim::Named("B"), Dim::Size(1), Dim::Size(8)];
        let b = [Dim::Named("S"), Dim::Size(8)];
        assert_eq!(broadcast(&a, &b), [Dim::Named("B"), Dim::Named("S"), Dim::Size(8)]);
        assert_eq!(broadcast(&b, &[Dim::Size(1)]), b);
    }

    #[test]
    fn reshapes_copy_axes_that_stay_and_guess_one() {
        let (b, s) = (Dim::Named("B"), Dim::Named("S"));
        let split = reshape_dims(&[b, s, Dim::Size(12)], &[b, s, Dim::Size(3), Dim::Size(4)]);
        assert_eq!(split, Some(vec![0, 0, 3, 4]));
        assert_eq!(reshape_dims(&[b, s], &[Dim::Named("N")]), Some(vec![-1]));
        assert_eq!(reshape_dims(&[Dim::Named("N")], &[b, s]), None);
    }
}
