//! Sums in one fixed order: sixteen lanes, then a tree.

use super::elementary::number_or;

/// Accumulators of every float sum. Sixteen fill one AVX-512, two AVX2 or four 128-bit registers.
pub const LANES: usize = 16;

/// Sixteen running sums, element `i` going to lane `i mod 16`.
#[derive(Clone, Copy)]
struct Lanes([f32; LANES]);

impl Lanes {
    /// Adds `f(x, y)` to every lane.
    #[inline(always)]
    fn add<X: Copy, Y: Copy>(&mut self, x: &[X; LANES], y: &[Y; LANES], f: impl Fn(X, Y) -> f32) {
        for ((lane, x), y) in self.0.iter_mut().zip(x).zip(y) {
            *lane += f(*x, *y);
        }
    }

    /// The lanes added as a tree: distance 8, 4, 2, 1.
    #[inline(always)]
    fn total(self) -> f32 {
        let eight: [f32; 8] = halve(&self.0);
        let four: [f32; 4] = halve(&eight);
        let [a, b]: [f32; 2] = halve(&four);
        a + b
    }
}

/// `a[j] + a[j + M]` for `j < M`, `a` holding `2 M` elements.
#[inline(always)]
fn halve<const M: usize>(a: &[f32]) -> [f32; M] {
    let mut sums = [0.0; M];
    for ((sum, low), high) in sums.iter_mut().zip(a).zip(a.iter().skip(M)) {
        *sum = low + high;
    }
    sums
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
    if !x_tail.is_empty() {
        // Lanes without an element get a zero, which changes nothing: a sum that began at +0 is never −0.
        let mut last = [0.0; LANES];
        last.iter_mut().zip(x_tail).zip(y_tail).for_each(|((l, x), y)| *l = f(*x, *y));
        lanes.add(&last, &last, |l, _| l);
    }
    lanes.total()
}

/// The sum of what an iterator gives, in the fixed order: in less code than [`fold`], and slower.
#[cfg_attr(not(little_code), allow(dead_code, reason = "for programs compiled for size"))]
pub(crate) fn sum16_of(x: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = Lanes([0.0; LANES]);
    for (i, x) in x.enumerate() {
        lanes.0.iter_mut().skip(i % LANES).take(1).for_each(|lane| *lane += x);
    }
    lanes.total()
}

/// The sum of `x` in the fixed order.
#[inline(always)]
pub fn sum16(x: &[f32]) -> f32 {
    fold(x, x, |a, _| a)
}

/// `Σ x[i]·y[i]` in the fixed order, over the shorter of the two slices.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    fold(x, y, |a, b| a * b)
}

/// As [`dot`], the first vector given in a form that `widen` turns into `f32`, as weights lie in a file.
#[inline(always)]
pub fn dot_widened<X: Copy>(x: &[X], y: &[f32], widen: impl Fn(X) -> f32 + Copy) -> f32 {
    fold(x, y, |a, b| widen(a) * b)
}

/// `Σ x[i]²` in the fixed order.
#[inline(always)]
pub fn sum_squares(x: &[f32]) -> f32 {
    dot(x, x)
}

/// The largest element, ignoring NaN; `−∞` of nothing. Its order does not matter, so it takes the fastest.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    largest(x, f32::NEG_INFINITY, |v| v)
}

/// The largest magnitude, ignoring NaN; 0 of nothing.
#[inline(always)]
pub fn max_abs(x: &[f32]) -> f32 {
    largest(x, 0.0, f32::abs)
}

/// The largest of `least` and every `f(x[i])`.
#[inline(always)]
fn largest(x: &[f32], least: f32, f: impl Fn(f32) -> f32) -> f32 {
    let larger = |a: f32, b: f32| {
        let b = number_or(b, a);
        if b > a { b } else { a }
    };
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = [least; LANES];
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, f(v));
        }
    }
    let tail = tail.iter().fold(least, |a, &b| larger(a, f(b)));
    lanes.into_iter().fold(tail, larger)
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
            assert_eq!(dot_widened(&bytes, &y, f32::from_le_bytes).to_bits(), want.to_bits(), "n = {n}");
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
