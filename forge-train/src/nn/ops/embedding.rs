//! Token embedding followed by the norm without gain.

use std::sync::Arc;

use candle_core::{Result, Shape, bail};
use rayon::prelude::*;

use super::norm::{inverse_rms, normalise, normalise_backward};
use super::quant::QuantWeight;
use super::simd::vectorised;
use super::{Arg, DeviceWeight, HostData, Op, ROWS};

/// `norm(E[id])`; operand `E [vocab, d]`, result `[n, d]`.
pub(crate) struct Embedding {
    /// Token ids.
    pub(crate) ids: Arc<HostData<u32>>,
    /// Added to the mean square.
    pub(crate) eps: f32,
    /// The quantised table, none for a float one.
    pub(crate) quant: Option<Arc<QuantWeight>>,
    /// The table as a device has it, none on the CPU.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a device reads it"))]
    pub(crate) device: Option<Arc<DeviceWeight>>,
}

/// The table as it is looked up in.
#[derive(Clone, Copy)]
struct Table<'a> {
    latent: &'a [f32],
    cols: usize,
    quant: Option<&'a QuantWeight>,
}

impl Table<'_> {
    /// Writes a row.
    #[inline(always)]
    fn row(self, id: usize, out: &mut [f32]) {
        match self.quant {
            Some(quant) => quant.effective_row(id, out),
            None => out.copy_from_slice(&self.latent[id * self.cols..][..self.cols]),
        }
    }
}

impl Embedding {
    fn table<'a>(&'a self, latent: &'a [f32], cols: usize) -> Table<'a> {
        Table { latent, cols, quant: self.quant.as_deref() }
    }

    /// Places of every id in the batch: those of id `i` are `order[start[i]..start[i + 1]]`, in rising order.
    pub(super) fn places(&self, vocab: usize) -> (Vec<usize>, Vec<usize>) {
        let mut start = vec![0; vocab + 1];
        for &id in self.ids.iter() {
            start[id as usize + 1] += 1;
        }
        for i in 0..vocab {
            start[i + 1] += start[i];
        }
        let mut next = start.clone();
        let mut order = vec![0; self.ids.len()];
        for (place, &id) in self.ids.iter().enumerate() {
            order[next[id as usize]] = place;
            next[id as usize] += 1;
        }
        (start, order)
    }
}

impl Op<1> for Embedding {
    const NAME: &'static str = "embedding";

    fn forward(&self, [e]: [Arg<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        let d = e.width();
        if let Some(id) = self.ids.iter().find(|id| **id as usize >= e.rows()) {
            bail!("token id {id} is outside the vocabulary of {}", e.rows());
        }
        let table = self.table(e.data, d);
        let mut out = vec![0.0; self.ids.len() * d];
        out.par_chunks_mut(ROWS * d).zip(self.ids.par_chunks(ROWS)).for_each(|(out, ids)| {
            lookup(table, ids, self.eps, out);
        });
        Ok((out, (self.ids.len(), d).into()))
    }

    fn backward(
        &self,
        [e]: [Arg<'_>; 1],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 1],
    ) -> Result<[Option<Vec<f32>>; 1]> {
        let d = e.width();
        let (start, order) = self.places(e.rows());
        let table = self.table(e.data, d);
        let factor = self.quant.as_ref().map_or(1.0, |q| q.blend.gradient());
        let mut de = vec![0.0; e.data.len()];
        de.par_chunks_mut(d).with_min_len(8).enumerate().for_each(|(id, de)| {
            let places = &order[start[id]..start[id + 1]];
            if places.is_empty() {
                return;
            }
            row_gradient(table, id, self.eps, factor, places, grad, de);
        });
        Ok([Some(de)])
    }
}

vectorised! {
fn lookup(table: Table<'_>, ids: &[u32], eps: f32, out: &mut [f32]) {
    let mut row = vec![0.0; table.cols];
    for (out, &id) in out.chunks_exact_mut(table.cols).zip(ids) {
        table.row(id as usize, &mut row);
        normalise(&row, eps, out);
    }
}

/// Gradient of row `id` of the table, from all places it was looked up at.
fn row_gradient(
    table: Table<'_>,
    id: usize,
    eps: f32,
    factor: f32,
    places: &[usize],
    grad: &[f32],
    out: &mut [f32],
) {
    let mut row = vec![0.0; table.cols];
    table.row(id, &mut row);
    for place in places {
        let grad = &grad[place * row.len()..][..row.len()];
        out.iter_mut().zip(grad).for_each(|(out, g)| *out += factor * g);
    }
    normalise_backward(&row, inverse_rms(&row, eps), out);
}
}
