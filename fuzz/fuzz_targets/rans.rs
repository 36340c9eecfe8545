#![no_main]
//! See `forge_fuzz::rans`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::rans(data));
