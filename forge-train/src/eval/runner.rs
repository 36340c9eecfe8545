//! Runs a model over sequences through the runtime: scoring given tokens, generating new ones.

use forge_runtime::constrain::Mode;
use forge_runtime::generate::Counts;
use forge_runtime::{Constraint, Generator, Model, Options, Sampler, Session, Workspace};

use crate::error::{Error, Result};

/// Turns a runtime error into this crate's.
pub(super) fn failed(error: forge_runtime::Error) -> Error {
    match error {
        forge_runtime::Error::Format(e) => Error::Format(e),
        other => {
            Error::Usage { what: format!("the model cannot be run: {other}"), hint: other.hint().into() }
        }
    }
}

/// Most memory of a session in bytes. A file of a few megabytes can state sizes that need a thousand times as much,
/// and an operating system that lends memory it has not would let it.
pub(super) const MOST_MEMORY: usize = 1 << 30;

/// Memory for a session of a model, which may come from anywhere.
///
/// # Errors
/// [`Error::Usage`] when the session would need more than 1 GiB, or this machine has not what it needs.
pub fn workspace(model: &Model<'_>) -> Result<Workspace> {
    let need = model.workspace();
    if need > MOST_MEMORY {
        return Err(Error::Usage {
            what: format!("a session of this model needs {need} bytes of memory, the most is {MOST_MEMORY}"),
            hint: "make a model of a shorter window, fewer heads or fewer blocks".into(),
        });
    }
    Workspace::try_with(model, &Options::default()).map_err(failed)
}

/// Memory of a session, reused from sequence to sequence.
pub(super) struct Memory(Vec<u32>);

impl Memory {
    pub(super) fn new(model: &Model<'_>) -> Self {
        Self(vec![0; model.workspace().div_ceil(4)])
    }
}

/// What reading a given sequence gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Score {
    /// Negative log-likelihood in nats of the tokens from the first scored one on.
    pub(super) nats: f64,
    /// How many tokens of the completion the model would have written itself, from its first on.
    pub(super) agreed: usize,
    /// Recursions of all tokens read.
    pub(super) recursions: u64,
    /// Tokens read.
    pub(super) tokens: u64,
}

/// Reads `ids`; scores those from `scored` on, and compares those from `completion` on with the likeliest.
/// `scored` is at least 1: nothing predicts the first token.
pub(super) fn score(
    model: &Model<'_>,
    memory: &mut Memory,
    ids: &[u16],
    scored: usize,
    completion: usize,
) -> Result<Score> {
    let mut session = Session::new(model, bytemuck::cast_slice_mut(&mut memory.0)).map_err(failed)?;
    let mut score = Score::default();
    let mut agrees = true;
    for (i, pair) in ids.windows(2).enumerate() {
        if i + 1 < scored {
            session.feed(pair[0]).map_err(failed)?;
        } else {
            let logits = session.step(pair[0]).map_err(failed)?;
            score.nats += surprise(logits, pair[1]);
            if agrees && i + 1 >= completion {
                agrees = forge_runtime::sampler::argmax(logits) == pair[1];
                score.agreed += usize::from(agrees);
            }
        }
        score.recursions += u64::from(session.recursions());
        score.tokens += 1;
    }
    Ok(score)
}

/// `−ln softmax(logits)[token]`, in f64.
pub(super) fn surprise(logits: &[f32], token: u16) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
    match logits.get(usize::from(token)) {
        Some(logit) => sum.ln() - f64::from(logit - largest),
        None => f64::INFINITY,
    }
}

/// When and how generation goes.
pub(super) struct Writing<'a> {
    /// Chooses tokens.
    pub(super) sampler: Sampler,
    /// Tokens written at most.
    pub(super) max_tokens: usize,
    /// Tokens after which nothing follows; they are kept.
    pub(super) stops: &'a [u16],
    /// A token that is never written.
    pub(super) banned: Option<u16>,
}

/// Reads `prefix` and writes what follows, the stop token included.
pub(super) fn write(
    model: &Model<'_>,
    memory: &mut Memory,
    prefix: &[u16],
    mut how: Writing<'_>,
) -> Result<Vec<u16>> {
    let mut session = Session::new(model, bytemuck::cast_slice_mut(&mut memory.0)).map_err(failed)?;
    let mut written = Vec::new();
    let Some((last, before)) = prefix.split_last() else { return Ok(written) };
    before.iter().try_for_each(|id| session.feed(*id)).map_err(failed)?;
    let mut next = *last;
    while written.len() < how.max_tokens {
        let logits = session.step_mut(next).map_err(failed)?;
        if let Some(logit) = how.banned.and_then(|id| logits.get_mut(usize::from(id))) {
            *logit = f32::NEG_INFINITY;
        }
        next = how.sampler.sample(logits, &written);
        written.push(next);
        if how.stops.contains(&next) {
            break;
        }
    }
    Ok(written)
}

/// Reads `prefix` and writes the likeliest completion that keeps to the file's tools, without its end.
pub(super) fn hold(
    model: &Model<'_>,
    memory: &mut Memory,
    prefix: &[u16],
    mode: Mode,
    max_tokens: usize,
) -> Result<(Vec<u16>, Counts)> {
    let constraint =
        Constraint::new(model, mode, u32::try_from(max_tokens).unwrap_or(u32::MAX)).map_err(failed)?;
    let session = Session::new(model, bytemuck::cast_slice_mut(&mut memory.0)).map_err(failed)?;
    let mut generator = Generator::new(session, Sampler::greedy(), constraint.end()).constrained(constraint);
    let mut written = vec![0; max_tokens];
    let len = generator.complete(prefix, &mut written).map_err(failed)?;
    written.truncate(len);
    Ok((written, generator.counts()))
}
