#![no_main]
//! See `forge_fuzz::parser`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::parser(data));
