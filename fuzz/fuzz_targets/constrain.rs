#![no_main]
//! See `forge_fuzz::constrain`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::constrain(data));
