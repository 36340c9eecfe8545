//! What the comparison asks of a runtime.

use anyhow::Result;

/// Tokens of a prompt, and tokens generated.
pub(crate) const TOKENS: usize = 128;

/// Tokens a second, one for each repetition.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Speeds {
    /// A prompt of [`TOKENS`] tokens read from an empty context, logits of the last.
    pub prefill: Vec<f64>,
    /// [`TOKENS`] tokens read one by one from an empty context, logits of each.
    pub decode: Vec<f64>,
    /// Threads that took part, where the runtime chose fewer than it might.
    pub threads: Option<usize>,
}

impl Speeds {
    /// Adds another turn's.
    pub(crate) fn extend(&mut self, other: Self) {
        self.prefill.extend(other.prefill);
        self.decode.extend(other.decode);
        self.threads = other.threads;
    }
}

/// A runtime with a model of one shape, ready to be measured again and again in turn with others.
pub(crate) trait Contestant {
    /// Runtime and weight format, as the report shows them.
    fn label(&self) -> &str;

    /// The instruction set its int8 products use, where it is ours to say.
    fn isa(&self) -> Option<&str> {
        None
    }

    /// Repeats prefill and decode on so many threads; a kind of run it lacks stays empty.
    ///
    /// # Errors
    /// When a run fails. The comparison then goes on without it and says so.
    fn measure(&mut self, threads: usize, repetitions: usize) -> Result<Speeds>;
}
