//! The process that `compare load` starts over and over: maps a model, checks all of it, and reads one token.
//!
//! It does nothing else, and is a program of its own, so that its time and peak memory are those of a program that
//! only runs a model.

use std::error::Error;
use std::fs::File;
use std::time::Instant;

use forge_runtime::{Model, Options, Session, Workspace};
use memmap2::Mmap;

/// `first-token FILE [prepare]`: prints microseconds from the start of `main` (everything checked; a session ready;
/// logits there), then the lengths of the file, of what the session was lent, and of the peak of memory in bytes,
/// 0 where the system does not tell.
fn main() -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let elapsed = || start.elapsed().as_nanos() as f64 / 1e3;
    let mut arguments = std::env::args_os().skip(1);
    let path = arguments.next().ok_or("the path of a model is missing")?;
    let prepare = arguments.next().is_some();
    let file = File::open(path)?;
    // SAFETY: `compare load` wrote the file for its own use and does not change it while this process runs.
    let bytes = unsafe { Mmap::map(&file) }?;
    let model = Model::parse(&bytes)?;
    model.file().verify()?;
    let checked = elapsed();
    let prepared_bytes = if prepare { model.prepared_bytes() } else { 0 };
    let mut memory = Workspace::of(prepared_bytes);
    let options = Options::default();
    let options = if prepare { options.prepared(memory.prepare(&model)?) } else { options };
    let mut workspace = Workspace::with(&model, &options);
    let mut session = Session::with(&model, &options, workspace.bytes())?;
    let ready = elapsed();
    std::hint::black_box(session.step(1)?);
    let first_token = elapsed();
    let lent = model.workspace_for(&options) + prepared_bytes;
    println!("{checked} {ready} {first_token} {} {lent} {}", bytes.len(), peak().unwrap_or(0));
    Ok(())
}

/// The most memory this process has had.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? << 10)
}
