//! Tells the crate what stable Rust has no `cfg` for: whether it is compiled for Armv7E-M (Cortex-M4, M7), whose packed
//! multiplications belong to every target of that name, and whether for little code (`opt-level` `s` or `z`).

fn main() {
    println!("cargo::rustc-check-cfg=cfg(armv7em, little_code)");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("TARGET").is_ok_and(|target| target.starts_with("thumbv7em")) {
        println!("cargo::rustc-cfg=armv7em");
    }
    if std::env::var("OPT_LEVEL").is_ok_and(|level| level == "s" || level == "z") {
        println!("cargo::rustc-cfg=little_code");
    }
}
