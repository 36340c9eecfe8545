//! Replays a golden case. The host's tests, the golden tool and the firmware compile these same lines, so they
//! are `no_std` and allocate nothing.

use crc::{CRC_32_ISO_HDLC, Crc, Digest};
use forge_runtime::{Model, Result, Sampler, Session};

static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Reads `prompt` and chooses a token for each place of `out`: the likeliest one, or with a `seed` a sampled one.
///
/// Returns the CRC-32 of what every step gave: the bits of each logit, little-endian, then the number of recursions
/// as one byte. The last token of `out` is not stepped.
///
/// # Errors
/// When `memory` is too small, or a token is outside the vocabulary.
pub fn replay(
    model: &Model<'_>,
    memory: &mut [u8],
    prompt: &[u16],
    seed: Option<u64>,
    out: &mut [u16],
) -> Result<u32> {
    let mut session = Session::new(model, memory)?;
    let mut sampler = sampler(seed);
    let mut digest = CRC32.digest();
    let Some((last, before)) = prompt.split_last() else {
        return Ok(digest.finalize());
    };
    for token in before {
        add(&mut digest, session.step(*token)?);
        digest.update(&[session.recursions() as u8]);
    }
    let mut token = *last;
    for place in out {
        let logits = session.step_mut(token)?;
        add(&mut digest, logits);
        token = sampler.sample(logits, &[]);
        *place = token;
        digest.update(&[session.recursions() as u8]);
    }
    Ok(digest.finalize())
}

/// Greedy without a seed; otherwise every kind of truncation takes part.
pub fn sampler(seed: Option<u64>) -> Sampler {
    let Some(seed) = seed else {
        return Sampler::greedy();
    };
    let mut sampler = Sampler::new(0.8, seed);
    sampler.top_k = 40;
    sampler.top_p = 0.95;
    sampler.min_p = 0.02;
    sampler
}

/// Digests the bits of logits.
fn add(digest: &mut Digest<'_, u32>, logits: &[f32]) {
    logits.iter().for_each(|logit| digest.update(&logit.to_bits().to_le_bytes()));
}
