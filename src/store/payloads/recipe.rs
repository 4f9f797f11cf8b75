//! How a body is put together, as it stands in the table `recipe`.
//!
//! One byte of flags, then, as LEB128 numbers unless said otherwise: with [`BASE`], the other exchange's id (16 bytes) and
//! how many bytes of its body; with [`CHECK`], the hash of what was kept (16 bytes); then segment, offset and length of each
//! extent, to the end.

use super::Side;
use crate::model::ExchangeId;

/// A stretch of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub segment: u32,
    pub offset: u32,
    pub length: u32,
}

/// The beginning of another body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub exchange: ExchangeId,
    pub side: Side,
    /// In bytes; not zero.
    pub length: u64,
}

/// A body: the beginning of another one, then extents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recipe {
    pub base: Option<Base>,
    /// Of what was kept of a truncated body, whose own hash is that of all of it.
    pub check: Option<[u8; 16]>,
    pub extents: Vec<Extent>,
}

const BASE: u8 = 1;
const BASE_IS_RESPONSE: u8 = 2;
const CHECK: u8 = 4;

impl Recipe {
    /// Adds a stretch; one that goes on where the last one ends becomes part of it.
    pub fn push(&mut self, next: Extent) {
        match self.extents.last_mut() {
            Some(last) if last.segment == next.segment && last.offset + last.length == next.offset => {
                last.length += next.length;
            }
            _ => self.extents.push(next),
        }
    }

    /// Length of the body in bytes.
    pub fn length(&self) -> u64 {
        let extents = self.extents.iter().map(|e| u64::from(e.length)).sum::<u64>();
        // A damaged recipe may hold any number.
        self.base.map_or(0, |b| b.length).saturating_add(extents)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0];
        if let Some(base) = &self.base {
            out[0] |= BASE | if base.side == Side::Response { BASE_IS_RESPONSE } else { 0 };
            out.extend_from_slice(base.exchange.as_bytes());
            put(&mut out, base.length);
        }
        if let Some(check) = &self.check {
            out[0] |= CHECK;
            out.extend_from_slice(check);
        }
        for extent in &self.extents {
            for number in [extent.segment, extent.offset, extent.length] {
                put(&mut out, u64::from(number));
            }
        }
        out
    }

    /// None where the bytes are no recipe.
    pub fn decode(mut from: &[u8]) -> Option<Self> {
        let flags = *take(&mut from, 1)?.first()?;
        if flags & !(BASE | BASE_IS_RESPONSE | CHECK) != 0 {
            return None;
        }
        let mut recipe = Self::default();
        if flags & BASE != 0 {
            let exchange = ExchangeId::from_bytes(take(&mut from, 16)?.try_into().ok()?);
            let side = if flags & BASE_IS_RESPONSE == 0 { Side::Request } else { Side::Response };
            recipe.base = Some(Base { exchange, side, length: get(&mut from)? });
        }
        if flags & CHECK != 0 {
            recipe.check = Some(take(&mut from, 16)?.try_into().ok()?);
        }
        while !from.is_empty() {
            let mut number = || u32::try_from(get(&mut from)?).ok();
            recipe.extents.push(Extent { segment: number()?, offset: number()?, length: number()? });
        }
        Some(recipe)
    }
}

fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(taken)
}

/// Appends a number as LEB128.
pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a LEB128 number off the front.
pub(super) fn get(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(from, 1)?.first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn recipe()(
            base in prop::option::of((any::<[u8; 16]>(), any::<bool>(), 1u64..)),
            check in prop::option::of(any::<[u8; 16]>()),
            extents in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 0..8),
        ) -> Recipe {
            Recipe {
                base: base.map(|(id, response, length)| Base {
                    exchange: ExchangeId::from_bytes(id),
                    side: if response { Side::Response } else { Side::Request },
                    length,
                }),
                check,
                extents: extents.into_iter()
                    .map(|(segment, offset, length)| Extent { segment, offset, length }).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn reading_what_was_written_gives_the_same(recipe in recipe()) {
            prop_assert_eq!(Recipe::decode(&recipe.encode()), Some(recipe));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            drop(Recipe::decode(&bytes));
        }
    }

    #[test]
    fn neighbours_become_one_stretch() {
        let mut recipe = Recipe::default();
        for (segment, offset) in [(1, 0), (1, 10), (2, 20), (1, 30)] {
            recipe.push(Extent { segment, offset, length: 10 });
        }
        assert_eq!(recipe.extents.len(), 3);
        assert_eq!(recipe.length(), 40);
    }
}
