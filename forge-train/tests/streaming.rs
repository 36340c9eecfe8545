//! A corpus larger than the memory that it takes to prepare it and train on it.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use forge_train::config::{TokenizerConfig, TokenizerKind};
use forge_train::data::BatchSource;
use forge_train::data::blocks::{Blocks, Order};
use forge_train::data::corpus::{Settings, prepare};
use forge_train::rng::Rng;
use nix::sys::resource::{UsageWho, getrusage};

/// Bytes of the corpus.
const CORPUS: usize = 160 << 20;
/// Bytes a process that streams it may have in memory at any time.
const ALLOWED: usize = 64 << 20;
/// Says what the child process does, and with which file.
const TASK: &str = "FORGE_STREAMING_TASK";

fn write_corpus(path: &Path) {
    let mut rng = Rng::new(1, &["streaming"]);
    let words: Vec<String> = (0..5000).map(|i| format!("{}{i}", ["a", "lo", "mer"][i % 3])).collect();
    let mut out = BufWriter::new(File::create(path).unwrap());
    let mut written = 0;
    while written < CORPUS {
        let line: Vec<&str> = (0..60).map(|_| rng.pick(&words).as_str()).collect();
        let paragraph = line.join(" ") + ".\n\n";
        out.write_all(paragraph.as_bytes()).unwrap();
        written += paragraph.len();
    }
    out.flush().unwrap();
}

/// The most memory that a process doing `task` had, in bytes.
fn peak(task: &str, path: &Path) -> usize {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(TASK, format!("{task} {}", path.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let peak = said.lines().find_map(|line| line.split("peak ").nth(1)?.trim().parse().ok());
    peak.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn memory_does_not_grow_with_the_corpus() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("corpus.txt");
    write_corpus(&path);
    let streamed = peak("stream", &path);
    eprintln!("{CORPUS} bytes of text, {streamed} bytes of memory");
    assert!(streamed < ALLOWED, "{streamed} bytes");
    let whole = peak("whole", &path);
    assert!(whole > CORPUS, "a reader that holds the corpus must be told: {whole} bytes");
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child() {
    let task = std::env::var(TASK).expect("told what to do");
    let (task, path) = task.split_once(' ').unwrap();
    let path = Path::new(path);
    match task {
        "stream" => {
            let tokenizer = TokenizerConfig { kind: TokenizerKind::Byte, vocab: 0 };
            let cache = path.with_extension("cache");
            let (table, valid_share) = (None, 0.1);
            let settings =
                Settings { tokenizer: &tokenizer, table, valid_share, seed: 1, clean: true, cache: &cache };
            let corpus = prepare(path, &settings).unwrap();
            let blocks = Blocks::new(corpus.train, 256, 8, Order::Packed, 1, "streaming").unwrap();
            assert!((0..20).all(|step| blocks.batch(step).ids.len() == 8 * 256));
        }
        _ => assert!(std::fs::read_to_string(path).unwrap().len() >= CORPUS),
    }
    let kilobytes = getrusage(UsageWho::RUSAGE_SELF).unwrap().max_rss();
    println!("\npeak {}", kilobytes * 1024);
}
