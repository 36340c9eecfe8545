//! Where `unsafe` may be: in the files of the instruction sets and of the C interface, in blocks that say why they
//! are sound, and nowhere else.

use std::path::{Path, PathBuf};

/// The crates that run on devices.
const CRATES: [&str; 2] = ["formats", "forge-runtime"];
/// Files and folders below a crate's `src` that may have `unsafe`. Of the kernels, those named for an instruction set.
const ALLOWED: [&str; 12] = [
    "kernels/dispatch",
    "kernels/x86",
    "kernels/aarch64",
    "kernels/wasm",
    "kernels/arm",
    "kernels/sse41",
    "kernels/avx2",
    "kernels/avx512",
    "kernels/neon",
    "kernels/simd128",
    "kernels/dsp",
    "capi",
];
const FORBID: &str = "#![forbid(unsafe_code)]";
const DENY: &str = "#![deny(unsafe_code)]";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_path_buf()
}

/// Every Rust file below a folder: its path from there without the extension, and its text.
fn sources(folder: &Path) -> Vec<(String, String)> {
    fn walk(folder: &Path, base: &Path, out: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).expect("the folder can be listed") {
            let path = entry.expect("the folder can be listed").path();
            if path.is_dir() {
                walk(&path, base, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(base).expect("below the base").with_extension("");
                let text = std::fs::read_to_string(&path).expect("a source file is text");
                out.push((name.to_str().expect("names are UTF-8").to_owned(), text));
            }
        }
    }
    let mut out = Vec::new();
    walk(folder, folder, &mut out);
    out
}

/// Code without comments and literals, so that words in them do not count.
fn code(text: &str) -> String {
    let no_comment = |line: &str| line.split("//").next().unwrap_or("").to_owned();
    let without: Vec<String> = text.lines().map(no_comment).collect();
    without.join("\n").split('"').step_by(2).collect()
}

/// Whether code has the word `unsafe`; attributes that name the lint do not count.
fn has_unsafe(text: &str) -> bool {
    let code = code(text);
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices("unsafe")
        .any(|(at, found)| !code[..at].ends_with(word) && !code[at + found.len()..].starts_with(word))
}

fn allowed(name: &str) -> bool {
    ALLOWED
        .iter()
        .any(|place| name == *place || name.strip_prefix(place).is_some_and(|rest| rest.starts_with('/')))
}

/// What is wrong with a source file, if anything. `forbidden`: the crate's root or a module above forbids `unsafe` in it.
fn fault(name: &str, text: &str, forbidden: bool) -> Option<&'static str> {
    let forbidden = forbidden || text.contains(FORBID);
    match (allowed(name), has_unsafe(text)) {
        (false, true) => Some("has unsafe code"),
        // A folder's own file may only hold modules that are allowed themselves.
        (false, false) if !forbidden && name != "lib" && !parent_of_allowed(name) => {
            Some("does not begin with #![forbid(unsafe_code)]")
        }
        (true, true) if !justified(text) => Some("has an unsafe block without a SAFETY line"),
        _ => None,
    }
}

/// `forbid` cannot be taken back further down, so the files above the allowed ones can only be under the root's `deny`.
fn parent_of_allowed(name: &str) -> bool {
    let folder = name.strip_suffix("/mod").unwrap_or(name);
    ALLOWED.iter().any(|place| place.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
}

/// Whether the module of file `other` holds that of `file`.
fn is_above(other: &str, file: &str) -> bool {
    let module = other.strip_suffix("/mod").unwrap_or(other);
    file.strip_prefix(module).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether every block, and every `unsafe` in front of `impl` or an attribute, has a `SAFETY:` line just above.
fn justified(text: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().enumerate().all(|(at, line)| {
        let code = line.split("//").next().unwrap_or("");
        if !code.contains("unsafe {") && !code.contains("unsafe impl") {
            return true;
        }
        // The comment may have several lines, and the statement may have begun above.
        lines[at.saturating_sub(8)..=at].iter().any(|l| l.contains("SAFETY:"))
    })
}

#[test]
fn unsafe_code_is_only_where_it_may_be() {
    let mut faults = Vec::new();
    for name in CRATES {
        let sources = sources(&root().join(name).join("src"));
        assert!(sources.len() > 10, "{name}: only {} files", sources.len());
        let lib = &sources.iter().find(|(name, _)| name == "lib").expect("a crate has a root").1;
        let forbidden = lib.contains(FORBID);
        assert!(forbidden || lib.contains(DENY), "{name}: the root neither forbids nor denies unsafe code");
        for (file, text) in &sources {
            let above = |(other, text): &(String, String)| is_above(other, file) && text.contains(FORBID);
            let fault = fault(file, text, forbidden || sources.iter().any(above));
            faults.extend(fault.map(|fault| format!("{name}/src/{file}.rs {fault}")));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_policy_notices() {
    let (plain, block) = ("fn f() {}", "fn f() { unsafe { g() } }");
    let forbids = format!("//! A file.\n{FORBID}\n{plain}");
    let reasoned = "// SAFETY: the caller has shown it.\nlet x = unsafe { g() };";
    // Unsafe code outside, whether or not the root forbids it.
    assert!(fault("model", block, true).is_some() && fault("model", block, false).is_some());
    assert!(fault("kernels/portable/float", block, false).is_some());
    assert!(fault("kernels/avx2_notes", block, false).is_some());
    // Under `deny`, each other file has to forbid for itself.
    assert!(fault("model", plain, false).is_some());
    assert_eq!(fault("model", plain, true), None);
    assert_eq!(fault("model", &forbids, false), None);
    assert_eq!(fault("kernels/mod", plain, false), None);
    assert_eq!(fault("lib", plain, false), None);
    assert!(is_above("math/mod", "math/sums") && is_above("math", "math/sums/tests"));
    assert!(!is_above("math/mod", "maths/sums") && !is_above("math/sums", "math/mod"));
    // Inside, with a reason.
    assert!(fault("kernels/avx2", block, false).is_some());
    assert_eq!(fault("kernels/avx2", reasoned, false), None);
    assert_eq!(fault("kernels/x86/avx2", reasoned, false), None);
    assert_eq!(fault("capi/mod", reasoned, false), None);
    // Words in comments, texts and attributes are not code.
    assert!(!has_unsafe("// unsafe\nlet s = \"unsafe\"; #![deny(unsafe_code)] let unsafely = 1;"));
    assert!(has_unsafe("unsafe fn f() {}"));
}
