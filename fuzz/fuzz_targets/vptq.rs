#![no_main]
//! See `forge_fuzz::vptq`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::vptq(data));
