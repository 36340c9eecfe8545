//! `forge-train merge` and `lineage` as a user meets them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

fn forge(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forge-train")).args(arguments).current_dir(directory).output().unwrap()
}

fn write(path: &Path, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![values.len()], &bytes).unwrap();
    fs::write(path, safetensors::serialize([("x", view)], None).unwrap()).unwrap();
}

/// A directory with two models and the recipe of their mean.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.safetensors"), &[1.0, 2.0]);
    write(&dir.path().join("b.safetensors"), &[3.0, 6.0]);
    let recipe = "output = \"out.safetensors\"\nmethod = \"linear\"\n[[models]]\npath = \"a.safetensors\"\n\
                  [[models]]\npath = \"b.safetensors\"\n";
    fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
    dir
}

#[test]
fn a_recipe_is_carried_out() {
    let dir = directory();
    let done = forge(&["merge", "recipe.toml", "--json"], dir.path());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((report["tensors"].as_u64(), report["parameters"].as_u64()), (Some(1), Some(2)));
    let bytes = fs::read(dir.path().join("out.safetensors")).unwrap();
    assert_eq!(report["bytes"].as_u64(), Some(bytes.len() as u64));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("x").unwrap().data(), [2f32.to_le_bytes(), 4f32.to_le_bytes()].concat());
    // Again: the same bytes, and nothing but the output is new.
    assert!(forge(&["merge", "recipe.toml"], dir.path()).status.success());
    assert_eq!(fs::read(dir.path().join("out.safetensors")).unwrap(), bytes);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[test]
fn bad_input_is_refused_with_a_hint_and_without_an_output() {
    let says = |change: &dyn Fn(&Path), expected: &str| {
        let dir = directory();
        change(dir.path());
        let refused = forge(&["merge", "recipe.toml"], dir.path());
        let talk = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{expected}: {talk}");
        assert!(talk.starts_with("error: ") && talk.contains(expected) && talk.contains("hint: "), "{talk}");
        assert!(!talk.contains("panicked") && !dir.path().join("out.safetensors").exists(), "{talk}");
    };
    let model = |dir: &Path, bytes: &[u8]| fs::write(dir.join("b.safetensors"), bytes).unwrap();
    let recipe = |dir: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(dir.join("recipe.toml")).unwrap().replace(from, to);
        fs::write(dir.join("recipe.toml"), text).unwrap();
    };
    says(&|d| fs::remove_file(d.join("recipe.toml")).unwrap(), "cannot read");
    says(&|d| fs::write(d.join("recipe.toml"), [0xff, 0xfe]).unwrap(), "cannot read");
    says(&|d| fs::write(d.join("recipe.toml"), vec![b' '; 2 << 20]).unwrap(), "a recipe has at most");
    says(&|d| recipe(d, "linear", "sorcery"), "unknown variant `sorcery`");
    says(&|d| recipe(d, "method", "wieght = 1\nmethod"), "unknown field `wieght`");
    says(&|d| recipe(d, "out.safetensors", "a.safetensors"), "is also an input");
    says(&|d| fs::remove_file(d.join("b.safetensors")).unwrap(), "b.safetensors");
    says(&|d| model(d, b""), "has 0 bytes");
    says(&|d| model(d, &[0xff; 64]), "its header would have");
    says(&|d| model(d, b"\x02\0\0\0\0\0\0\0[]"), "header");
    says(&|d| write(&d.join("b.safetensors"), &[1.0; 3]), "tensor `x` is [2]");
}

#[test]
fn help_shows_a_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let help = String::from_utf8(forge(&["merge", "--help"], dir.path()).stdout).unwrap();
    assert!(help.contains("[[models]]") && help.contains("method = \"ties\""), "{help}");
}

#[test]
fn lineage_needs_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let refused = forge(&["lineage"], dir.path());
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("holds no sessions"));
}
