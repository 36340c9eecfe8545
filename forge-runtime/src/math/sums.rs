//! Sums in one fixed order: sixteen lanes, then a tree.

/// Accumulators of every float sum. Sixteen fill one AVX-512, two AVX2 or four 128-bit registers.
pub const LANES: usize = 16;

/// Sixteen running sums, element `i` going to lane `i mod 16`.
#[derive(Clone, Copy)]
struct Lanes([f32; LANES]);

impl Lanes {
    /// Adds `f(x, y)` of the paired elements; call with whole groups of [`LANES`] before the last.
    #[inline(always)]
    fn add<X: Copy, Y: Copy>(&mut self, x: &[X], y: &[Y], f: impl Fn(X, Y) -> f32) {
        for ((lane, x), y) in self.0.iter_mut().zip(x).zip(y) {
            *lane += f(*x, *y);
        }
    }

    /// The lanes added as a tree: distance 8, 4, 2, 1.
    #[inline(always)]
    fn total(self) -> f32 {
        let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7] = self.0;
        let [a0, a1, a2, a3] =
            [(a0 + b0) + (a4 + b4), (a1 + b1) + (a5 + b5), (a2 + b2) + (a6 + b6), (a3 + b3) + (a7 + b7)];
        (a0 + a2) + (a1 + a3)
    }
}

/// `Σ f(x[i], y[i])` in the fixed order, over the shorter of the two slices.
#[inline(always)]
fn fold<X: Copy, Y: Copy>(x: &[X], y: &[Y], f: impl Fn(X, Y) -> f32 + Copy) -> f32 {
    let n = x.len().min(y.len());
    let (x, y) = (x.get(..n).unwrap_or(x), y.get(..n).unwrap_or(y));
    let mut lanes = Lanes([0.0; LANES]);
    let ((xs, x_tail), (ys, y_tail)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        lanes.add(x, y, f);
    }
    lanes.add(x_tail, y_tail, f);
    lanes.total()
}

/// The sum of `x` in the fixed order.
#[inline]
pub fn sum16(x: &[f32]) -> f32 {
    fold(x, x, |a, _| a)
}

/// `Σ x[i]·y[i]` in the fixed order, over the shorter of the two slices.
#[inline]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    fold(x, y, |a, b| a * b)
}

/// As [`dot`], the first vector given as little-endian bytes, as weights lie in a file.
#[inline]
pub fn dot_f32_le(x: &[[u8; 4]], y: &[f32]) -> f32 {
    fold(x, y, |a, b| f32::from_le_bytes(a) * b)
}

/// `Σ x[i]²` in the fixed order.
#[inline]
pub fn sum_squares(x: &[f32]) -> f32 {
    dot(x, x)
}

/// The largest element, ignoring NaN; `−∞` of nothing. Its order does not matter, so it takes the fastest.
#[inline]
pub fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, v);
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// The page's words, one by one.
    fn by_the_page(x: &[f32], y: &[f32]) -> f32 {
        let mut a = [0.0f32; 16];
        for i in 0..x.len() {
            a[i % 16] += x[i] * y[i];
        }
        for step in [8, 4, 2, 1] {
            for j in 0..step {
                a[j] += a[j + step];
            }
        }
        a[0]
    }

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed;
        let mut next = || {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn sums_follow_the_page_for_every_length() {
        let mut differs_from_plain = false;
        for n in 0..200 {
            let (x, y) = (noise(n, 1), noise(n, 2));
            let want = by_the_page(&x, &y);
            assert_eq!(dot(&x, &y).to_bits(), want.to_bits(), "n = {n}");
            let bytes: Vec<[u8; 4]> = x.iter().map(|v| v.to_le_bytes()).collect();
            assert_eq!(dot_f32_le(&bytes, &y).to_bits(), want.to_bits(), "n = {n}");
            let ones = std::vec![1.0; n];
            assert_eq!(sum16(&x).to_bits(), by_the_page(&x, &ones).to_bits(), "n = {n}");
            differs_from_plain |= x.iter().zip(&y).fold(0.0, |s, (a, b)| s + a * b) != want;
        }
        assert!(differs_from_plain, "the order would not matter");
    }

    #[test]
    fn max_finds_the_largest() {
        for n in 1..100 {
            let x = noise(n, n as u32);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        assert_eq!(max(&[f32::NAN, 1.0, f32::NAN]), 1.0);
    }
}
