//! Answers of golden models to prompts in words: `tests/golden/answers.json`. They hold what golden cases, which are
//! made of ids, leave out: prompt layout, where generation ends, and how a completion becomes text.

use std::fs;

use forge_runtime::generate::prompt;
use forge_runtime::{Generator, Model, Result, Session, Workspace, call};
use serde_json::{Value, json};

use crate::golden::folder;
use crate::replay::sampler;

/// Most tokens in an answer.
pub const MAX_TOKENS: usize = 40;

/// The questions: golden file, prompt, text before it, seed of the sampler.
const QUESTIONS: [(&str, &str, Option<&str>, Option<u64>); 5] = [
    ("call", "dim the salon lights to 20", None, None),
    ("f32", "dim the bedroom lights to 20", None, None),
    ("full", "Guten Morgen, Zürich! → 1 + 1 = ?", None, None),
    ("grouped", "hello", Some("be brief"), None),
    ("sampled", "what is the time", None, Some(11)),
];

/// What a model answers: a tool call as JSON, anything else as text.
///
/// # Errors
/// When the bytes are not a model or its tokenizer lacks a control token.
pub fn answer(file: &[u8], text: &str, system: Option<&str>, seed: Option<u64>) -> Result<String> {
    let model = Model::parse(file)?;
    let tokenizer = model.tokenizer();
    let mut ids = vec![0; text.len() + system.map_or(0, str::len) + 3];
    let len = prompt(&tokenizer, system.map(str::as_bytes), text.as_bytes(), &mut ids)?;
    let mut memory = Workspace::new(&model);
    let session = Session::new(&model, memory.bytes())?;
    let mut completion = [0; MAX_TOKENS];
    let count = Generator::new(session, sampler(seed), tokenizer.control("<eos>")?)
        .complete(&ids[..len], &mut completion)?;
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = call::render(&tokenizer, &completion[..count], &mut out);
    Ok(out)
}

/// The committed answers.
///
/// # Panics
/// When `answers.json` is not what [`updated`] writes.
pub fn committed() -> Vec<Value> {
    let text = fs::read_to_string(folder().join("answers.json")).unwrap_or_else(|_| "[]".to_owned());
    serde_json::from_str(&text).expect("answers.json is a list")
}

/// What this machine answers to a committed question.
///
/// # Panics
/// When the question is malformed or its file cannot be run.
pub fn replayed(question: &Value) -> String {
    let text = |key: &str| question[key].as_str();
    let name = text("name").expect("a name");
    let file = fs::read(folder().join(format!("{name}.forge"))).expect("the golden file exists");
    let seed = question["seed"].as_u64();
    answer(&file, text("prompt").expect("a prompt"), text("system"), seed).expect("a model that runs")
}

/// The committed answers, and new ones to questions that have none, as `answers.json` holds them.
///
/// # Panics
/// As [`replayed`].
pub fn updated() -> String {
    let mut all = committed();
    for (name, prompt, system, seed) in QUESTIONS {
        let mut question = json!({ "name": name, "prompt": prompt, "system": system, "seed": seed });
        let asked = |a: &Value| ["name", "prompt", "system", "seed"].iter().all(|k| a[k] == question[k]);
        if !all.iter().any(asked) {
            question["answer"] = replayed(&question).into();
            all.push(question);
        }
    }
    serde_json::to_string_pretty(&all).expect("plain values") + "\n"
}
