//! How numbers are stored: plain floats, and llama.cpp's blocks (layouts: ggml's `ggml-common.h`; arithmetic:
//! `dequantize_row_*` in `ggml-quants.c`).
//!
//! Loops here count with `while` and index: an unoptimised build, in which tests read whole models, then runs them ten
//! times faster than iterators, and an optimised one equally fast.

use zerocopy::IntoBytes;

use super::Blocks;

/// How a tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// A block's numbers as stored: `w = scale · (q − zero) + minimum`, one scale and minimum for [`Layout::group`] of them.
struct Unpacked {
    quants: [u8; 256],
    scales: [f32; 16],
    minima: [f32; 16],
}

/// What is alike in all blocks of an encoding.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Elements and bytes of a block.
    elements: usize,
    bytes: usize,
    /// Elements that share a scale.
    group: usize,
    zero: u8,
    has_minimum: bool,
    /// Bits that hold every quant.
    bits: u8,
}

impl Encoding {
    /// All, for messages.
    pub const NAMES: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K";

    /// By the number of `enum ggml_type`.
    pub fn of_ggml(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    fn layout(self) -> Option<Layout> {
        let plain = |bytes, zero, has_minimum, bits| Layout {
            elements: 32,
            bytes,
            group: 32,
            zero,
            has_minimum,
            bits,
        };
        Some(match self {
            Self::F32 | Self::F16 | Self::Bf16 => return None,
            Self::Q4_0 => plain(18, 8, false, 4),
            Self::Q4_1 => plain(20, 0, true, 4),
            Self::Q5_0 => plain(22, 16, false, 8),
            Self::Q5_1 => plain(24, 0, true, 8),
            Self::Q8_0 => plain(34, 128, false, 8),
            Self::Q4K => Layout { elements: 256, ..plain(144, 0, true, 4) },
            Self::Q5K => Layout { elements: 256, ..plain(176, 0, true, 8) },
            Self::Q6K => Layout { elements: 256, group: 16, ..plain(210, 32, false, 8) },
        })
    }

    /// Bytes of a row; none where the row is no whole number of blocks, or the number is too large.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        match self {
            Self::F32 => columns.checked_mul(4),
            Self::F16 | Self::Bf16 => columns.checked_mul(2),
            _ => {
                let layout = self.layout()?;
                columns.is_multiple_of(layout.elements).then_some(())?;
                (columns / layout.elements).checked_mul(layout.bytes)
            }
        }
    }

    /// Turns whole blocks into f32; `out` has as many elements as `stored` holds.
    pub fn decode(self, stored: &[u8], out: &mut [f32]) {
        match self {
            // Little-endian, as every machine that ONNX Runtime is built for.
            Self::F32 => out.as_mut_bytes().copy_from_slice(stored),
            Self::F16 => {
                let mut i = 0;
                while i < out.len() {
                    out[i] = half(stored[2 * i], stored[2 * i + 1]);
                    i += 1;
                }
            }
            Self::Bf16 => {
                let mut i = 0;
                while i < out.len() {
                    let bits = (stored[2 * i + 1] as u32) << 24 | (stored[2 * i] as u32) << 16;
                    out[i] = f32::from_bits(bits);
                    i += 1;
                }
            }
            _ => self.decode_blocks(stored, out),
        }
    }

    fn decode_blocks(self, stored: &[u8], out: &mut [f32]) {
        let layout = self.layout().expect("plain floats are decoded above");
        let mut unpacked = Unpacked::new();
        for (stored, out) in stored.chunks_exact(layout.bytes).zip(out.chunks_exact_mut(layout.elements)) {
            self.unpack(stored, &mut unpacked);
            let quants = &unpacked.quants[..out.len()];
            let (mut start, mut group) = (0, 0);
            while start < out.len() {
                let (scale, minimum) = (unpacked.scales[group], unpacked.minima[group]);
                let end = start + layout.group;
                let mut i = start;
                if layout.has_minimum {
                    while i < end {
                        out[i] = scale * quants[i] as f32 + minimum;
                        i += 1;
                    }
                } else {
                    let zero = layout.zero as i32;
                    while i < end {
                        out[i] = scale * (quants[i] as i32 - zero) as f32;
                        i += 1;
                    }
                }
                (start, group) = (end, group + 1);
            }
        }
    }

    /// Rows as [`Blocks`], in the order of `rows`; none for plain floats. `rows` are all of the matrix's, in any order.
    pub fn blocks<'a>(self, rows: impl ExactSizeIterator<Item = &'a [u8]>, columns: usize) -> Option<Blocks> {
        let layout = self.layout()?;
        let count = rows.len();
        let groups = columns / layout.group;
        let mut quants = vec![0; count * columns * usize::from(layout.bits) / 8];
        let mut scales = Vec::with_capacity(count * groups);
        let mut offsets = layout.has_minimum.then(|| Vec::with_capacity(count * groups));
        let in_block = layout.elements / layout.group;
        let zero = if layout.bits == 4 { 8.0 } else { 128.0 };
        let shift = if layout.has_minimum { 128 } else { 128 - layout.zero };
        let mut unpacked = Unpacked::new();
        let packed_block = layout.elements * usize::from(layout.bits) / 8;
        let mut packed = quants.chunks_exact_mut(packed_block);
        for row in rows {
            for stored in row.chunks_exact(layout.bytes) {
                self.unpack(stored, &mut unpacked);
                scales.extend_from_slice(&unpacked.scales[..in_block]);
                if let Some(offsets) = &mut offsets {
                    // Four bits stand for q − 8 here and for q in the file; eight bits have room for q itself.
                    let moved = if layout.bits == 4 { zero } else { 0.0 };
                    offsets.extend((0..in_block).map(|g| unpacked.minima[g] + moved * unpacked.scales[g]));
                }
                let Some(packed) = packed.next() else { break };
                let mut i = 0;
                while i < packed.len() {
                    packed[i] = if layout.bits == 4 {
                        unpacked.quants[2 * i] | unpacked.quants[2 * i + 1] << 4
                    } else {
                        unpacked.quants[i].wrapping_add(shift)
                    };
                    i += 1;
                }
            }
        }
        Some(Blocks { bits: layout.bits, block: layout.group, rows: count, columns, quants, scales, offsets })
    }

    /// One block's numbers; `stored` is a whole block.
    fn unpack(self, stored: &[u8], to: &mut Unpacked) {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => {}
            Self::Q4_0 => {
                to.scales[0] = half(stored[0], stored[1]);
                nibbles(&stored[2..18], &mut to.quants);
            }
            Self::Q4_1 => {
                to.scales[0] = half(stored[0], stored[1]);
                to.minima[0] = half(stored[2], stored[3]);
                nibbles(&stored[4..20], &mut to.quants);
            }
            Self::Q5_0 => {
                to.scales[0] = half(stored[0], stored[1]);
                nibbles(&stored[6..22], &mut to.quants);
                fifth_bits(&stored[2..6], &mut to.quants);
            }
            Self::Q5_1 => {
                to.scales[0] = half(stored[0], stored[1]);
                to.minima[0] = half(stored[2], stored[3]);
                nibbles(&stored[8..24], &mut to.quants);
                fifth_bits(&stored[4..8], &mut to.quants);
            }
            Self::Q8_0 => {
                to.scales[0] = half(stored[0], stored[1]);
                let mut i = 0;
                while i < 32 {
                    // From two's complement to an offset of 128.
                    to.quants[i] = stored[2 + i] ^ 0x80;
                    i += 1;
                }
            }
            Self::Q4K => {
                k_scales(stored, to);
                k_nibbles(&stored[16..144], &mut to.quants);
            }
            Self::Q5K => {
                k_scales(stored, to);
                k_nibbles(&stored[48..176], &mut to.quants);
                let mut i = 0;
                while i < 256 {
                    let high = stored[16 + i % 32] >> (i / 32) & 1;
                    to.quants[i] |= high << 4;
                    i += 1;
                }
            }
            Self::Q6K => {
                let scale = half(stored[208], stored[209]);
                let mut group = 0;
                while group < 16 {
                    to.scales[group] = scale * (stored[192 + group] as i8) as f32;
                    group += 1;
                }
                let mut i = 0;
                while i < 256 {
                    // A half of 128 elements has 64 bytes of low nibbles and 32 of upper pairs of bits.
                    let (half, at) = (i / 128, i % 128);
                    let low = stored[64 * half + at % 64] >> (4 * (at / 64)) & 0xf;
                    let high = stored[128 + 32 * half + at % 32] >> (2 * (at / 32)) & 3;
                    to.quants[i] = low | high << 4;
                    i += 1;
                }
            }
        }
    }
}

