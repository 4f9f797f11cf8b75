use std::collections::BTreeMap;

/// How much the first ranks count against later ones. The value of Cormack, Clarke and Büttcher, "Reciprocal Rank
/// Fusion outperforms Condorcet and individual Rank Learning Methods", SIGIR 2009.
const K: f64 = 60.0;

/// Reciprocal rank fusion: each list gives its item of rank r (from 1) 1 / (K + r); sums, best first. Scores of the
/// lists themselves do not enter, so that BM25 and cosine need no common scale. Equal sums: the greater item first.
pub(super) fn fuse<T: Ord + Copy>(lists: &[Vec<T>]) -> Vec<(T, f64)> {
    let mut sums: BTreeMap<T, f64> = BTreeMap::new();
    for list in lists {
        for (i, item) in list.iter().enumerate() {
            *sums.entry(*item).or_default() += 1.0 / (K + 1.0 + i as f64);
        }
    }
    let mut fused: Vec<(T, f64)> = sums.into_iter().rev().collect();
    fused.sort_by(|a, b| b.1.total_cmp(&a.1));
    fused
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ranking: distinct items.
    fn ranking() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::btree_set(0u8..20, 0..12)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>())
            .prop_shuffle()
    }

    fn items(fused: &[(u8, f64)]) -> Vec<u8> {
        fused.iter().map(|(item, _)| *item).collect()
    }

    #[test]
    fn scores_are_those_of_the_formula() {
        assert_eq!(fuse(&[vec![7, 8], vec![8]]), [(8, 1.0 / 62.0 + 1.0 / 61.0), (7, 1.0 / 61.0)]);
        assert!(fuse::<u8>(&[vec![], vec![]]).is_empty());
    }

    proptest! {
        #[test]
        fn one_list_alone_keeps_its_order(list in ranking()) {
            prop_assert_eq!(items(&fuse(&[list.clone(), vec![]])), list);
        }

        #[test]
        fn the_order_of_the_lists_does_not_matter(a in ranking(), b in ranking()) {
            prop_assert_eq!(items(&fuse(&[a.clone(), b.clone()])), items(&fuse(&[b, a])));
        }

        #[test]
        fn an_item_before_another_in_both_lists_stays_before_it(a in ranking(), b in ranking()) {
            let fused = items(&fuse(&[a.clone(), b.clone()]));
            let before = |list: &[u8], x: u8, y: u8| match (list.iter().position(|i| *i == x), list.iter().position(|i| *i == y)) {
                (Some(i), Some(j)) => i < j,
                (x, y) => x.is_some() && y.is_none(),
            };
            for &x in &a {
                for &y in &a {
                    if before(&a, x, y) && before(&b, x, y) {
                        prop_assert!(before(&fused, x, y), "{} {} in {:?}", x, y, fused);
                    }
                }
            }
        }

        #[test]
        fn every_item_comes_out_once(a in ranking(), b in ranking()) {
            let mut wanted: Vec<u8> = a.iter().chain(&b).copied().collect();
            wanted.sort_unstable();
            wanted.dedup();
            let mut fused = items(&fuse(&[a, b]));
            fused.sort_unstable();
            prop_assert_eq!(fused, wanted);
        }
    }
}
