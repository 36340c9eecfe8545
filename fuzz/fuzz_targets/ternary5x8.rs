#![no_main]
//! See `forge_fuzz::ternary5x8`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::ternary5x8(data));
