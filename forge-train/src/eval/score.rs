//! Likelihood of many token sequences at once: side by side in a batch, batches on all cores.

use forge_runtime::{Batch, Model, Options, Prepared, Workspace};
use rayon::prelude::*;

use super::runner::{MOST_MEMORY, failed, surprise, workspace};
use crate::error::Result;

/// Sequences that go through the model together, unless there is too little memory or work for so many. Weights are
/// read once for all of them.
const TOGETHER: usize = 32;
/// Tokens of one sequence read together where no logits are needed.
const BLOCK: usize = 32;

/// A sequence of tokens, read from an empty state, of which the end is scored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<'t> {
    /// The tokens.
    pub(super) ids: &'t [u16],
    /// The first one that is scored: at least 1, because nothing predicts the first.
    pub(super) from: usize,
}

/// The negative log-likelihood in nats of the scored tokens of each span. `together` says how many go through the model
/// side by side; it changes no bit of any figure, nor does the number of threads.
pub(super) fn score_all(model: &Model<'_>, spans: &[Span<'_>], together: Option<usize>) -> Result<Vec<f64>> {
    // Fails here rather than in each thread.
    drop(workspace(model)?);
    let mut panels = Workspace::of(model.prepared_bytes());
    let prepared = panels.prepare(model).map_err(failed)?;
    let together = together.unwrap_or_else(|| side_by_side(model, prepared, spans.len()));
    let options = options(prepared, together);
    let memory = model.batch_workspace(&options, together);
    let groups: Vec<&[Span<'_>]> = spans.chunks(together).collect();
    let scores = groups
        .par_iter()
        .map_init(|| Workspace::of(memory), |memory, group| score(model, &options, memory, group))
        .collect::<Result<Vec<Vec<f64>>>>()?;
    Ok(scores.concat())
}

fn options(prepared: Prepared<'_>, together: usize) -> Options<'_> {
    Options::default().prepared(prepared).block(BLOCK.max(together))
}

/// As many sequences as go well together: every thread gets some, and all of them fit into memory.
fn side_by_side(model: &Model<'_>, prepared: Prepared<'_>, spans: usize) -> usize {
    let threads = rayon::current_num_threads();
    let mut together = spans.div_ceil(threads).clamp(1, TOGETHER);
    while together > 1
        && model.batch_workspace(&options(prepared, together), together) > MOST_MEMORY / threads
    {
        together /= 2;
    }
    together
}

/// One group, a token of each sequence at a time.
fn score(
    model: &Model<'_>,
    options: &Options<'_>,
    memory: &mut Workspace,
    group: &[Span<'_>],
) -> Result<Vec<f64>> {
    let mut batch = Batch::new(model, options, group.len(), memory.bytes()).map_err(failed)?;
    for (sequence, span) in group.iter().enumerate() {
        batch.prefill(sequence, &span.ids[..span.from - 1]).map_err(failed)?;
    }
    let mut nats = vec![0.0; group.len()];
    let longest = group.iter().map(|span| span.ids.len() - span.from).max().unwrap_or(0);
    for i in 0..longest {
        let going = group.iter().enumerate().filter(|(_, span)| span.from + i < span.ids.len());
        let next: Vec<(usize, u16)> = going.map(|(s, span)| (s, span.ids[span.from + i - 1])).collect();
        batch.step(&next).map_err(failed)?;
        for (sequence, _) in next {
            let span = &group[sequence];
            nats[sequence] += surprise(batch.logits_mut(sequence), span.ids[span.from + i]);
        }
    }
    Ok(nats)
}
