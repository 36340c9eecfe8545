//! The curriculum of phase 5: ten levels of worked problems, entered where the model is already competent and
//! climbed as fast as it masters them.

use crate::data::{Example, Examples, Mix};
use crate::engine::mixture::Domains;
use crate::error::Result;
use crate::eval::Rate;
use crate::phases::common::encoding;
use crate::pipeline::PhaseContext;

/// Highest level.
pub const LEVELS: u8 = 10;
/// A model is placed at the highest level it answers with at least this accuracy (the edge of chaos of the
/// source documents).
pub const PLACEMENT: f64 = 0.75;

/// Where training stands on the ladder of levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Curriculum {
    /// Current level, 1 to [`LEVELS`].
    pub level: u8,
    /// Accuracy at which the next level opens.
    pub advance_at: f64,
}

impl Curriculum {
    /// Starts at the highest level up to which every accuracy reaches [`PLACEMENT`], and at level 1 otherwise.
    /// `accuracy[l - 1]` is the measured accuracy on level `l`.
    pub fn place(accuracy: &[Rate], advance_at: f64) -> Self {
        let mastered = accuracy.iter().take_while(|r| r.n > 0 && r.value() >= PLACEMENT).count();
        Self { level: (mastered as u8).clamp(1, LEVELS), advance_at }
    }

    /// Moves up when `accuracy` on the current level suffices; says whether it did.
    pub fn advance(&mut self, accuracy: &Rate) -> bool {
        let up = self.level < LEVELS && accuracy.n > 0 && accuracy.value() >= self.advance_at;
        self.level += u8::from(up);
        up
    }
}

/// The mixture of a level: worked problems up to that level, the newest level twice, beside all other data.
///
/// # Errors
/// [`crate::error::Error::Io`] when what is too large for memory cannot be written.
pub fn level_sequences(
    ctx: &PhaseContext<'_>,
    examples: &Examples,
    level: u8,
    shares: [f32; 3],
    thoughts: bool,
) -> Result<Mix> {
    let times = |e: &Example| match e.level {
        newest if newest == level && level > 0 => 2,
        earlier => usize::from(earlier <= level),
    };
    let open = examples.flat_map(|e| {
        let times = times(&e);
        std::iter::repeat_n(e.into_owned(), times)
    })?;
    let encoding = encoding(&ctx.data.tokenizer, ctx.config.data.prompt_weight, thoughts);
    let domains = Domains::new(&ctx.data.dataset, &open, encoding)?;
    Ok(domains.mix(shares, ctx.seed, &format!("level{level}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(hits: usize) -> Rate {
        Rate { hits, n: 100 }
    }

    #[test]
    fn placement_stops_at_the_first_level_below_the_edge() {
        let accuracy = [rate(99), rate(80), rate(40), rate(90)];
        assert_eq!(Curriculum::place(&accuracy, 0.8).level, 2);
        assert_eq!(Curriculum::place(&[rate(10)], 0.8).level, 1);
        assert_eq!(Curriculum::place(&[], 0.8).level, 1);
    }

    #[test]
    fn levels_open_only_on_measured_mastery() {
        let mut curriculum = Curriculum { level: 1, advance_at: 0.8 };
        assert!(!curriculum.advance(&rate(79)));
        assert!(!curriculum.advance(&Rate { hits: 0, n: 0 }));
        assert!(curriculum.advance(&rate(80)));
        assert_eq!(curriculum.level, 2);
        curriculum.level = LEVELS;
        assert!(!curriculum.advance(&rate(100)));
    }
}
