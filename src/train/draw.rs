//! What chance decides in a run: first weights, and the order of examples.

use crate::onnx::llama::Architecture;
use crate::onnx::lora::{Factor, Lora, LoraShape};

/// SplitMix64: Steele, Lea and Flood 2014, <https://doi.org/10.1145/2660193.2660195>. A stream for each purpose, so that
/// one does not shift another.
pub(super) struct Chance(u64);

impl Chance {
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut chance = Self(seed ^ purpose.wrapping_mul(0xA24B_AED4_963E_E407));
        chance.next();
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Between −1 and 1.
    fn signed(&mut self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
        let unit = (self.next() >> 40) as f32 / (1_u64 << 24) as f32;
        2.0 * unit - 1.0
    }

    /// Fisher and Yates.
    fn shuffle(&mut self, items: &mut [usize]) {
        for i in (1..items.len()).rev() {
            let below = u64::try_from(i).expect("lists fit") + 1;
            items.swap(i, usize::try_from(self.next() % below).expect("at most i"));
        }
    }
}

/// A fresh adapter: A uniform within ±1/√in, as PEFT draws it (Kaiming with a = √5), B zero, so that it changes nothing yet.
pub(super) fn first_adapter(model: &Architecture, shape: &LoraShape, seed: u64) -> Lora {
    let mut chance = Chance::new(seed, 1);
    let mut layer = || {
        let mut vector = vec![0.0; shape.len(model)];
        for piece in shape.pieces(model).into_iter().filter(|p| p.factor == Factor::A) {
            #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^24")]
            let bound = (piece.columns as f32).sqrt().recip();
            vector[piece.range()].fill_with(|| chance.signed() * bound);
        }
        vector
    };
    Lora { shape: shape.clone(), layers: (0..model.layers).map(|_| layer()).collect() }
}

/// `indices` again and again, each time in another order.
pub(super) struct Order {
    indices: Vec<usize>,
    seed: u64,
    purpose: u64,
}

impl Order {
    pub fn new(indices: Vec<usize>, seed: u64, purpose: u64) -> Self {
        Self { indices, seed, purpose }
    }

    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// The `count` indices from place `from` on: a place alone says what stands there, so a run can begin anywhere.
    pub fn take(&self, from: u64, count: usize) -> Vec<usize> {
        if self.indices.is_empty() {
            return Vec::new();
        }
        let length = u64::try_from(self.indices.len()).expect("lists fit");
        let mut taken = Vec::with_capacity(count);
        let (mut place, mut epoch) = (from, Vec::new());
        while taken.len() < count {
            let at = usize::try_from(place % length).expect("less than the length");
            if epoch.is_empty() || at == 0 {
                epoch = self.indices.clone();
                Chance::new(self.seed, (place / length) << 8 | self.purpose).shuffle(&mut epoch);
            }
            taken.push(epoch[at]);
            place += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_can_be_entered_anywhere_and_each_epoch_has_all_in_another_order() {
        let order = Order::new((0..7).collect(), 3, 2);
        let all = order.take(0, 28);
        for from in 0..20 {
            assert_eq!(order.take(u64::try_from(from).unwrap(), 8), all[from..from + 8]);
        }
        let epochs: Vec<Vec<usize>> = all.chunks(7).map(<[usize]>::to_vec).collect();
        assert_ne!(epochs[0], epochs[1]);
        for mut epoch in epochs {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..7).collect::<Vec<_>>());
        }
    }
}
