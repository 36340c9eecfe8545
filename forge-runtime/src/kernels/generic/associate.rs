//! A long-term memory that is a matrix: one token is written into it and reads from it
//! (Behrouz et al. 2025, arXiv 2501.00663, equations 8 to 15, with a linear memory).
#![forbid(unsafe_code)]

use forge_formats::config::MemoryKind;

use crate::math::{rsqrt, sigmoid, silu, sum_squares};

/// Added to the square of a key's or a query's length.
const UNIT_EPS: f32 = 1e-6;

/// `x = x / ‖x‖`.
#[inline(always)]
fn unit(x: &mut [f32]) {
    let r = rsqrt(sum_squares(x) + UNIT_EPS);
    x.iter_mut().for_each(|x| *x *= r);
}

/// One token: `state` is the matrix `M` and its momentum `S`, both `[key channel][value channel]`; `projected` is key,
/// value, query `[3 · width]` and the gates `[3]`, before their non-linearities; `bias` belongs to the gates.
///
/// ```text
/// k = unit(silu(k));  v = silu(v);  q = unit(silu(q));  (θ, η, α) = sigmoid(gates + bias)
/// e = k M − v                    the surprise: half the gradient of ‖k M − v‖² is kᵀ e
/// S = η S − θ kᵀ e               momentum
/// M = (1 − α) M + S              forgetting
/// read = q M
/// ```
///
/// Every sum runs over key channels in rising order, so that no instruction set has to add across lanes. `projected`
/// is overwritten.
#[cfg_attr(not(little_code), inline(always))]
pub(crate) fn associate(state: &mut [f32], projected: &mut [f32], bias: &[f32], read: &mut [f32]) {
    if !MemoryKind::Titans.is_linked() {
        return;
    }
    let width = read.len();
    let (vectors, gates) = projected.split_at_mut_checked(3 * width).unwrap_or_default();
    vectors.iter_mut().for_each(|x| *x = silu(*x));
    let (key, rest) = vectors.split_at_mut_checked(width).unwrap_or_default();
    let (error, query) = rest.split_at_mut_checked(width).unwrap_or_default();
    unit(key);
    unit(query);
    gates.iter_mut().zip(bias).for_each(|(g, b)| *g = sigmoid(*g + b));
    let &mut [surprise, momentum, forget] = gates else { return };
    let keep = 1.0 - forget;
    let half = state.len() / 2;
    let (memory, moment) = state.split_at_mut_checked(half).unwrap_or_default();
    error.iter_mut().for_each(|v| *v = -*v);
    for (row, k) in memory.chunks_exact(width.max(1)).zip(&*key) {
        error.iter_mut().zip(row).for_each(|(e, m)| *e += k * m);
    }
    read.fill(0.0);
    let rows = memory.chunks_exact_mut(width.max(1)).zip(moment.chunks_exact_mut(width.max(1)));
    for ((row, moments), (k, q)) in rows.zip(key.iter().zip(&*query)) {
        let step = surprise * k;
        for (((m, s), e), y) in row.iter_mut().zip(moments).zip(&*error).zip(&mut *read) {
            *s = momentum * *s - step * e;
            *m = keep * *m + *s;
            *y += q * *m;
        }
    }
}
