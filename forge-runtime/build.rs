//! Tells the crate whether it is compiled for Armv7E-M (Cortex-M4, M7), whose packed multiplications stable Rust has no
//! `cfg` for: they belong to every target of that name.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(armv7em)");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("TARGET").is_ok_and(|target| target.starts_with("thumbv7em")) {
        println!("cargo::rustc-cfg=armv7em");
    }
}
