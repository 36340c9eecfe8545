//! shim until merge of formats
use super::math::{round_even, sum16};
pub fn ternary_row(w: &[f32], out: &mut [i8]) -> f32 {
    let abs: Vec<f32> = w.iter().map(|v| v.abs()).collect();
    let gamma = half::f16::from_f32(sum16(&abs) / w.len() as f32).to_f32();
    for (o, v) in out.iter_mut().zip(w) {
        *o = if gamma > 0.0 { round_even(v / gamma).clamp(-1.0, 1.0) as i8 } else { 0 };
    }
    gamma
}
pub fn int8_row(w: &[f32], out: &mut [i8]) -> f32 {
    let amax = w.iter().fold(0f32, |a, v| a.max(v.abs()));
    let scale = half::f16::from_f32(amax / 127.0).to_f32();
    for (o, v) in out.iter_mut().zip(w) {
        *o = if scale > 0.0 { round_even(v / scale).clamp(-127.0, 127.0) as i8 } else { 0 };
    }
    scale
}
