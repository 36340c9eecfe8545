//! Choosing a token among those that are allowed.
#![forbid(unsafe_code)]

use super::Constraint;
use crate::sampler::{Sampler, argmax};

/// Likeliest tokens that are looked at one by one before every token is.
const TRIES: usize = 8;

impl Constraint<'_> {
    /// The token the sampler chooses among those that may come next: as of logits that [`Constraint::mask`] has
    /// worked on. `logits` is used up. Once [`ended`](Constraint::ended), `<eos>`.
    pub fn pick(&self, sampler: &mut Sampler, logits: &mut [f32], recent: &[u16]) -> u16 {
        if sampler.is_greedy() {
            // The likeliest token nearly always is allowed, and looking at one is cheaper than at all.
            for _ in 0..TRIES {
                let best = argmax(logits);
                let Some(logit) = logits.get_mut(usize::from(best)).filter(|logit| logit.is_finite()) else {
                    break;
                };
                if self.allows(best) {
                    return best;
                }
                *logit = f32::NEG_INFINITY;
            }
        }
        self.mask(logits);
        let token = sampler.sample(logits, recent);
        // A sampler of strange settings, or logits that are no numbers.
        if self.allows(token) { token } else { self.nearest() }
    }

    /// Some token that may come next: the end, if it may.
    fn nearest(&self) -> u16 {
        if self.open.contains(self.end) { self.end } else { self.allowed().next().unwrap_or(self.end) }
    }
}
