//! Choosing the next token.

use super::status::ForgeStatus;
use super::{borrow, done};
use crate::sampler::{Random, Sampler};

/// How the next token is chosen. forge_sampler_init fills it in; every number may be changed after that.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ForgeSampler {
    /// Divides the logits; 0 or less takes the most likely token.
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens; 0 for all.
    pub top_k: u32,
    /// Keeps the fewest most likely tokens that together have at least this probability; 1 for all.
    pub top_p: f32,
    /// Keeps tokens at least this many times as likely as the most likely one; 0 for all.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of recent tokens; 1 for none.
    pub repetition_penalty: f32,
    /// Where draws come from.
    pub random: [u32; 4],
}

impl ForgeSampler {
    /// The sampler it describes.
    pub(super) fn to_sampler(self) -> Sampler {
        Sampler {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            random: Random::from_state(self.random),
        }
    }
}

impl From<&Sampler> for ForgeSampler {
    fn from(sampler: &Sampler) -> Self {
        Self {
            temperature: sampler.temperature,
            top_k: sampler.top_k,
            top_p: sampler.top_p,
            min_p: sampler.min_p,
            repetition_penalty: sampler.repetition_penalty,
            random: sampler.random.state(),
        }
    }
}

/// Sets a sampler up that draws from the model's own distribution at a temperature; 0 always takes the most likely
/// token. The same seed gives the same tokens on every machine.
// SAFETY: the name is this library's; so for every function of this file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_sampler_init(
    sampler: *mut ForgeSampler,
    temperature: f32,
    seed: u64,
) -> ForgeStatus {
    // SAFETY: the first promise.
    done(unsafe { borrow::give(sampler, (&Sampler::new(temperature, seed)).into()) })
}

/// Chooses a token by its logits, which are used up. `recent` are the tokens the repetition penalty applies to.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn forge_sample(
    sampler: *mut ForgeSampler,
    logits: *mut f32,
    vocab: usize,
    recent: *const u16,
    recent_len: usize,
    token: *mut u16,
) -> ForgeStatus {
    let sample = || {
        // SAFETY: the module's promises, for every pointer; any bits are numbers.
        let (state, logits, recent) = unsafe {
            (borrow::one_mut(sampler)?, borrow::slice_mut(logits, vocab)?, borrow::slice(recent, recent_len)?)
        };
        // SAFETY: as above. Before drawing, so that nothing is drawn when the place is wrong.
        unsafe { borrow::give(token, 0) }?;
        let mut sampler = state.to_sampler();
        let chosen = sampler.sample(logits, recent);
        *state = (&sampler).into();
        // SAFETY: as above.
        unsafe { borrow::give(token, chosen) }
    };
    done(sample())
}
