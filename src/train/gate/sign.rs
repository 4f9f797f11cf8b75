//! The exact sign test.

/// The chance to win at least `won` of `won + lost` comparisons where winning and losing are equally likely: a one-sided
/// exact sign test, which on right and wrong answers is McNemar's exact test. Ties say nothing and are not counted. 1
/// without comparisons.
///
/// Exact, so that it holds for a handful of answers as well.
#[must_use]
pub fn chance(won: u32, lost: u32) -> f64 {
    let n = won + lost;
    // In logarithms: binomial coefficients of thousands do not fit.
    let half = f64::from(n) * std::f64::consts::LN_2;
    let mut log_choose = 0.0;
    let mut sum = 0.0;
    // From n wins down: log C(n, n) is 0, C(n, k−1) = C(n, k) · k / (n − k + 1).
    for k in (won..=n).rev() {
        sum += f64::exp(log_choose - half);
        if k > 0 {
            log_choose += f64::ln(f64::from(k) / f64::from(n - k + 1));
        }
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_binomial_tail() {
        for (won, lost, expected) in [
            (0, 0, 1.0),
            (5, 0, 1.0 / 32.0),
            (0, 5, 1.0),
            (1, 1, 0.75),
            (9, 1, 11.0 / 1024.0),
            (8, 2, 56.0 / 1024.0),
            (3, 1, 5.0 / 16.0),
        ] {
            assert!((chance(won, lost) - expected).abs() < 1e-12, "{won} {lost}: {}", chance(won, lost));
        }
        let many = chance(5_200, 4_800);
        assert!(many > 3e-5 && many < 4e-5, "{many}");
    }
}
