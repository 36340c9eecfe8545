//! A run killed at random moments and resumed ends with the same bytes as one that was not.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The default run with a small model and few steps; every phase does its real work.
const SHORT: &[&str] = &[
    "model.dim=48",
    "model.heads=2",
    "model.kv_heads=1",
    "model.head_dim=16",
    "model.ffn=64",
    "model.mem_dim=8",
    "model.mem_gate=8",
    "phase1.parameters=[10000,500000]",
    "run.checkpoint_seconds=0",
    "data.builtin_thousands=1",
    "data.eval_examples=24",
    "phase1.trunk.steps=60",
    "phase1.branch.steps=24",
    "phase1.branch.lr=3e-3",
    "phase2.search.generations=4",
    "phase3.bake.steps=6",
    "phase3.reinforce.steps=2",
    "phase3.prompts=4",
    "phase4.min_ratio=2",
    "phase5.train.steps=40",
    "phase5.control_steps=8",
    "phase6.train.steps=6",
    "phase6.trajectories=120",
    "phase7.train.steps=8",
    "phase8.budget=60000",
];

/// Every part of the engine that has state, in the phase that trains most.
const ENGINE: &[&str] = &[
    "run.optimizer=muon_grokfast",
    "phase1.trunk.qk_clip=0.05",
    "phase1.trunk.ema=0.9",
    "phase1.branch.ema=0.9",
    "phase1.trunk.micro_tokens=512",
    "phase1.branch.micro_tokens=512",
    "phase1.trunk.recompute=true",
    "phase1.trunk.dropout=0.1",
    "phase1.branch.dropout=0.1",
];

/// What is run, and how it is killed.
#[derive(Clone, Copy)]
struct Case {
    /// Settings beside [`SHORT`].
    extra: &'static [&'static str],
    /// The files it trains on, written to a directory, as arguments.
    files: fn(&Path) -> Vec<String>,
    /// The last phase.
    last: &'static str,
    /// Kills, at most and at least: a run may end before it was killed that often.
    kills: [usize; 2],
    /// When, as a share of an uninterrupted run: the earliest, and how much later the latest.
    when: [f64; 2],
}

fn pipeline(case: Case, out: &Path, resume: bool) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forge-train"));
    command.args(["pipeline", "--quiet", "--to", case.last, "--out"]).arg(out);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    if resume {
        command.args(["--resume", "latest"]);
    } else {
        SHORT.iter().chain(case.extra).for_each(|setting| {
            command.args(["--set", setting]);
        });
        command.args((case.files)(out.parent().unwrap()));
    }
    command
}

/// The built-in data.
fn no_files(_: &Path) -> Vec<String> {
    Vec::new()
}

/// Calls, questions and running text, mixed by weight.
fn mixed_files(place: &Path) -> Vec<String> {
    let songs = ["yellow river", "green hill", "old town", "cold rain", "long road"];
    let call = |i: usize| {
        let song = format!("{} {i}", songs[i % 5]);
        format!("{{\"prompt\":\"play {song} now\",\"tool\":\"play\",\"args\":{{\"song\":\"{song}\"}}}}\n")
    };
    let question = |i: usize| {
        format!("{{\"question\":\"{i} + 3\",\"answer\":\"{i} + 3 = {}\\n#### {}\"}}\n", i + 3, i + 3)
    };
    let paragraph = |i: usize| format!("On day {i} the {} was {} steps away.\n\n", songs[i % 5], i * 7);
    fs::write(place.join("calls.jsonl"), (0..600).map(call).collect::<String>()).unwrap();
    fs::write(place.join("sums.jsonl"), (0..300).map(question).collect::<String>()).unwrap();
    fs::write(place.join("days.txt"), (0..600).map(paragraph).collect::<String>()).unwrap();
    [("--data", "calls.jsonl:3"), ("--data", "sums.jsonl:2"), ("--corpus", "days.txt:1")]
        .iter()
        .flat_map(|(option, file)| [(*option).to_owned(), place.join(file).display().to_string()])
        .collect()
}

fn finish(case: Case, out: &Path, resume: bool) {
    let output = pipeline(case, out, resume).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The session's directory.
fn session(out: &Path) -> std::path::PathBuf {
    let mut found: Vec<_> = fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("artifacts").is_dir())
        .collect();
    assert_eq!(found.len(), 1, "one session in {}", out.display());
    found.remove(0)
}

/// Names of all artifacts, which are the hashes of their contents, and the final model.
fn results(out: &Path) -> (Vec<String>, Vec<u8>) {
    let session = session(out);
    let mut names: Vec<String> = fs::read_dir(session.join("artifacts"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    (names, fs::read(session.join("model.forge")).unwrap())
}

#[test]
fn killed_and_resumed_runs_end_with_the_same_bytes() {
    assert_survives_kills(Case {
        extra: &[],
        files: no_files,
        last: "final_compression",
        kills: [10, 10],
        when: [0.02, 0.1],
    });
}

#[test]
fn killed_and_resumed_runs_of_the_whole_engine_end_with_the_same_bytes() {
    assert_survives_kills(Case {
        extra: ENGINE,
        files: no_files,
        last: "cognate",
        kills: [6, 2],
        when: [0.15, 0.15],
    });
}

#[test]
fn killed_and_resumed_runs_on_mixed_files_end_with_the_same_bytes() {
    assert_survives_kills(Case {
        extra: &[],
        files: mixed_files,
        last: "final_compression",
        kills: [4, 2],
        when: [0.1, 0.15],
    });
}

fn assert_survives_kills(case: Case) {
    let dir = tempfile::tempdir().unwrap();
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    let began = std::time::Instant::now();
    finish(case, &whole, false);
    let full = began.elapsed();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut killed = 0;
    for attempt in 0..4 * case.kills[0] {
        if killed == case.kills[0] {
            break;
        }
        // xorshift64: moments spread over the run, different every time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let share = (state >> 11) as f64 / (1u64 << 53) as f64;
        let resume = broken.join("registry.db").exists() && attempt > 0;
        let mut child = pipeline(case, &broken, resume).stderr(Stdio::null()).spawn().unwrap();
        // The first kill comes once the session exists; the others early enough that all fit into the run.
        let least = if attempt == 0 { case.when[0].max(0.1) } else { case.when[0] };
        std::thread::sleep(full.mul_f64(least + share * case.when[1]).max(Duration::from_millis(50)));
        match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "the run ended by itself with {status}");
                break;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
            }
        }
    }
    assert!(killed >= case.kills[1], "the run ended after {killed} kills");
    finish(case, &broken, true);
    let ((names, model), (expected_names, expected_model)) = (results(&broken), results(&whole));
    assert_eq!(names, expected_names, "artifacts differ after {killed} kills");
    assert!(model == expected_model, "the model differs after {killed} kills");
}
