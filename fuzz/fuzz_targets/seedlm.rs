#![no_main]
//! See `forge_fuzz::seedlm`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::seedlm(data));
