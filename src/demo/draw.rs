use sha2::{Digest, Sha256};

/// A number that looks random and depends on nothing but its arguments: the same on every machine and in every order,
/// which a shared random number generator would not be among concurrent conversations.
pub(super) fn draw(seed: u64, what: &str, of: &str) -> u64 {
    let digest =
        Sha256::new().chain_update(seed.to_le_bytes()).chain_update(what).chain_update([0]).chain_update(of);
    let digest = digest.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("SHA-256 has 32 bytes"))
}

/// Whether something that happens in `percent` of the cases happens in this one.
pub(super) fn chance(percent: u64, seed: u64, what: &str, of: &str) -> bool {
    draw(seed, what, of) % 100 < percent
}

/// One of several.
pub(super) fn pick<'a, T>(all: &'a [T], seed: u64, what: &str, of: &str) -> &'a T {
    &all[(draw(seed, what, of) % all.len() as u64) as usize]
}

/// The seed that a demo plays with unless told otherwise: one of those with which each topic goes wrong in about half
/// of its conversations.
pub(super) const SEED: u64 = 116;
