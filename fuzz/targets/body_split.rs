#![no_main]

#[path = "../laws/body_split.rs"]
mod law;

libfuzzer_sys::fuzz_target!(|input: &[u8]| law::holds(input));
