use super::Blocks;

impl Blocks {
    /// Rounds a matrix `[rows, columns]` to blocks of 4 or 8 bits around zero, without offsets: for weights that the
    /// checkpoint has in full.
    ///
    /// With 4 bits the element furthest from zero is kept exactly (it becomes −8 steps), with 8 bits it is 127 steps.
    ///
    /// # Panics
    /// When `bits` is neither 4 nor 8, `block` does not divide `columns` or is odd, or `values` has another length.
    #[must_use]
    pub fn round(values: &[f32], columns: usize, block: usize, bits: u8) -> Self {
        assert!(matches!(bits, 4 | 8) && block.is_multiple_of(2), "4 or 8 bits, an even block");
        assert!(
            columns.is_multiple_of(block) && values.len().is_multiple_of(columns),
            "whole blocks and rows"
        );
        let mut quants = vec![0u8; values.len() * usize::from(bits) / 8];
        let mut scales = Vec::with_capacity(values.len() / block);
        let packed = quants.chunks_exact_mut(block * usize::from(bits) / 8);
        for (values, packed) in values.chunks_exact(block).zip(packed) {
            let mut furthest = 0.0f32;
            let mut i = 0;
            while i < block {
                if values[i].abs() > furthest.abs() {
                    furthest = values[i];
                }
                i += 1;
            }
            let scale = if bits == 4 { furthest / -8.0 } else { furthest.abs() / 127.0 };
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            scales.push(scale);
            let mut i = 0;
            while i < packed.len() {
                packed[i] = if bits == 4 {
                    let low = (values[2 * i] * inverse + 8.5).clamp(0.0, 15.0) as u8;
                    let high = (values[2 * i + 1] * inverse + 8.5).clamp(0.0, 15.0) as u8;
                    low | high << 4
                } else {
                    (values[i] * inverse + 128.5).clamp(0.0, 255.0) as u8
                };
                i += 1;
            }
        }
        let rows = values.len() / columns;
        Self { bits, block, rows, columns, quants, scales, offsets: None }
    }

    /// The same numbers in 8 bits, where they have 4.
    #[must_use]
    pub fn widened(self) -> Self {
        if self.bits == 8 {
            return self;
        }
        let mut quants = Vec::with_capacity(2 * self.quants.len());
        for pair in self.quants {
            // From an offset of 8 to one of 128.
            quants.extend([(pair & 0xf) + 120, (pair >> 4) + 120]);
        }
        Self { bits: 8, quants, ..self }
    }

    /// The elements as f32, row-major, into `out`, which has exactly their number.
    pub fn decode(&self, out: &mut [f32]) {
        let mut i = 0;
        while i < out.len() {
            let group = i / self.block;
            let above_zero = if self.bits == 4 {
                (self.quants[i / 2] >> (4 * (i % 2)) & 0xf) as i32 - 8
            } else {
                self.quants[i] as i32 - 128
            };
            out[i] = self.scales[group] * above_zero as f32;
            if let Some(offsets) = &self.offsets {
                out[i] += offsets[group];
            }
            i += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_errs_by_half_a_step_and_at_the_far_end_of_four_bits_by_one() {
        let values: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
        for (bits, steps) in [(4, 8.0), (8, 127.0)] {
            let blocks = Blocks::round(&values, 64, 32, bits);
            assert_eq!((blocks.rows, blocks.columns, blocks.scales.len()), (4, 64, 8));
            let mut back = vec![0.0; 256];
            blocks.decode(&mut back);
            for (i, (a, b)) in values.iter().zip(&back).enumerate() {
                let furthest = values[i / 32 * 32..][..32].iter().fold(0.0f32, |m, v| m.max(v.abs()));
                // The side opposite to the furthest element has one step less of 4 bits.
                let is_cut = bits == 4 && a.abs() > furthest * 7.5 / 8.0;
                let most = furthest / steps * if is_cut { 1.001 } else { 0.501 };
                assert!((a - b).abs() <= most, "{bits} bits: {a} became {b}");
            }
        }
    }

    #[test]
    fn four_bits_widened_to_eight_are_the_same_numbers() {
        let values: Vec<f32> = (0..128).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
        let mut narrow = Blocks::round(&values, 64, 32, 4);
        narrow.offsets = Some(vec![0.3, -0.1, 0.0, 7.0]);
        let wide = narrow.clone().widened();
        assert_eq!((wide.bits, wide.quants.len()), (8, 128));
        let (mut expected, mut found) = (vec![0.0; 128], vec![0.0; 128]);
        narrow.decode(&mut expected);
        wide.decode(&mut found);
        assert_eq!(found, expected);
    }

    #[test]
    fn a_block_of_zeros_stays_zero() {
        for bits in [4, 8] {
            let mut back = [1.0; 32];
            Blocks::round(&[0.0; 32], 32, 32, bits).decode(&mut back);
            assert_eq!(back, [0.0; 32]);
        }
    }
}
