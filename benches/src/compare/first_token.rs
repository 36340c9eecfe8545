//! The process that `compare load` starts over and over: maps a model, checks all of it, and reads one token.
//!
//! It does nothing else, so that its peak memory is that of a program that only runs a model.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use forge_runtime::{Model, Options, Session, Workspace};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

/// The first argument of such a process; the second is the model's path.
pub(crate) const COMMANDS: [&str; 2] = ["first-token", "first-token-prepared"];

/// What it prints: microseconds from the start of `main`, one after another, and bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct FirstToken {
    /// The file is mapped and parsed, and every checksum compared.
    pub checked_us: f64,
    /// The weights are laid out for this machine, or not if they stay as they are, and there is a session.
    pub ready_us: f64,
    /// The logits of the first token are there.
    pub first_token_us: f64,
    /// Length of the file.
    pub file_bytes: usize,
    /// Memory lent to the session and for prepared weights.
    pub workspace_bytes: usize,
    /// The most memory the process has had, where the system tells.
    pub peak_bytes: Option<usize>,
}

/// Runs it on the model at `path`, with its weights laid out for this machine first or as they lie in the file.
///
/// # Errors
/// When the file cannot be mapped, is no model, or a checksum is wrong.
pub(crate) fn run(path: &Path, prepare: bool) -> Result<()> {
    let start = Instant::now();
    let elapsed = || start.elapsed().as_secs_f64() * 1e6;
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    // SAFETY: `compare load` wrote the file for its own use and does not change it while this process runs.
    let bytes = unsafe { Mmap::map(&file) }?;
    let model = Model::parse(&bytes)?;
    model.file().verify()?;
    let checked_us = elapsed();
    let mut memory = Workspace::of(if prepare { model.prepared_bytes() } else { 0 });
    let options = Options::default();
    let options = if prepare { options.prepared(memory.prepare(&model)?) } else { options };
    let mut workspace = Workspace::with(&model, &options);
    let mut session = Session::with(&model, &options, workspace.bytes())?;
    let ready_us = elapsed();
    std::hint::black_box(session.step(1)?);
    let first_token_us = elapsed();
    let lent = model.workspace_for(&options) + if prepare { model.prepared_bytes() } else { 0 };
    let (file_bytes, workspace_bytes, peak_bytes) = (bytes.len(), lent, peak());
    let result = FirstToken { checked_us, ready_us, first_token_us, file_bytes, workspace_bytes, peak_bytes };
    println!("{}", serde_json::to_string(&result)?);
    Ok(())
}

/// The most memory this process has had.
pub(crate) fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? << 10)
}
