//! What follows given tokens, free or held to the file's tools.

use forge_runtime::constrain::Mode;
use forge_runtime::generate::Counts;
use forge_runtime::{Constraint, Model, Sampler};

use super::runner::failed;
use super::together::{Job, run_all};
use crate::error::Result;

/// A completion on its way.
pub(super) struct Writing<'t> {
    /// What is read first; without a token nothing is written.
    pub(super) prefix: &'t [u16],
    /// Chooses tokens.
    pub(super) sampler: Sampler,
    /// Tokens written at most.
    pub(super) max_tokens: usize,
    /// Tokens after which nothing follows; they are kept.
    pub(super) stops: &'t [u16],
    /// A token that is never written.
    pub(super) banned: Option<u16>,
    /// What has been written.
    pub(super) written: Vec<u16>,
}

/// Writes what follows each prefix, the stop token included.
pub(super) fn write_all(model: &Model<'_>, mut jobs: Vec<Writing<'_>>) -> Result<Vec<Vec<u16>>> {
    run_all(model, &mut jobs, None)?;
    Ok(jobs.into_iter().map(|job| job.written).collect())
}

impl Job for Writing<'_> {
    fn unread(&self) -> &[u16] {
        match self.written.last() {
            _ if self.written.len() >= self.max_tokens => &[],
            Some(last) if self.stops.contains(last) => &[],
            Some(_) => &self.written[self.written.len() - 1..],
            None => self.prefix,
        }
    }

    fn see(&mut self, logits: &mut [f32], _recursions: u64) -> Result<()> {
        if let Some(logit) = self.banned.and_then(|id| logits.get_mut(usize::from(id))) {
            *logit = f32::NEG_INFINITY;
        }
        self.written.push(self.sampler.sample(logits, &self.written));
        Ok(())
    }
}

/// Writes the likeliest completion of each prefix that keeps to the file's tools, without its end, and counts as
/// [`forge_runtime::Generator`] does.
pub(super) fn hold_all(
    model: &Model<'_>,
    prefixes: &[&[u16]],
    mode: Mode,
    max_tokens: usize,
) -> Result<Vec<(Vec<u16>, Counts)>> {
    let budget = u32::try_from(max_tokens).unwrap_or(u32::MAX);
    let held = |prefix: &&[u16]| {
        let constraint = Constraint::new(model, mode, budget).map_err(failed)?;
        let (unread, written) = (prefix.to_vec(), Vec::new());
        let mut held = Holding { constraint, unread, written, counts: Counts::default() };
        held.force()?;
        Ok(held)
    };
    let mut jobs = prefixes.iter().map(held).collect::<Result<Vec<_>>>()?;
    run_all(model, &mut jobs, None)?;
    Ok(jobs.into_iter().map(|job| (job.written, job.counts)).collect())
}

/// A completion on its way that is held to a constraint.
struct Holding<'m> {
    constraint: Constraint<'m>,
    /// What has been written, or belongs to the prompt, and not been read.
    unread: Vec<u16>,
    written: Vec<u16>,
    counts: Counts,
}

impl Holding<'_> {
    /// Writes the tokens that alone are allowed: they need no logits.
    fn force(&mut self) -> Result<()> {
        while let Some(token) = self.constraint.forced() {
            self.counts.forced += 1;
            self.take(token)?;
        }
        Ok(())
    }

    fn take(&mut self, token: u16) -> Result<()> {
        self.constraint.advance(token).map_err(failed)?;
        if !self.constraint.ended() {
            self.written.push(token);
            self.unread.push(token);
        }
        Ok(())
    }
}

impl Job for Holding<'_> {
    fn unread(&self) -> &[u16] {
        if self.constraint.ended() { &[] } else { &self.unread }
    }

    fn see(&mut self, logits: &mut [f32], _recursions: u64) -> Result<()> {
        self.unread.clear();
        self.counts.passes += 1;
        let token = self.constraint.pick(&mut Sampler::greedy(), logits, &self.written);
        self.take(token)?;
        self.force()
    }
}
