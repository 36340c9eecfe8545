//! Hands the linker its memory map, and the programs the models they carry.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("memory.x"), include_bytes!("memory.x")).expect("OUT_DIR can be written");
    println!("cargo::rustc-link-search={}", out.display());
    println!("cargo::rerun-if-changed=memory.x");
    let golden =
        Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../tests/golden");
    fs::write(out.join("cases.rs"), cases(&golden)).expect("OUT_DIR can be written");
    model(&out, &golden);
}

/// The model of the main program: the file `FORGE_MODEL` names, otherwise one with random weights.
fn model(out: &Path, golden: &Path) {
    println!("cargo::rerun-if-env-changed=FORGE_MODEL");
    let path = env::var_os("FORGE_MODEL").map(PathBuf::from);
    if path.is_none() {
        println!("cargo::warning=FORGE_MODEL is not set: the program gets a model with random weights");
    }
    let path = path.unwrap_or_else(|| golden.join("full.forge"));
    println!("cargo::rerun-if-changed={}", path.display());
    fs::copy(&path, out.join("model.forge")).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// `golden.tsv` as Rust: an array of cases with their models.
fn cases(golden: &Path) -> String {
    println!("cargo::rerun-if-changed={}", golden.display());
    let tsv = fs::read_to_string(golden.join("golden.tsv")).expect("golden.tsv is in the repository");
    let mut out = String::from("&[\n");
    for line in tsv.lines() {
        let [name, prompt, seed, generated, _] =
            line.split('\t').collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("malformed: {line}"));
        let seed = if seed == "-" { String::from("None") } else { format!("Some({seed})") };
        let generated = generated.split(',').count();
        let file = fs::canonicalize(golden.join(format!("{name}.forge"))).expect("each line has its file");
        out += &format!(
            "Case {{ name: {name:?}, prompt: &[{prompt}], seed: {seed}, generated: {generated}, \
             file: include_bytes!({file:?}) }},\n"
        );
    }
    out + "]"
}
