//! PyTorch's side: the script runs in a process of its own and reports JSON.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Entry, Options, SHAPE};

/// The program, given to Python on its command line.
const SCRIPT: &str = include_str!("torch.py");

#[derive(Deserialize)]
struct Line {
    ternary: bool,
    batch: u32,
    seconds: Vec<f64>,
    peak_bytes: u64,
}

/// Trains the same shape in PyTorch.
///
/// # Errors
/// When Python or PyTorch fails.
pub(super) fn measure(options: &Options) -> Result<Vec<Entry>> {
    let mut sizes = serde_json::to_value(SHAPE)?;
    for (name, value) in [
        ("batches", json!(options.batches)),
        ("steps", json!(options.steps)),
        ("warmup", json!(options.warmup)),
    ] {
        sizes
            .as_object_mut()
            .map(|sizes: &mut serde_json::Map<String, Value>| sizes.insert(name.into(), value));
    }
    let output = Command::new(&options.python)
        .args(["-c", SCRIPT, &sizes.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} cannot be run; --no-torch leaves it out", options.python))?;
    ensure!(output.status.success(), "PyTorch failed; --no-torch leaves it out");
    String::from_utf8(output.stdout)?
        .lines()
        .map(|line| {
            let line: Line = serde_json::from_str(line)?;
            Entry::new("PyTorch", line.ternary, line.batch, &line.seconds, Some(line.peak_bytes))
        })
        .collect()
}
