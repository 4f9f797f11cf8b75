//! What is stored already: names of pieces and of beginnings of bodies, and where they are.
//!
//! It is held in memory, bounded, and forgets what was not asked for longest: a table on disk would cost a random write
//! for every piece. What is forgotten is stored once more when it comes again. Pieces are also listed in the table `chunk`,
//! from which the latest are taken up when a file is opened: each as hash (16 bytes), offset and length (LEB128).

use std::collections::HashMap;

use super::recipe::{self, Base, Extent};

/// 128 bits of a keyed BLAKE3.
pub(super) type Name = [u8; 16];

/// Pieces in one generation; two are held, at some 30 bytes each.
const PIECES: usize = 57_344;
/// Beginnings of bodies in one generation; two are held, at some 40 bytes each.
const BODIES: usize = 28_672;

/// Gives names. Each tenant has keys of its own: what one has stored says nothing about another.
#[derive(Clone)]
pub(super) struct Names {
    piece: [u8; 32],
    body: [u8; 32],
}

impl Names {
    pub fn of_tenant(tenant: &str) -> Self {
        Self {
            piece: blake3::derive_key("remora 2026-11 pieces of bodies", tenant.as_bytes()),
            body: blake3::derive_key("remora 2026-11 beginnings of bodies", tenant.as_bytes()),
        }
    }

    pub fn piece(&self, bytes: &[u8]) -> Name {
        short(blake3::keyed_hash(&self.piece, bytes))
    }

    /// The name of a beginning: of the pieces before its last, and of the last.
    pub fn beginning(&self, before: Name, last: Name) -> Name {
        let both: [Name; 2] = [before, last];
        short(blake3::keyed_hash(&self.body, both.as_flattened()))
    }

    /// The name of a body as a whole.
    pub fn whole(&self, sha256: &[u8; 32]) -> Name {
        let mut tagged = [b'w'; 33];
        tagged[1..].copy_from_slice(sha256);
        short(blake3::keyed_hash(&self.body, &tagged))
    }
}

fn short(hash: blake3::Hash) -> Name {
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// The hash of what was kept of a truncated body.
pub(super) fn check(kept: &[u8]) -> [u8; 16] {
    short(blake3::hash(kept))
}

/// Where named things are.
pub(super) struct Index {
    pub pieces: Generations<Extent>,
    pub bodies: Generations<Base>,
}

impl Index {
    pub fn new() -> Self {
        Self { pieces: Generations::new(PIECES), bodies: Generations::new(BODIES) }
    }

    /// Takes up the list of a chunk of a segment. False when there is no room for more.
    pub fn take_up(&mut self, segment: u32, mut list: &[u8]) -> bool {
        while let Some((name, rest)) = list.split_first_chunk() {
            list = rest;
            let mut number = || u32::try_from(recipe::get(&mut list)?).ok();
            let (Some(offset), Some(length)) = (number(), number()) else { break };
            if self.pieces.is_full() {
                return false;
            }
            self.pieces.insert(*name, Extent { segment, offset, length });
        }
        true
    }
}

/// Appends a piece to the list of a chunk.
pub(super) fn list(out: &mut Vec<u8>, name: Name, extent: Extent) {
    out.extend_from_slice(&name);
    recipe::put(out, u64::from(extent.offset));
    recipe::put(out, u64::from(extent.length));
}

/// A map that forgets: when a generation is full, the one before it goes, but for what was asked for since.
pub(super) struct Generations<V> {
    young: HashMap<Name, V>,
    old: HashMap<Name, V>,
    size: usize,
}

impl<V: Copy> Generations<V> {
    fn new(size: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), size }
    }

    fn is_full(&self) -> bool {
        self.young.len() >= self.size
    }

    pub fn get(&mut self, name: &Name) -> Option<V> {
        if let Some(found) = self.young.get(name) {
            return Some(*found);
        }
        let found = self.old.remove(name)?;
        self.insert(*name, found);
        Some(found)
    }

    pub fn insert(&mut self, name: Name, value: V) {
        if self.is_full() {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_not_forgotten_and_the_rest_is() {
        let name = |n: u32| -> Name { std::array::from_fn(|i| n.to_le_bytes()[i % 4]) };
        let mut map = Generations::new(10);
        map.insert(name(0), 0);
        for n in 1..100 {
            map.insert(name(n), n);
            assert_eq!(map.get(&name(0)), Some(0));
            assert!(map.young.len() <= 10 && map.old.len() <= 10);
        }
        assert_eq!(map.get(&name(99)), Some(99));
        assert_eq!(map.get(&name(50)), None);
    }

    #[test]
    fn names_of_two_tenants_have_nothing_in_common() {
        let (a, b) = (Names::of_tenant("a"), Names::of_tenant("b"));
        assert_ne!(a.piece(b"text"), b.piece(b"text"));
        assert_ne!(a.whole(&[1; 32]), b.whole(&[1; 32]));
        assert_eq!(a.piece(b"text"), Names::of_tenant("a").piece(b"text"));
    }
}
