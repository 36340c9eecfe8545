//! `forge-train train` as a user meets it: a run, its directory, an interrupt, a teacher, and what is refused.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// A model of a few thousand parameters, judged every five steps, saved after each.
const SETTINGS: [&str; 12] = [
    "model.dim=32",
    "model.layers=1",
    "model.heads=2",
    "model.kv_heads=2",
    "model.head_dim=16",
    "model.ffn=64",
    "data.block=32",
    "train.steps=30",
    "train.batch_tokens=256",
    "train.dropout=0.1",
    "run.evaluate_every=5",
    "run.checkpoint_seconds=0",
];

fn command(place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forge-train"));
    command.arg("train").args(arguments).current_dir(place).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn fresh(place: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = command(place, &["--corpus", "text.txt", "--device", "cpu", "--json", "--out", out]);
    for setting in SETTINGS.iter().chain(more) {
        command.args(["--set", setting]);
    }
    command
}

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let line = |i: u32| format!("{} green bottles, take {} away: {} left.\n", i + 3, i % 7, i + 3 - i % 7);
    fs::write(place.path().join("text.txt"), (0..600).map(line).collect::<String>()).unwrap();
    place
}

#[track_caller]
fn finish(mut command: Command) -> Value {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

/// The curve without the seconds.
fn curve(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(directory.join("curve.csv")).unwrap();
    let timeless = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        [&fields[..2], &fields[3..]].concat().join(",")
    };
    text.lines().map(timeless).collect()
}

#[test]
fn a_run_that_is_interrupted_ends_with_the_same_bytes() {
    let place = place();
    let place = place.path();
    let report = finish(fresh(place, "whole", &[]));
    assert!(report["best_loss"].as_f64().unwrap() < 4.0, "{report}");
    assert_eq!(
        report["bytes"].as_u64().unwrap(),
        fs::metadata(place.join("whole/model.forge")).unwrap().len()
    );
    assert_eq!(curve(&place.join("whole")).len(), 31, "a line a step below the heading");

    let mut child = fresh(place, "parts", &[]).spawn().unwrap();
    while !place.join("parts/checkpoints").exists() {
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    finish(command(place, &["--resume", "parts", "--device", "cpu", "--json"]));
    for file in ["model.forge", "best.safetensors", "tokenizer.tokens", "recipe.toml", "best.json"] {
        let read = |run: &str| fs::read(place.join(run).join(file)).unwrap();
        assert!(read("whole") == read("parts"), "{file}");
    }
    assert_eq!(curve(&place.join("whole")), curve(&place.join("parts")));
}

/// Files of examples and of text, each with its weight.
fn mixed(place: &Path, out: &str, [calls, text]: [&str; 2]) -> Command {
    let row = |i: u32| format!("{{\"prompt\":\"play {i}\",\"tool\":\"play\",\"args\":{{\"song\":{i}}}}}\n");
    fs::write(place.join("calls.jsonl"), (0..300).map(row).collect::<String>()).unwrap();
    let mut command =
        command(place, &["--data", calls, "--corpus", text, "--device", "cpu", "--json", "--out", out]);
    SETTINGS.iter().for_each(|setting| {
        command.args(["--set", setting]);
    });
    command
}

#[test]
fn files_are_mixed_by_weight_and_a_killed_mixture_goes_on() {
    let place = place();
    let place = place.path();
    finish(mixed(place, "whole", ["calls.jsonl:3", "text.txt:1"]));
    finish(mixed(place, "other", ["calls.jsonl:1", "text.txt:3"]));
    finish(mixed(place, "same", ["calls.jsonl:6", "text.txt:2"]));
    let whole = curve(&place.join("whole"));
    assert_ne!(whole, curve(&place.join("other")), "weights have a say");
    assert_eq!(whole, curve(&place.join("same")), "only their ratio has");
    let mut child = mixed(place, "parts", ["calls.jsonl:3", "text.txt:1"]).spawn().unwrap();
    while !place.join("parts/checkpoints").exists() {
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    finish(command(place, &["--resume", "parts", "--device", "cpu", "--json"]));
    assert_eq!(whole, curve(&place.join("parts")));
    let read = |run: &str| fs::read(place.join(run).join("model.forge")).unwrap();
    assert!(read("whole") == read("parts"));
}

#[test]
fn another_seed_gives_another_model() {
    let place = place();
    let place = place.path();
    finish(fresh(place, "one", &[]));
    finish(fresh(place, "two", &["run.seed=2"]));
    let read = |run: &str| fs::read(place.join(run).join("model.forge")).unwrap();
    assert_ne!(read("one"), read("two"));
}

#[test]
fn a_ternary_student_learns_from_a_finished_run() {
    let place = place();
    let place = place.path();
    let teacher = finish(fresh(place, "teacher", &["train.steps=60"]));
    let student = finish(fresh(
        place,
        "student",
        &["precision.ternary=true", "teacher.run=teacher", "teacher.weight=0.5", "model.ffn=48"],
    ));
    assert!(student["bytes"].as_u64() < teacher["bytes"].as_u64());
    let told = finish(fresh(place, "alone", &["precision.ternary=true", "model.ffn=48"]));
    assert_ne!(told["best_loss"], student["best_loss"], "the teacher has a say");
}

#[test]
fn what_cannot_be_run_is_refused_with_a_way_to_mend_it() {
    let place = place();
    let place = place.path();
    let refused = |mut command: Command, what: &str, hint: &str| {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(what) && stderr.contains(hint), "{stderr}");
    };
    refused(command(place, &[]), "required", "--help");
    refused(
        command(place, &["--recipe", "soup", "--corpus", "text.txt"]),
        "no recipe is called `soup`",
        "char-cpu",
    );
    refused(
        fresh(place, "a", &["train.stepz=1"]),
        "unknown key `train.stepz`",
        "did you mean `train.steps`?",
    );
    refused(fresh(place, "a", &["data.block=0"]), "`data.block` is 0", "such as 256");
    refused(fresh(place, "a", &["teacher.run=nowhere"]), "nowhere", "hint");
    fs::write(place.join("short.txt"), "too short").unwrap();
    refused(command(place, &["--corpus", "short.txt", "--out", "b"]), "too little text to split", "hint: ");
    // Nothing of such a run is in the way of the next.
    finish(fresh(place, "b", &["train.steps=1"]));
    finish(fresh(place, "c", &["train.steps=1"]));
    refused(fresh(place, "c", &[]), "already holds a run", "--resume c");
    assert!(!fs::exists(place.join("a/checkpoints")).unwrap());
}

#[test]
fn shipped_recipes_can_be_listed_and_printed() {
    let place = place();
    let listed = command(place.path(), &["--list"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in ["char-cpu", "char-10m", "char-small", "modular"] {
        assert!(listed.contains(name), "{listed}");
        let printed = command(place.path(), &["--recipe", name, "--print-config"]).output().unwrap();
        assert!(String::from_utf8(printed.stdout).unwrap().contains("[train]"), "{name}");
    }
}
