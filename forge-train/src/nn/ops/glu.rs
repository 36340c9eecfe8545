//! What a row goes through before it is normalised and multiplied: nothing, ReLU, or the gated activation.

use forge_formats::config::Activation;

use forge_runtime::math;

/// Function of a row applied ahead of the norm of a linear map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Prologue {
    /// The row itself.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `act(f) ⊙ w` of a row `f ‖ w` (Shazeer 2020), half as wide as its input.
    Gated(Activation),
}

impl Prologue {
    /// Width of the input that gives `width` outputs.
    pub(crate) fn input_width(self, width: usize) -> usize {
        match self {
            Prologue::Gated(_) => 2 * width,
            Prologue::Identity | Prologue::Relu => width,
        }
    }

    /// The row's image.
    #[inline(always)]
    pub(crate) fn forward(self, x: &[f32], y: &mut [f32]) {
        match self {
            Prologue::Identity => y.copy_from_slice(x),
            Prologue::Relu => y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x > 0.0 { *x } else { 0.0 }),
            Prologue::Gated(activation) => {
                let (f, w) = x.split_at(y.len());
                match activation {
                    Activation::SwiGlu => {
                        for ((y, f), w) in y.iter_mut().zip(f).zip(w) {
                            *y = math::silu(*f) * w;
                        }
                    }
                    Activation::Relu2 => {
                        for ((y, f), w) in y.iter_mut().zip(f).zip(w) {
                            let r = if *f > 0.0 { *f } else { 0.0 };
                            *y = r * r * w;
                        }
                    }
                }
            }
        }
    }

    /// Gradient of the row, given that of its image.
    #[inline(always)]
    pub(crate) fn backward(self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        match self {
            Prologue::Identity => dx.copy_from_slice(dy),
            Prologue::Relu => {
                for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx = if *x > 0.0 { *dy } else { 0.0 };
                }
            }
            Prologue::Gated(activation) => {
                let (f, w) = x.split_at(dy.len());
                let (df, dw) = dx.split_at_mut(dy.len());
                match activation {
                    Activation::SwiGlu => swiglu_backward(f, w, dy, df, dw),
                    Activation::Relu2 => relu2_backward(f, w, dy, df, dw),
                }
            }
        }
    }
}

#[inline(always)]
fn swiglu_backward(f: &[f32], w: &[f32], dy: &[f32], df: &mut [f32], dw: &mut [f32]) {
    let n = dy.len();
    let (f, w, df, dw) = (&f[..n], &w[..n], &mut df[..n], &mut dw[..n]);
    for i in 0..n {
        let s = math::sigmoid(f[i]);
        dw[i] = dy[i] * (f[i] * s);
        df[i] = dy[i] * w[i] * (s * (1.0 + f[i] * (1.0 - s)));
    }
}

#[inline(always)]
fn relu2_backward(f: &[f32], w: &[f32], dy: &[f32], df: &mut [f32], dw: &mut [f32]) {
    let n = dy.len();
    let (f, w, df, dw) = (&f[..n], &w[..n], &mut df[..n], &mut dw[..n]);
    for i in 0..n {
        let r = if f[i] > 0.0 { f[i] } else { 0.0 };
        dw[i] = dy[i] * (r * r);
        df[i] = dy[i] * w[i] * (2.0 * r);
    }
}
