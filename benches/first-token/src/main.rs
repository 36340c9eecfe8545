//! The process that `compare load` starts over and over: maps a model, checks all of it, reads one token, and then as
//! many more as it is told to.
//!
//! It does nothing else, and is a program of its own, so that its time and peak memory are those of a program that
//! only runs a model. The file is mapped with all of its pages at once: every check reads all of it anyway, and one
//! call costs less than a fault for every few pages.

use std::error::Error;
use std::fs::File;
use std::time::Instant;

use forge_runtime::{Model, Options, Session, Workspace};
use memmap2::MmapOptions;

/// `first-token FILE [prepare] [TOKENS]`: prints microseconds from the start of `main` (everything checked; a session ready;
/// logits there), then the lengths of the file, of what the session was lent, and of the peak of memory in bytes when
/// `TOKENS` more have been generated, 0 where the system does not tell.
fn main() -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let elapsed = || start.elapsed().as_nanos() as f64 / 1e3;
    let mut arguments = std::env::args().skip(1).peekable();
    let path = arguments.next().ok_or("the path of a model is missing")?;
    let prepare = arguments.next_if_eq("prepare").is_some();
    let more: usize = arguments.next().map_or(Ok(0), |tokens| tokens.parse())?;
    let file = File::open(path)?;
    // SAFETY: `compare load` wrote the file for its own use and does not change it while this process runs.
    let bytes = unsafe { MmapOptions::new().populate().map(&file) }?;
    let model = Model::parse_verified(&bytes)?;
    let checked = elapsed();
    let prepared_bytes = if prepare { model.prepared_bytes() } else { 0 };
    let mut memory = Workspace::of(prepared_bytes);
    let options = Options::default();
    let options = if prepare { options.prepared(memory.prepare(&model)?) } else { options };
    let mut workspace = Workspace::with(&model, &options);
    let mut session = Session::with(&model, &options, workspace.bytes())?;
    let ready = elapsed();
    let mut token = likeliest(session.step(1)?);
    let first_token = elapsed();
    for _ in 0..more {
        token = likeliest(session.step(std::hint::black_box(token))?);
    }
    let lent = model.workspace_for(&options) + prepared_bytes;
    println!("{checked} {ready} {first_token} {} {lent} {}", bytes.len(), peak().unwrap_or(0));
    Ok(())
}

/// The id of the largest logit.
fn likeliest(logits: &[f32]) -> u16 {
    let ids = (0..=u16::MAX).zip(logits);
    ids.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id)
}

/// The most memory this process has had.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? << 10)
}
