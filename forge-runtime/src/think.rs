//! Thoughts in front of answers: `<think> trace </think> answer`, never longer than asked for.
//!
//! A model that has learnt to think decides by itself whether and how long. [`Thinking`] bounds that: a completion holds
//! one thought at most, a thought of at most so many tokens, and every thought closes, so that an answer follows. The
//! markers are control tokens of the tokenizer; they stand nowhere else.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// How long a completion may think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thinking {
    open: u16,
    close: u16,
    budget: u32,
    always: bool,
}

impl Thinking {
    /// At most `budget` tokens between the markers; 0: `<think>` is never written.
    ///
    /// # Errors
    /// [`crate::Error::Control`] when the tokenizer lacks a marker.
    pub fn new(tokenizer: &Tokenizer<'_>, budget: u32) -> Result<Self> {
        let (open, close) = (tokenizer.control("<think>")?, tokenizer.control("</think>")?);
        Ok(Self { open, close, budget, always: false })
    }

    /// Every completion begins with `<think>`, whatever the model would choose, unless a constraint does not allow it.
    /// Without effect when the budget is 0.
    #[must_use]
    pub fn always(self) -> Self {
        Self { always: true, ..self }
    }

    /// Most tokens between the markers.
    pub fn budget(&self) -> u32 {
        self.budget
    }
}

/// Where a completion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before its first token.
    Start,
    /// Nothing has been thought.
    Before,
    /// So many tokens into its thought.
    Inside(u32),
    /// Behind its thought.
    After,
}

/// A completion's place in what it may think.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thoughts {
    plan: Thinking,
    stage: Stage,
    /// Whether the token chosen last belongs to a thought.
    chosen: bool,
}

impl Thoughts {
    /// Before the first token.
    pub(crate) fn new(plan: Thinking) -> Self {
        Self { plan, stage: Stage::Start, chosen: false }
    }

    /// What is held to.
    pub(crate) fn plan(&self) -> Thinking {
        self.plan
    }

    /// Begins a completion, within a thought when the prompt ends with its `<think>`.
    pub(crate) fn restart(&mut self, opened: bool) {
        self.stage = if opened { Stage::Inside(0) } else { Stage::Start };
        self.chosen = false;
    }

    /// Whether a token opens a thought.
    pub(crate) fn opens(&self, token: u16) -> bool {
        token == self.plan.open
    }

    /// The marker that is to come next, whatever the model would choose.
    pub(crate) fn due(&self) -> Option<u16> {
        match self.stage {
            Stage::Start if self.plan.always && self.plan.budget > 0 => Some(self.plan.open),
            Stage::Inside(written) if written >= self.plan.budget => Some(self.plan.close),
            _ => None,
        }
    }

    /// The markers that may not come next.
    fn barred(&self) -> impl Iterator<Item = u16> + use<> {
        let Thinking { open, close, budget, .. } = self.plan;
        let (opens, closes) = match self.stage {
            Stage::Start | Stage::Before => (budget > 0, false),
            Stage::Inside(_) => (false, true),
            Stage::After => (false, false),
        };
        [(open, opens), (close, closes)].into_iter().filter(|(_, may)| !may).map(|(id, _)| id)
    }

    /// Sets the logits of markers that may not come next to −∞.
    pub(crate) fn mask(&self, logits: &mut [f32]) {
        for id in self.barred() {
            if let Some(logit) = logits.get_mut(usize::from(id)) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    /// What is written when a sampler has chosen `token` from masked logits: within a thought `</think>` in place of
    /// the end. A barred marker, which a sampler of strange settings may choose, or one that saw no number, ends what it
    /// stands in.
    pub(crate) fn amend(&self, token: u16, end: u16) -> u16 {
        let inside = matches!(self.stage, Stage::Inside(_));
        let barred = self.barred().any(|id| id == token);
        match inside {
            true if barred || token == end => self.plan.close,
            false if barred => end,
            _ => token,
        }
    }

    /// Reads the token that comes next.
    pub(crate) fn advance(&mut self, token: u16) {
        let inside = matches!(self.stage, Stage::Inside(_));
        self.stage = match self.stage {
            Stage::Inside(_) if token == self.plan.close => Stage::After,
            Stage::Inside(written) => Stage::Inside(written.saturating_add(1)),
            Stage::Start | Stage::Before if token == self.plan.open => Stage::Inside(0),
            Stage::Start => Stage::Before,
            stage => stage,
        };
        self.chosen = inside || matches!(self.stage, Stage::Inside(_));
    }

    /// Whether the token read last belongs to a thought, markers included.
    pub(crate) fn is_thought(&self) -> bool {
        self.chosen
    }
}
