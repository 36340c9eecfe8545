//! Choosing the next token from logits: the same stream of tokens on every target.
#![forbid(unsafe_code)]

use crate::math::exp;

/// One over the unit in which probabilities are counted. Sums of counts are exact integers, so that they depend
/// on no order.
const UNIT: f32 = 4_294_967_296.0;

/// How the next token is chosen. Penalty first, then temperature, top-k, top-p and min-p, each on what the one
/// before has left; the rest is drawn from in proportion to its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    /// Divides the logits; 0 or less takes the most likely token.
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens; 0 for all.
    pub top_k: u32,
    /// Keeps the fewest most likely tokens that together have at least this probability; 1 for all.
    pub top_p: f32,
    /// Keeps tokens at least this many times as likely as the most likely one; 0 for all.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of recent tokens (Keskar et al. 2019); 1 for none.
    pub repetition_penalty: f32,
    /// Where draws come from.
    pub random: Random,
}

impl Sampler {
    /// Always the most likely token, the lowest id of several.
    pub fn greedy() -> Self {
        Self::new(0.0, 0)
    }

    /// Draws from the model's own distribution at a temperature.
    pub fn new(temperature: f32, seed: u64) -> Self {
        let random = Random::new(seed);
        Self { temperature, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, random }
    }

    /// Whether it takes the largest logit as it is.
    pub(crate) fn is_greedy(&self) -> bool {
        (self.temperature.is_nan() || self.temperature <= 0.0) && self.repetition_penalty == 1.0
    }

    /// Chooses a token; `logits` is used up. `recent` are the tokens the repetition penalty applies to. Returns 0
    /// when no logit is a number.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[u16]) -> u16 {
        if self.repetition_penalty != 1.0 {
            penalise(logits, recent, self.repetition_penalty);
        }
        let best = argmax(logits);
        let largest = logits.get(usize::from(best)).copied().unwrap_or(0.0);
        if self.temperature.is_nan() || self.temperature <= 0.0 || !largest.is_finite() {
            return best;
        }
        // From here on `logits` holds weights: probabilities relative to the most likely token's.
        for l in logits.iter_mut() {
            *l = if l.is_nan() { 0.0 } else { exp((*l - largest) / self.temperature) };
        }
        if self.top_k > 0 {
            let limit = u64::from(self.top_k);
            truncate(logits, limit, |_| 1);
        }
        if self.top_p < 1.0 {
            let target = ((u128::from(count(self.top_p.max(0.0))) * u128::from(total(logits))) >> 32) as u64;
            truncate(logits, target.max(1), count);
        }
        if self.min_p > 0.0 {
            logits.iter_mut().filter(|w| **w < self.min_p).for_each(|w| *w = 0.0);
        }
        draw(logits, &mut self.random).unwrap_or(best)
    }
}

/// A weight in units of `2⁻³²`.
fn count(weight: f32) -> u64 {
    (weight * UNIT) as u64
}

/// The counts of all weights together; at most `2¹⁶ · 2³²`.
fn total(weights: &[f32]) -> u64 {
    weights.iter().map(|w| count(*w)).sum()
}

/// The lowest id of the largest logit; 0 when none is a number.
pub fn argmax(logits: &[f32]) -> u16 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in (0..=u16::MAX).zip(logits) {
        if *logit > best.1 {
            best = (id, *logit);
        }
    }
    best.0
}

/// Applies the repetition penalty once to each token of `recent`.
fn penalise(logits: &mut [f32], recent: &[u16], penalty: f32) {
    for (i, id) in recent.iter().enumerate() {
        let repeated = recent.iter().take(i).any(|r| r == id);
        if let Some(logit) = logits.get_mut(usize::from(*id)).filter(|_| !repeated) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// Keeps the largest weights, lower ids first among equals, until their `measure`s add up to `target`; sets the
/// others to 0.
///
/// Not negative floats rise with their bits, so the smallest weight kept is found by a binary search over bit
/// patterns, one pass over the weights a bit, without memory or sorting.
fn truncate(weights: &mut [f32], target: u64, measure: impl Fn(f32) -> u64) {
    let reached = |weights: &[f32], bits: u32| -> u64 {
        weights.iter().filter(|w| w.to_bits() >= bits).map(|w| measure(*w)).sum()
    };
    // The largest threshold from which on the target is reached; weights are at most 1.
    let (mut low, mut high) = (0u32, 1.0f32.to_bits() + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if reached(weights, middle) >= target { low = middle } else { high = middle }
    }
    let mut left = target.saturating_sub(reached(weights, low + 1));
    for w in weights.iter_mut() {
        let keep = w.to_bits() > low || (w.to_bits() == low && left > 0);
        if w.to_bits() == low {
            left = left.saturating_sub(measure(*w));
        }
        if !keep {
            *w = 0.0;
        }
    }
}

/// Draws an id in proportion to the weights; `None` when all are 0.
fn draw(weights: &[f32], random: &mut Random) -> Option<u16> {
    let total = total(weights);
    let mut at = ((u128::from(random.next_u64()) * u128::from(total)) >> 64) as u64;
    for (id, w) in (0..=u16::MAX).zip(weights) {
        match at.checked_sub(count(*w)) {
            Some(rest) => at = rest,
            None => return Some(id),
        }
    }
    None
}

/// A stream of random numbers: xoshiro128++ (Blackman & Vigna 2021), seeded by SplitMix64. Its steps are 32-bit
/// operations only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    state: [u32; 4],
}

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let (a, b) = (next(), next());
        Self { state: [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32] }
    }

    /// The stream that goes on from a state.
    #[cfg(feature = "capi")]
    pub(crate) fn from_state(state: [u32; 4]) -> Self {
        Self { state }
    }

    /// Where the stream is.
    #[cfg(feature = "capi")]
    pub(crate) fn state(&self) -> [u32; 4] {
        self.state
    }

    fn next_u32(&mut self) -> u32 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(7).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 9), d.rotate_left(11)];
        result
    }

    fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn the_generator_is_xoshiro128_plus_plus() {
        // The first outputs of the authors' C code from this state.
        let mut random = Random { state: [1, 2, 3, 4] };
        for want in [641, 1_573_767, 3_222_811_527, 3_517_856_514, 836_907_274, 4_247_214_768, 3_867_114_732]
        {
            assert_eq!(random.next_u32(), want);
        }
    }

    #[test]
    fn seeding_is_splitmix64() {
        // The first outputs of the authors' C code from the state 1234567.
        let (first, second) = (6_457_827_717_110_365_317u64, 3_203_168_211_198_807_973u64);
        let state = [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32];
        assert_eq!(Random::new(1_234_567), Random { state });
    }
}
