//! A run that is interrupted or killed goes on where it was and ends with the same bytes.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// Phase 1 in some seconds, with a checkpoint after every step. Its gate may fail: that is an outcome like another.
const SETTINGS: [&str; 8] = [
    "phase1.trunk.steps=40",
    "phase1.branch.steps=3",
    "phase1.trunk.batch_tokens=512",
    "phase1.branch.batch_tokens=512",
    "data.builtin_thousands=1",
    "data.eval_examples=12",
    "run.checkpoint_seconds=0",
    "tokenizer.vocab=512",
];

fn command(place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forge-train"));
    command.args(arguments).current_dir(place).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn fresh(place: &Path, out: &str) -> Command {
    let mut command = command(place, &["pipeline", "--to", "cognate", "--out", out]);
    for setting in SETTINGS {
        command.args(["--set", setting]);
    }
    command
}

fn resumed(place: &Path, out: &str) -> Command {
    command(place, &["pipeline", "--to", "cognate", "--out", out, "--resume", "latest"])
}

/// Starts a run and waits until it trains.
fn start(mut command: Command) -> (Child, BufReader<ChildStderr>) {
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("phase 1/8") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "ended before it trained");
    }
    thread::sleep(Duration::from_millis(400));
    (child, stderr)
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What phase 1 handed on, as the registry tells it.
fn output(place: &Path, out: &str) -> Value {
    let status = command(place, &["status", "latest", "--json", "--out", out]).output().unwrap();
    let json: Value = serde_json::from_slice(&status.stdout).unwrap();
    json["phases"][0]["output"].clone()
}

fn finish(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output.stderr));
    output
}

fn half_written(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(half_written(&entry.path()));
        } else if entry.file_name().to_string_lossy().ends_with(".tmp") {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[test]
fn a_run_stopped_in_any_way_ends_with_the_same_artifacts() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    finish(fresh(place, "whole"));
    let whole = output(place, "whole");
    assert!(whole["artifacts"].as_array().unwrap().len() >= 5, "{whole}");

    let (mut child, mut stderr) = start(fresh(place, "parts"));
    let second = resumed(place, "parts").output().unwrap();
    assert_eq!(second.status.code(), Some(2), "two runs on one session");
    let owner = format!("in use by process {}", child.id());
    assert!(text(&second.stderr).contains(&owner), "{}", text(&second.stderr));

    signal(&child, "-TERM");
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains("interrupted; everything done so far is kept"), "{said}");
    assert!(said.contains("resume with: forge-train pipeline --resume 2"), "{said}");
    assert!(said.contains(" --to cognate --out parts"), "{said}");
    assert_eq!(half_written(place), [""; 0]);

    for _ in 0..2 {
        let (mut child, _stderr) = start(resumed(place, "parts"));
        signal(&child, "-KILL");
        assert_eq!(child.wait().unwrap().code(), None, "killed");
    }
    finish(resumed(place, "parts"));
    assert_eq!(half_written(place), [""; 0]);
    assert_eq!(output(place, "parts"), whole);
}