impl Unpacked {
    fn new() -> Self {
        Self { quants: [0; 256], scales: [0.0; 16], minima: [0.0; 16] }
    }
}

/// 32 quants: first all low halves, then all high ones.
fn nibbles(stored: &[u8], quants: &mut [u8; 256]) {
    let mut i = 0;
    while i < 16 {
        quants[i] = stored[i] & 0xf;
        quants[i + 16] = stored[i] >> 4;
        i += 1;
    }
}

/// Bit `i` of the stored word is the fifth of quant `i`.
fn fifth_bits(stored: &[u8], quants: &mut [u8; 256]) {
    let mut i = 0;
    while i < 32 {
        quants[i] |= (stored[i / 8] >> (i % 8) & 1) << 4;
        i += 1;
    }
}

/// 256 quants: of each 32 bytes first the low halves, then the high ones.
fn k_nibbles(stored: &[u8], quants: &mut [u8; 256]) {
    let mut i = 0;
    while i < 128 {
        let at = i / 32 * 64 + i % 32;
        quants[at] = stored[i] & 0xf;
        quants[at + 32] = stored[i] >> 4;
        i += 1;
    }
}

/// Eight scales and minima of six bits each in twelve bytes, both times a factor.
fn k_scales(stored: &[u8], to: &mut Unpacked) {
    let (scale, minimum) = (half(stored[0], stored[1]), half(stored[2], stored[3]));
    let six = &stored[4..16];
    let mut i = 0;
    while i < 8 {
        let (s, m) = if i < 4 {
            (six[i] & 63, six[i + 4] & 63)
        } else {
            ((six[i + 4] & 0xf) | six[i - 4] >> 6 << 4, six[i + 4] >> 4 | six[i] >> 6 << 4)
        };
        to.scales[i] = scale * s as f32;
        to.minima[i] = -(minimum * m as f32);
        i += 1;
    }
}

/// A half-precision float of two bytes. The `half` crate's is a chain of calls when it is not optimised.
fn half(low: u8, high: u8) -> f32 {
    let bits = (high as u32) << 8 | low as u32;
    let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7fff);
    if magnitude >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | (magnitude & 0x3ff) << 13);
    }
    // Times 2^112, the difference of the exponents' biases: subnormal numbers come right as well.
    f32::from_bits(sign | magnitude << 13) * f32::from_bits(0x7780_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_precision_number_is_read_as_the_half_crate_reads_it() {
        for bits in 0..=u16::MAX {
            let [low, high] = bits.to_le_bytes();
            let (ours, theirs) = (half(low, high), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#x}");
        }
    }
}
