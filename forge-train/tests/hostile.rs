//! Damaged model files through every command that reads one: exit code 2 and a message, no panic, little time and
//! memory. What is damaged and still a correct model may run.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use forge_formats::codec::encode::{Simple, encode};
use forge_formats::header::{HEADER_LEN, crc32};
use forge_formats::write::Writer;
use forge_formats::{File, ModelConfig};
use forge_runtime::testing::{Noise, random_tokenizer};
use nix::sys::resource::{Usage, UsageWho, getrusage};

/// Files in the corpus, more or less.
const FILES: usize = 200;
/// Most memory a command may have resident, in KiB.
const MEMORY: i64 = 64 << 10;
/// Most processor time of one command, in seconds.
const SECONDS: f64 = 1.0;

/// A damaged file and whether the parser and the checksums let it through.
struct Hostile {
    what: String,
    bytes: Vec<u8>,
}

impl Hostile {
    fn passes(&self) -> bool {
        File::parse(&self.bytes).and_then(|file| file.verify()).is_ok()
    }
}

/// The small golden models.
fn golden() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folder = root.join("formats/tests/golden/v1_0");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.extend(
        ["call", "memory", "full", "f16"].map(|name| root.join(format!("tests/golden/{name}.forge"))),
    );
    paths.sort();
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    paths.into_iter().map(|path| (name(&path), fs::read(path).unwrap())).collect()
}

/// Makes the checksums of manifest and header right.
fn seal(bytes: &mut [u8], manifest_len: usize) {
    let crc = crc32(&bytes[HEADER_LEN..HEADER_LEN + manifest_len]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32(&bytes[..HEADER_LEN - 4]);
    bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
}

/// Cut, flipped, and flipped behind right checksums, at random.
fn damaged(noise: &mut Noise, out: &mut Vec<Hostile>) {
    let golden = golden();
    while out.len() < FILES {
        let (name, good) = &golden[out.len() % golden.len()];
        let header = *File::parse(good).unwrap().header();
        let (mut bytes, way) = (good.clone(), out.len() / golden.len() % 4);
        match way {
            0 => bytes.truncate(noise.below(good.len())),
            1 => bytes[noise.below(good.len())] ^= 1 << noise.below(8),
            _ => {
                // In the manifest, or anywhere behind the header.
                let end = if way == 2 { HEADER_LEN + header.manifest_len as usize } else { good.len() };
                for _ in 0..1 + noise.below(3) {
                    bytes[HEADER_LEN + noise.below(end - HEADER_LEN)] = noise.next_u64() as u8;
                }
                seal(&mut bytes, header.manifest_len as usize);
            }
        }
        out.push(Hostile { what: format!("{name}, way {way}, number {}", out.len()), bytes });
    }
}

/// What is not a model at all.
fn foreign(out: &mut Vec<Hostile>) {
    let files: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("text", b"<script>alert(1)</script>\n"),
        ("another format", b"GGUF\x03\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F"),
        ("an archive", b"PK\x03\x04\x14\0\0\0\x08\0"),
        ("a header's beginning", b"\x89FORGE\r\n"),
        ("zeros", &[0; 4096]),
    ];
    out.extend(files.map(|(what, bytes)| Hostile { what: what.to_owned(), bytes: bytes.to_vec() }));
}

/// Valid files whose sessions need up to 64 GiB for their caches.
fn greedy(out: &mut Vec<Hostile>) {
    let (_, call) = golden().into_iter().find(|(name, _)| name == "call").unwrap();
    let small = File::parse(&call).unwrap().config().clone();
    for (heads, layers, window) in [(32, 64, 1 << 14), (32, 32, 1 << 14)] {
        let config = ModelConfig {
            dim: 2,
            heads,
            kv_heads: heads,
            head_dim: 256,
            layers,
            window,
            tied: true,
            ..small.clone()
        };
        let mut writer = Writer::new(config.clone()).tokenizer(random_tokenizer(config.vocab, 1));
        for (role, layer, [rows, cols]) in config.tensors() {
            let codec = if rows == 1 { Simple::F16 } else { Simple::Int8Row };
            let payload = encode(codec, rows as usize, cols as usize, &vec![0.5; (rows * cols) as usize]);
            writer = writer.tensor(role, layer, codec.into(), payload);
        }
        let what = format!("{heads} heads, {layers} layers, {window} positions");
        out.push(Hostile { what, bytes: writer.finish().unwrap() });
    }
}

/// A model whose texts are markup, terminal control and JSON.
fn talkative(out: &mut Vec<Hostile>) {
    let (_, call) = golden().into_iter().find(|(name, _)| name == "call").unwrap();
    let file = File::parse(&call).unwrap();
    for card in [
        "<script>alert(1)</script>",
        "\u{1b}[2J\u{1b}]0;owned\u{7}",
        "{\"eval\":",
        "[[[[[[[[[[",
        "null",
        "\0",
    ] {
        let bytes = Writer::from_file(&file).card(card).finish().unwrap();
        out.push(Hostile { what: format!("the card {card:?}"), bytes });
    }
    let deep = "[".repeat(100_000);
    out.push(Hostile {
        what: "a deep card".into(),
        bytes: Writer::from_file(&file).card(deep).finish().unwrap(),
    });
}

/// Runs a command; returns its exit code and what it wrote to stderr.
fn run(arguments: &[&str], folder: &Path, stdin: &str) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_forge-train"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its file does not read what it is asked.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Processor seconds of all commands so far.
fn seconds(usage: &Usage) -> f64 {
    let total = [usage.user_time(), usage.system_time()];
    total.iter().map(|t| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6).sum()
}

fn children() -> Usage {
    getrusage(UsageWho::RUSAGE_CHILDREN).unwrap()
}

#[test]
fn every_command_withstands_every_file() {
    let mut corpus = Vec::new();
    foreign(&mut corpus);
    greedy(&mut corpus);
    talkative(&mut corpus);
    damaged(&mut Noise(23), &mut corpus);
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("e.jsonl"), "{\"prompt\":\"a\",\"completion\":\"b\"}\n").unwrap();
    let commands: [&[&str]; 6] = [
        &["inspect", "m.forge"],
        &["inspect", "m.forge", "--tensors", "--json"],
        &["run", "m.forge", "dim the lights", "--max-tokens", "4"],
        &["run", "m.forge", "dim the lights", "--max-tokens", "4", "--plain", "--temperature", "1"],
        &["chat", "m.forge", "--max-tokens", "4"],
        &["eval", "m.forge", "--data", "e.jsonl", "--max-tokens", "4", "--json"],
    ];
    let (mut refused, mut passed) = (0, 0);
    for hostile in &corpus {
        fs::write(place.path().join("m.forge"), &hostile.bytes).unwrap();
        let passes = hostile.passes();
        for arguments in commands {
            let before = seconds(&children());
            let (code, stderr) = run(arguments, place.path(), "hello\n");
            let what = format!("{}: {}: {code:?} {stderr}", hostile.what, arguments.join(" "));
            assert!(!stderr.contains("panicked"), "{what}");
            if passes {
                assert!(matches!(code, Some(0 | 2)), "{what}");
                passed += 1;
            } else {
                assert!(code == Some(2) && stderr.starts_with("error: "), "{what}");
                refused += 1;
            }
            let took = seconds(&children()) - before;
            assert!(took < SECONDS, "{took} s of processor time: {what}");
        }
    }
    assert!(corpus.len() >= FILES && refused > 600 && passed > 60, "{refused} refused, {passed} passed");
    let most = children().max_rss();
    assert!(most < MEMORY, "a command had {most} KiB resident");
}
