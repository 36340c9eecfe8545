//! Rotary position embedding (Su et al. 2021) in half-split layout, with the frequencies of docs/numerics.md.

use forge_runtime::math;

use super::HostData;

/// log2(2π): frequencies are in turns, not radians.
const LOG2_TAU: f32 = 2.651_496_2;

/// Cosines and sines of every position and channel pair, `[positions, d/2]`.
pub(crate) struct Rope {
    cos: HostData<f32>,
    sin: HostData<f32>,
    half: usize,
}

impl Rope {
    /// Table for heads of `d` channels at positions `0..positions`.
    pub(crate) fn new(positions: usize, d: usize, log2_theta: f32) -> Self {
        let half = d / 2;
        let (mut cos, mut sin) = (Vec::with_capacity(positions * half), Vec::with_capacity(positions * half));
        for p in 0..positions {
            for i in 0..half {
                let frequency = math::exp2(-((2 * i) as f32 / d as f32) * log2_theta - LOG2_TAU);
                let turns = p as f32 * frequency;
                cos.push(math::cos_turns(turns));
                sin.push(math::sin_turns(turns));
            }
        }
        Self { cos: cos.into(), sin: sin.into(), half }
    }

    /// Cosines and sines on a device.
    ///
    /// # Errors
    /// If they cannot be uploaded.
    #[cfg(feature = "cuda")]
    pub(super) fn on(
        &self,
        device: &candle_core::CudaDevice,
    ) -> candle_core::Result<(&super::cuda::Uploaded<f32>, &super::cuda::Uploaded<f32>)> {
        Ok((self.cos.on(device)?, self.sin.on(device)?))
    }

    /// `(a, b) → (a cos − b sin, b cos + a sin)` of each pair.
    #[inline(always)]
    pub(crate) fn rotate(&self, position: usize, x: &[f32], y: &mut [f32]) {
        self.turn(position, 1.0, x, y);
    }

    /// The inverse rotation, which is also the gradient of [`Rope::rotate`].
    #[inline(always)]
    pub(crate) fn rotate_back(&self, position: usize, x: &[f32], y: &mut [f32]) {
        self.turn(position, -1.0, x, y);
    }

    #[inline(always)]
    fn turn(&self, position: usize, sign: f32, x: &[f32], y: &mut [f32]) {
        let table = position * self.half..(position + 1) * self.half;
        let (cos, sin) = (&self.cos[table.clone()], &self.sin[table]);
        let (a, b) = x.split_at(self.half);
        let (ya, yb) = y.split_at_mut(self.half);
        let (b, ya, yb) = (&b[..a.len()], &mut ya[..a.len()], &mut yb[..a.len()]);
        for i in 0..a.len() {
            let s = sign * sin[i];
            ya[i] = a[i] * cos[i] - b[i] * s;
            yb[i] = b[i] * cos[i] + a[i] * s;
        }
    }
}
