//! The command line as a user meets it: exit codes, stdout and stderr, and what is left on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use forge_formats::codec::Codec;
use forge_formats::tokenizer::{SpecialKind, TokenizerSpec};
use forge_formats::write::Writer;
use forge_train::config::{Config, Preset};
use forge_train::tokenizer::CONTROLS;
use forge_train::weights::Weights;
use serde_json::Value;

/// A directory of its own for a test, and the command run in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        fs::write(self.path(name), text).unwrap();
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forge-train"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Fails with exit code 2, says everything on stderr, and leaves nothing behind.
    #[track_caller]
    fn refuses(&self, arguments: &[&str], error: &str, hint: &str) {
        let before = listing(self.0.path());
        let output = self.run(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert_eq!(text(&output.stdout), "", "stdout is data");
        assert!(stderr.starts_with("error: ") && stderr.contains(error), "{stderr}");
        assert!(stderr.contains(hint), "{stderr}");
        if !hint.is_empty() {
            assert!(stderr.contains("\n\nhint: "), "a blank line and a hint: {stderr}");
        }
        assert_eq!(listing(self.0.path()), before, "nothing is left behind");
    }

    /// Puts an untrained model at `name`.
    fn model(&self, name: &str) -> Vec<u8> {
        let bytes = model();
        fs::write(self.path(name), &bytes).unwrap();
        bytes
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn listing(directory: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// An untrained model with one tool of one slot.
fn model() -> Vec<u8> {
    model_of(&CONTROLS)
}

/// The same with these control tokens.
fn model_of(controls: &[&str]) -> Vec<u8> {
    let mut specials: Vec<_> = controls.iter().map(|c| (SpecialKind::Control, (*c).to_owned())).collect();
    specials.push((SpecialKind::Tool, "set_light".into()));
    specials.push((SpecialKind::Slot, "room".into()));
    let spec = TokenizerSpec { specials, ..TokenizerSpec::default() };
    let mut config = Config::preset(Preset::Nano).model_config(256 + spec.specials.len() as u32);
    (config.dim, config.ffn, config.heads, config.kv_heads, config.head_dim) = (16, 16, 2, 1, 8);
    let weights = Weights::init(&config, 5);
    let mut writer = Writer::new(config);
    for (&(role, layer), m) in &weights.tensors {
        writer =
            writer.tensor(role, layer, Codec::F32, m.data.iter().flat_map(|v| v.to_le_bytes()).collect());
    }
    let card = r#"{"phase":"cognate","seed":5,"eval":{"prompted":true,"bits_per_byte":7.9}}"#;
    writer.tokenizer(spec.to_bytes().unwrap()).card(card).finish().unwrap()
}

#[test]
fn help_and_version_are_data() {
    let place = Place::new();
    for arguments in [&["--help"][..], &["pipeline", "--help"], &["run", "--help"], &["--version"]] {
        let output = place.run(arguments);
        assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(0), ""));
        assert!(text(&output.stdout).contains("forge-train"));
    }
    assert!(text(&place.run(&["--help"]).stdout).contains("Examples:"));
}

#[test]
fn wrong_usage_is_refused() {
    let place = Place::new();
    place.write("a.jsonl", "").write("b.txt", "text");
    let nothing = place.run(&[]);
    assert_eq!((nothing.status.code(), &*text(&nothing.stdout)), (Some(2), ""));
    assert!(text(&nothing.stderr).contains("Usage:"));
    place.refuses(&["trian"], "trian", "");
    place.refuses(&["pipeline", "--resume", "latest", "--corpus", "b.txt"], "cannot be used with", "");
    place.refuses(&["train", "--resume", "run", "--data", "a.jsonl"], "cannot be used with", "");
    place.refuses(&["pipeline", "--valid", "a.jsonl"], "--data", "");
    place.refuses(&["pipeline", "--resume", "latest", "--preset", "tiny"], "cannot be used with", "");
    place.refuses(&["pipeline", "--phase", "forge", "--to", "edge"], "cannot be used with", "");
    place.refuses(&["pipeline", "--preset", "huge"], "nano, tiny and 25m", "");
    place.refuses(&["pipeline", "--phase", "bitnett"], "no phase is called `bitnett`", "");
    place.refuses(&["pipeline", "--from", "edge", "--to", "bitnet"], "comes after", "order");
    place.refuses(&["pipeline", "--phase", "forge"], "cannot start at phase forge", "--resume SESSION");
    place.refuses(
        &["pipeline", "--resume", "latest", "--set", "phase5.steps=1"],
        "under way",
        "--from PHASE",
    );
    place.refuses(&["run", "m.forge"], "PROMPT", "");
}

#[test]
fn wrong_weights_are_refused_before_anything_is_made() {
    let place = Place::new();
    let line = |i: usize| format!("{{\"prompt\":\"say {i}\",\"completion\":\"{i}\"}}\n");
    place.write("a.jsonl", &(0..100).map(line).collect::<String>());
    place.write("b.txt", &"some words of text\n\n".repeat(9));
    for command in [&["pipeline"][..], &["train", "--recipe", "char-cpu"]] {
        let refuses = |files: &[&str], error: &str, hint: &str| {
            place.refuses(&[command, files].concat(), error, hint);
        };
        for weight in ["0", "-2", "1.5", "", "99999999999999999999"] {
            let file = format!("a.jsonl:{weight}");
            let error = format!("`{weight}` is no weight; expected a whole number from 1");
            refuses(&["--data", &file, "--corpus", "b.txt"], &error, "");
        }
        let far = ["--data", "a.jsonl:10000", "--corpus", "b.txt:1"];
        refuses(&far, "weights whose sum is 10001 make a window of so many steps", "a.jsonl:2 b.txt:1");
        refuses(&["--data", "a.jsonl:2", "--corpus", "c.txt:1"], "cannot read `c.txt`", "check the path");
    }
    let twice = ["pipeline", "--data", "a.jsonl:2", "--data", "a.jsonl"];
    place.refuses(&twice, "a.jsonl` to train on: every row is held out", "leave the file out");
}

#[test]
fn wrong_settings_are_refused_with_a_path() {
    let place = Place::new();
    place.write("forge.toml", "[phase5.train]\nstepz = 1\n").write("broken.toml", "[run]\nseed = = 1\n");
    place.refuses(&["pipeline", "--set", "phase5.stepz=1"], "unknown key `phase5.stepz`", "did you mean");
    place.refuses(
        &["pipeline", "--config", "forge.toml"],
        "forge.toml: unknown key `phase5.train.stepz`",
        "steps",
    );
    place.refuses(&["pipeline", "--config", "broken.toml"], "broken.toml:2", "");
    place.refuses(&["pipeline", "--config", "missing.toml"], "cannot read `missing.toml`", "check the path");
    place.refuses(&["pipeline", "--set", "run.seed=abc"], "must be an integer", "default");
    place.refuses(&["pipeline", "--seed", "18446744073709551615"], "run.seed", "");
}

#[test]
fn missing_and_malformed_data_is_refused_before_anything_is_made() {
    let place = Place::new();
    let line = r#"{"prompt":"hello","completion":"hi"}"#;
    place.write("bad.jsonl", &format!("{line}\n{line}\n{{\"prompt\": 7}}\n")).write("empty.txt", "");
    place.refuses(&["pipeline", "--data", "missing.jsonl"], "cannot read `missing.jsonl`", "check the path");
    place.refuses(&["pipeline", "--data", "bad.jsonl"], "bad.jsonl:3: ", "mend or delete that line");
    place.refuses(&["pipeline", "--corpus", "empty.txt"], "empty.txt:1: ", "");
    place.refuses(&["pipeline", "--resume", "latest"], "holds no sessions", "forge-train pipeline");
    place.refuses(&["status"], "holds no sessions", "forge-train pipeline");
    place.model("m.forge");
    place.refuses(&["eval", "m.forge", "--data", "bad.jsonl"], "bad.jsonl:3: ", "");
    place.refuses(&["eval", "m.forge", "--data", "missing.jsonl"], "cannot read", "check the path");
}

#[test]
fn damaged_models_are_refused() {
    let place = Place::new();
    let mut bytes = place.model("m.forge");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(place.path("flipped.forge"), &bytes).unwrap();
    fs::write(place.path("short.forge"), &bytes[..bytes.len() - 100]).unwrap();
    place.write("text.forge", "not a model");
    let commands: [&[&str]; 3] = [&["run", "M", "hello"], &["chat", "M"], &["inspect", "M"]];
    for command in commands {
        for name in ["flipped.forge", "short.forge", "text.forge"] {
            let arguments: Vec<&str> = command.iter().map(|a| if *a == "M" { name } else { a }).collect();
            place.refuses(&arguments, &format!("`{name}` is not a usable model"), "copy the file again");
        }
    }
    place.refuses(&["inspect", "missing.forge"], "cannot read `missing.forge`", "check the path");
}

#[test]
fn a_model_runs_the_same_way_each_time() {
    let place = Place::new();
    place.model("m.forge");
    let arguments = ["run", "m.forge", "hello", "--max-tokens", "8", "--temperature", "1", "--seed", "3"];
    let (once, twice) = (place.run(&arguments), place.run(&arguments));
    assert_eq!(once.status.code(), Some(0), "{}", text(&once.stderr));
    assert_eq!(once.stdout, twice.stdout);
    assert_eq!((text(&once.stderr).as_str(), once.stdout.last()), ("", Some(&b'\n')));
    let json = place.run(&[&arguments[..], &["--json"]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["schema"], 1);
    assert!(json["tokens"].as_u64().unwrap() <= 8);
    place.refuses(&["run", "m.forge", "hello", "--top-p", "1.5"], "--top-p", "0.95");
}

#[test]
fn thoughts_are_bounded_and_hidden() {
    let place = Place::new();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/thinking.forge");
    fs::copy(golden, place.path("t.forge")).unwrap();
    let say = |arguments: &[&str]| place.run(&[&["run", "t.forge", "what is 12 plus 3"], arguments].concat());
    let answer = |arguments: &[&str]| text(&say(arguments).stdout);
    assert_eq!(answer(&[]), "45\n");
    assert_eq!(answer(&["--show-thoughts"]), "<think> 12+3 </think> 45\n");
    assert_eq!(answer(&["--think", "4", "--show-thoughts"]), "<think> 12+3 </think> 45\n");
    assert_eq!(answer(&["--think", "2", "--show-thoughts"]), "<think> 12 </think> 45\n");
    assert_eq!((answer(&["--think", "2"]), answer(&["--think", "0"])), ("45\n".into(), "5\n".into()));
    let json: Value = serde_json::from_slice(&say(&["--think", "2", "--json"]).stdout).unwrap();
    assert_eq!(
        (&json["thought"], &json["text"], &json["answer"]),
        (&"12".into(), &"45".into(), &"45".into())
    );
    assert_eq!(json["steps"]["forced"], 1, "the mark that closes");
    let json: Value = serde_json::from_slice(&say(&["--think", "0", "--json"]).stdout).unwrap();
    assert_eq!((&json["thought"], &json["text"]), (&Value::Null, &"5".into()));
    // A thought that is cut off is no answer, and that is said.
    let cut = say(&["--max-tokens", "3"]);
    assert_eq!(text(&cut.stdout), "\n");
    assert!(text(&cut.stderr).contains("within the model's thought"), "{}", text(&cut.stderr));
    place.refuses(&["run", "t.forge", "x", "--plain", "--think", "3"], "cannot be used with", "");
    place.refuses(&["run", "t.forge", "x", "--think=-1"], "--think", "");
}

#[test]
fn a_model_that_cannot_think_says_so() {
    let place = Place::new();
    let bytes = model_of(&CONTROLS[..5]);
    fs::write(place.path("m.forge"), bytes).unwrap();
    for arguments in [&["--think", "3"][..], &["--show-thoughts"]] {
        let arguments = [&["run", "m.forge", "x"], arguments].concat();
        place.refuses(&arguments, "no control token <think>", "leave `--think`");
    }
    assert_eq!(place.run(&["run", "m.forge", "x", "--max-tokens", "2"]).status.code(), Some(0));
}

#[test]
fn a_chat_answers_line_by_line() {
    let place = Place::new();
    place.model("m.forge");
    place.write("prompts", "hello\n\nhello\r\n/quit\nnever read\n");
    let mut command = place.command(&["chat", "m.forge", "--max-tokens", "1"]);
    let output = command.stdin(fs::File::open(place.path("prompts")).unwrap()).output().unwrap();
    assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(0), ""));
    let stdout = text(&output.stdout);
    let one = text(&place.run(&["run", "m.forge", "hello", "--max-tokens", "1"]).stdout);
    assert_eq!(stdout, format!("{one}{one}"), "each line is a prompt of its own");
}

