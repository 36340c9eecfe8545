#![no_main]
//! See `forge_fuzz::sparse`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::sparse(data));
