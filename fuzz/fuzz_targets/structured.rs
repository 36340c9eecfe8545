#![no_main]
//! See `forge_fuzz::structured`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::structured(data));
