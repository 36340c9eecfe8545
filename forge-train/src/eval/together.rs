//! Many token sequences through a model at once: side by side in a batch, batches on all cores.

use forge_runtime::{Batch, Model, Options, Prepared, Workspace};
use rayon::prelude::*;

use super::runner::{MOST_MEMORY, failed, workspace};
use crate::error::Result;

/// Sequences that go through the model together, unless there is too little memory or work for so many. Weights are
/// read once for all of them.
pub(crate) const TOGETHER: usize = 32;
/// Sequences of a group for each place in its batch: where one ends, the next takes its place, so that short ones do not
/// wait for long ones.
const IN_TURN: usize = 4;
/// Tokens of one sequence read together where no logits are needed.
const BLOCK: usize = 32;

/// A sequence that is read from an empty state.
pub(super) trait Job: Send {
    /// The tokens to be read next; the logits behind the last of them are wanted. None when the job is done.
    fn unread(&self) -> &[u16];
    /// The logits behind them, and how often they went through the block stack, all together.
    fn see(&mut self, logits: &mut [f32], recursions: u64) -> Result<()>;
}

/// Takes every job to its end. `together` says how many go through the model side by side; it changes no bit of what they
/// see, nor does the number of threads.
pub(super) fn run_all<J: Job>(model: &Model<'_>, jobs: &mut [J], together: Option<usize>) -> Result<()> {
    // Fails here rather than in each thread.
    drop(workspace(model)?);
    let mut panels = Workspace::of(model.prepared_bytes());
    let prepared = panels.prepare(model).map_err(failed)?;
    let together = together.unwrap_or_else(|| side_by_side(model, prepared, jobs.len()));
    let options = options(prepared, together);
    let memory = model.batch_workspace(&options, together);
    let even = jobs.len().div_ceil(rayon::current_num_threads());
    jobs.par_chunks_mut((IN_TURN * together).min(even).max(together))
        .map_init(
            || Workspace::of(memory),
            |memory, group| {
                let places = together.min(group.len());
                run(model, Batch::new(model, &options, places, memory.bytes()).map_err(failed)?, group)
            },
        )
        .collect()
}

fn options(prepared: Prepared<'_>, together: usize) -> Options<'_> {
    Options::default().prepared(prepared).block(BLOCK.max(together))
}

/// As many sequences as go well together: every thread gets some, and all of them fit into memory.
fn side_by_side(model: &Model<'_>, prepared: Prepared<'_>, jobs: usize) -> usize {
    let threads = rayon::current_num_threads();
    let mut together = jobs.div_ceil(threads).clamp(1, TOGETHER);
    while together > 1
        && model.batch_workspace(&options(prepared, together), together) > MOST_MEMORY / threads
    {
        together /= 2;
    }
    together
}

/// One group: in each round every place reads what its job asks for, and all see their logits.
fn run<J: Job>(model: &Model<'_>, mut batch: Batch<'_>, jobs: &mut [J]) -> Result<()> {
    // What one pass takes: behind a longer piece only the last pass would be known.
    let piece = BLOCK.min(model.config().window as usize).max(1);
    let mut waiting = jobs.iter_mut();
    let mut places: Vec<Option<&mut J>> = (0..batch.sequences()).map(|_| None).collect();
    loop {
        let mut last = Vec::new();
        let mut recursions = vec![0; places.len()];
        for (sequence, place) in places.iter_mut().enumerate() {
            while place.as_ref().is_none_or(|job| job.unread().is_empty()) {
                batch.reset(sequence);
                *place = waiting.next();
                if place.is_none() {
                    break;
                }
            }
            let unread = place.as_ref().map_or(&[][..], |job| job.unread());
            let Some((token, before)) = unread.split_last() else { continue };
            for tokens in before.chunks(piece) {
                batch.prefill(sequence, tokens).map_err(failed)?;
                recursions[sequence] += gone_through(&batch, 0..tokens.len());
            }
            last.push((sequence, *token));
        }
        if last.is_empty() {
            return Ok(());
        }
        batch.step(&last).map_err(failed)?;
        for (row, (sequence, _)) in last.iter().enumerate() {
            recursions[*sequence] += gone_through(&batch, row..row + 1);
            if let Some(job) = &mut places[*sequence] {
                job.see(batch.logits_mut(*sequence), recursions[*sequence])?;
            }
        }
    }
}

/// How often some tokens of the last pass went through the block stack, all together.
fn gone_through(batch: &Batch<'_>, rows: std::ops::Range<usize>) -> u64 {
    rows.map(|row| u64::from(batch.recursions(row))).sum()
}

#[cfg(test)]
#[path = "together_tests.rs"]
mod tests;
