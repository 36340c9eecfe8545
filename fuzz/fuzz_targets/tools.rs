#![no_main]
//! See `forge_fuzz::tools`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::tools(data));
