//! Replays a golden case. This file is shared: the host's tests, the golden tool and the firmware compile the
//! same lines, so it is `no_std` and allocates nothing.

use crc::{CRC_32_ISO_HDLC, Crc};
use forge_runtime::{Model, Result, Sampler, Session};

static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Feeds `prompt`, then generates a token for each place of `out`, with the likeliest token or, given a seed, a
/// sampled one.
///
/// Returns the CRC-32 of what every step gave: the number of recursions as one byte, then the bits of each logit,
/// little-endian. The last token generated is not stepped.
///
/// # Errors
/// When `memory` is too small, or a token is not in the vocabulary.
pub fn replay(
    model: &Model<'_>,
    memory: &mut [u8],
    prompt: &[u16],
    seed: Option<u64>,
    out: &mut [u16],
) -> Result<u32> {
    let mut session = Session::new(model, memory)?;
    let mut digest = CRC32.digest();
    let mut sampler = sampler(seed);
    for (at, &token) in prompt.iter().enumerate() {
    }
    Ok(digest.finalize())
}
