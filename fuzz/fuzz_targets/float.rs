#![no_main]
//! See `forge_fuzz::float`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::float(data));
