//! Corpora and files of examples larger than the memory that it takes to prepare them and train on them.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use forge_train::config::{Config, Preset, TokenizerConfig, TokenizerKind};
use forge_train::data::blocks::{Blocks, Order};
use forge_train::data::corpus::{Settings, prepare};
use forge_train::data::{BatchSource, Example, encode, load};
use forge_train::engine::mixture::Domains;
use forge_train::engine::objective::batcher;
use forge_train::pipeline::{self, prepare::DataSource};
use forge_train::rng::Rng;
use nix::sys::resource::{UsageWho, getrusage};

/// Bytes of the corpus.
const CORPUS: usize = 160 << 20;
/// Bytes of each file of the pipeline.
const FILE: usize = 224 << 20;
/// Bytes of its own that a process may have which reads one of them as the pipeline does. What it writes to files and
/// maps belongs to the operating system, which takes it back when memory is short.
const OWN: usize = 144 << 20;
/// Bytes a process that streams it may have in memory at any time.
const ALLOWED: usize = 64 << 20;
/// Says what the child process does, and with which file.
const TASK: &str = "FORGE_STREAMING_TASK";

fn write_corpus(path: &Path, bytes: usize) {
    let mut rng = Rng::new(1, &["streaming"]);
    let words: Vec<String> = (0..5000).map(|i| format!("{}{i}", ["a", "lo", "mer"][i % 3])).collect();
    let mut out = BufWriter::new(File::create(path).unwrap());
    let mut written = 0;
    while written < bytes {
        let line: Vec<&str> = (0..60).map(|_| rng.pick(&words).as_str()).collect();
        let paragraph = line.join(" ") + ".\n\n";
        out.write_all(paragraph.as_bytes()).unwrap();
        written += paragraph.len();
    }
    out.flush().unwrap();
}

/// Calls and dialogues, all of them different.
fn write_examples(path: &Path) {
    let mut rng = Rng::new(2, &["streaming"]);
    let words: Vec<String> = (0..3000).map(|i| format!("{}{i}", ["be", "ka", "nor"][i % 3])).collect();
    let mut out = BufWriter::new(File::create(path).unwrap());
    let mut written = 0;
    for i in 0.. {
        let mut said = |n: usize| (0..n).map(|_| rng.pick(&words).as_str()).collect::<Vec<_>>().join(" ");
        let (name, rest) = (said(2), said(30));
        let line = match i % 2 {
            0 => format!(
                "{{\"prompt\":\"tell {name} {i} {rest}\",\"tool\":\"tell\",\"args\":{{\"who\":\"{name}\"}}}}\n"
            ),
            _ => format!("{{\"prompt\":\"{name} {i}\",\"completion\":\"{rest}\"}}\n"),
        };
        out.write_all(line.as_bytes()).unwrap();
        written += line.len();
        if written >= FILE {
            break;
        }
    }
    out.flush().unwrap();
}

/// The most memory that a process doing `task` had, in bytes.
fn peak(task: &str, path: &Path) -> usize {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(TASK, format!("{task}: {}", path.display()))
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
    write_corpus(&path, CORPUS);
    let streamed = peak("stream", &path);
    eprintln!("{CORPUS} bytes of text, {streamed} bytes of memory");
    assert!(streamed < ALLOWED, "{streamed} bytes");
    let whole = peak("whole", &path);
    assert!(whole > CORPUS, "a reader that holds the corpus must be told: {whole} bytes");
}

#[test]
fn files_of_the_pipeline_are_never_in_memory_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (text, examples) = (dir.path().join("corpus.txt"), dir.path().join("examples.jsonl"));
    write_corpus(&text, FILE);
    write_examples(&examples);
    for (task, path) in [("text", &text), ("examples", &examples)] {
        let own = peak(task, path);
        eprintln!("{FILE} bytes of {task}, {own} bytes of memory");
        assert!(own < OWN, "{task}: {own} bytes");
    }
    for (task, path) in [("whole text", &text), ("whole examples", &examples)] {
        let own = peak(task, path);
        assert!(own > FILE, "a reader that holds the file must be told: {task}, {own} bytes");
    }
}

/// What the pipeline does with a file before its first phase, and the first batches of a phase.
fn prepare_as_the_pipeline(source: &DataSource, scratch: &Path) {
    let config = Config::preset(Preset::Nano);
    let data = pipeline::prepare::prepare(source, &config, scratch).unwrap();
    let encoding = |example: &Example| encode::encode(&data.tokenizer, example, 0.1);
    let domains = Domains::new(&data.dataset, &data.dataset.train, encoding).unwrap();
    let mix = domains.mix([1.0; 3], 1, "streaming");
    let batches = batcher(mix, 4096, &config.data, 1, "streaming").unwrap();
    assert!((0..20).all(|step| batches.batch(step).ids.len() > 2000));
}

/// The most memory of its own that this process has while it does something: pages of mapped files are not among it.
fn own_peak(work: impl FnOnce()) -> usize {
    let ended = AtomicBool::new(false);
    let own = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        1024 * line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(own());
                thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        work();
        let last = own();
        ended.store(true, Ordering::Relaxed);
        watch.join().unwrap().max(last)
    })
}

#[test]
#[ignore = "run by the tests above, in a process of its own"]
fn child() {
    let task = std::env::var(TASK).expect("told what to do");
    let (task, path) = task.split_once(": ").unwrap();
    let path = Path::new(path);
    let scratch = path.with_extension("scratch");
    let own = match task {
        "text" => Some(own_peak(|| prepare_as_the_pipeline(&DataSource::corpus(path).unwrap(), &scratch))),
        "examples" => {
            Some(own_peak(|| prepare_as_the_pipeline(&DataSource::jsonl(path, None).unwrap(), &scratch)))
        }
        "whole text" => Some(own_peak(|| assert!(fs::read_to_string(path).unwrap().len() >= FILE))),
        "whole examples" => Some(own_peak(|| assert!(load::jsonl(path).unwrap().len() > 1000))),
        _ => None,
    };
    if let Some(own) = own {
        println!("\npeak {own}");
        return;
    }
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
        _ => assert!(fs::read_to_string(path).unwrap().len() >= CORPUS),
    }
    let kilobytes = getrusage(UsageWho::RUSAGE_SELF).unwrap().max_rss();
    println!("\npeak {}", kilobytes * 1024);
}
