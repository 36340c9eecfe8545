#![no_main]
//! See `forge_fuzz::ternary2b`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::ternary2b(data));