#[test]
fn an_evaluation_has_the_promised_fields() {
    let place = Place::new();
    place.model("m.forge");
    let call = r#"{"prompt":"light in the hall","tool":"set_light","args":{"room":"hall"}}"#;
    place.write("x.jsonl", &format!("{call}\n"));
    let output = place.run(&["eval", "m.forge", "--data", "x.jsonl", "--json", "--max-tokens", "4"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["bytes"].as_u64(), Some(fs::metadata(place.path("m.forge")).unwrap().len()));
    assert_eq!(json["n"], 1);
    for rate in ["tool_accuracy", "frame_accuracy"] {
        let [low, value, high] = ["low", "value", "high"].map(|key| json[rate][key].as_f64().unwrap());
        assert!(low <= value && value <= high && high <= 1.0, "{rate}");
    }
    assert!(json["bits_per_byte"].as_f64().unwrap() > 0.0);
    let table = place.run(&["eval", "m.forge", "--data", "x.jsonl", "--max-tokens", "4"]);
    assert!(text(&table.stdout).contains("frame accuracy"));
    place.write("y.jsonl", &call.replace("set_light", "open_door"));
    place.refuses(&["eval", "m.forge", "--data", "y.jsonl"], "knows no tool `open_door`", "--data");
}

#[test]
fn running_text_and_questions_are_measured_and_files_compared() {
    let place = Place::new();
    place.model("m.forge");
    place.write("t.txt", &"Speak, speak.\n\nResolved.\n".repeat(40));
    let question = r#"{"question":"which","choices":["this","that"],"answer":1}"#;
    place.write("q.jsonl", &format!("{question}\n"));
    let json = |arguments: &[&str]| -> Value {
        let output = place.run(&[&["eval", "m.forge", "--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let whole = json(&["--corpus", "t.txt", "--block", "64"]);
    assert_eq!(
        (&whole["tokens"], &whole["text_bytes"]),
        (&Value::from(25 * 40 - 1), &Value::from(25 * 40 - 1))
    );
    for figure in ["nats_per_token", "nats_per_character", "bits_per_byte"] {
        let [low, value, high] = ["low", "value", "high"].map(|key| whole[figure][key].as_f64().unwrap());
        assert!(0.0 < low && low <= value && value <= high, "{figure}");
    }
    assert_eq!(json(&["--corpus", "t.txt", "--held-out"])["tokens"], 25 * 4 - 1);
    assert!(json(&["--corpus", "t.txt", "--block", "64", "--stride", "16"])["blocks"].as_u64() > Some(16));
    assert_eq!(json(&["--questions", "q.jsonl"])["chance"], 0.5);
    let same = json(&["--corpus", "t.txt", "--against", "m.forge"]);
    assert_eq!(same["paired"]["value"], 0.0);
    assert_eq!(json(&["--questions", "q.jsonl", "--against", "m.forge"])["paired"]["accuracy"]["p"], 1.0);
    for arguments in [&["--corpus", "t.txt"][..], &["--questions", "q.jsonl"]] {
        let output = place.run(&[&["eval", "m.forge", "--against", "m.forge"], arguments].concat());
        assert!(text(&output.stdout).contains("first − second"), "{}", text(&output.stderr));
    }
    place.refuses(&["eval", "m.forge"], "--data", "");
    place.refuses(&["eval", "m.forge", "--corpus", "t.txt", "--questions", "q.jsonl"], "cannot be used", "");
    place.refuses(
        &["eval", "m.forge", "--corpus", "t.txt", "--stride", "300"],
        "cannot be scored",
        "1 ≤ stride",
    );
}

#[test]
fn inspection_shows_every_part() {
    let place = Place::new();
    let bytes = place.model("m.forge");
    let json = place.run(&["inspect", "m.forge", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["bytes"], bytes.len());
    assert_eq!(json["card"]["seed"], 5);
    let parameters: u64 = json["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["shape"][0].as_u64().unwrap() * t["shape"][1].as_u64().unwrap())
        .sum();
    assert_eq!(json["parameters"].as_u64(), Some(parameters));
    let table = text(&place.run(&["inspect", "m.forge", "--tensors"]).stdout);
    for part in ["parameters", "f32", "tokenizer", "qkv.0", "cognate", "bits per byte"] {
        assert!(table.contains(part), "{part}: {table}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::new();
    place.model("m.forge");
    let mut child = place
        .command(&["inspect", "m.forge", "--tensors", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*text(&output.stderr)), (Some(0), ""));
}

#[test]
fn a_plan_does_nothing_and_says_what_fits() {
    let place = Place::new();
    let small = ["--set", "model.dim=96", "--set", "data.builtin_thousands=1"];
    let output = place.run(&[&["pipeline", "--plan", "--json"][..], &small].concat());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["phases"].as_array().unwrap().len(), 8);
    let steps = json["phases"][0]["steps"].as_u64().unwrap();
    let config = Config::preset(Preset::Nano);
    assert_eq!(steps, config.phase1.trunk.steps + 3 * config.phase1.branch.steps);
    let impossible = place.run(&["pipeline", "--plan", "--set", "phase4.min_ratio=30"]);
    assert_eq!(impossible.status.code(), Some(1), "{}", text(&impossible.stderr));
    assert!(text(&impossible.stderr).contains("error: gate failed: "));
    assert!(text(&impossible.stdout).contains("Compression"), "the plan is printed all the same");
    assert!(listing(place.0.path()).is_empty());
}

#[test]
fn settings_are_printed_as_they_resolve() {
    let place = Place::new();
    let output = place.run(&["pipeline", "--print-config", "--preset", "tiny", "--set", "phase5.steps=2000"]);
    let printed = text(&output.stdout);
    place.write("forge.toml", &printed);
    let again = place.run(&["pipeline", "--print-config", "--config", "forge.toml"]);
    assert_eq!(text(&again.stdout), printed);
    assert!(printed.contains("preset = \"tiny\"") && printed.contains("steps = 2000"));
}
