//! Nights over small made-up worlds. Transcripts stand in a table of the tests' own, so that no bodies are needed.

mod nights;
mod proposals;
pub(super) mod world;

pub(super) use world::transcript;
