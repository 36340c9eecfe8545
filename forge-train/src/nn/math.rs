//! shim until merge of runtime
pub use std::f32::consts::LOG2_E;
#[inline(always)]
pub fn round_even(x: f32) -> f32 {
    (x + 12582912.0) - 12582912.0
}
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = x.max(-87.0).min(88.0);
    let z = (x * LOG2_E + 12582912.0) - 12582912.0;
    let r = x - z * 0.693359375 + z * 2.12194440e-4;
    let mut p = 1.9875691500e-4f32;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    let y = p * r * r + r + 1.0;
    let e = ((z as i32 + 127) << 23) as u32;
    y * f32::from_bits(e)
}
pub fn exp2(x: f32) -> f32 {
    x.exp2()
}
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}
pub fn sin_turns(t: f32) -> f32 {
    (f64::from(t) * std::f64::consts::TAU).sin() as f32
}
pub fn cos_turns(t: f32) -> f32 {
    (f64::from(t) * std::f64::consts::TAU).cos() as f32
}
pub fn sqrt(x: f32) -> f32 {
    x.sqrt()
}
#[inline(always)]
pub fn sum16(a: &[f32]) -> f32 {
    let mut acc = [0f32; 16];
    for c in a.chunks(16) {
        for (s, x) in acc.iter_mut().zip(c) {
            *s += x;
        }
    }
    tree(acc)
}
#[inline(always)]
fn tree(mut a: [f32; 16]) -> f32 {
    for w in [8, 4, 2, 1] {
        for j in 0..w {
            a[j] += a[j + w];
        }
    }
    a[0]
}
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [0f32; 16];
    let n = a.len() / 16 * 16;
    for (x, y) in a[..n].chunks_exact(16).zip(b[..n].chunks_exact(16)) {
        for i in 0..16 {
            acc[i] += x[i] * y[i];
        }
    }
    for i in n..a.len() {
        acc[i - n] += a[i] * b[i];
    }
    tree(acc)
}
