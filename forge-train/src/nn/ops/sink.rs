//! Where operations that hold parameters of their own put those parameters' gradients.
//!
//! candle's graph takes three operands an operation, and adds every gradient to a tensor of fresh zeros. An
//! operation with many parameters, or with large ones, adds to a [`Sink`] in place instead; `Network::gradients`
//! puts both together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{Result, Shape};

use super::{Arg, Op};
#[cfg(feature = "cuda")]
use crate::optim::Array;
use crate::weights::Key;

/// Gradients of one backward pass so far.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    host: Mutex<BTreeMap<Key, Vec<f32>>>,
    #[cfg(feature = "cuda")]
    device: Mutex<BTreeMap<Key, Array>>,
}

impl Sink {
    /// Lets `write` write the first gradient of a parameter of `len` values, or add a further one: its second
    /// argument says which.
    pub(crate) fn put(&self, key: Key, len: usize, write: impl FnOnce(&mut [f32], bool)) {
        let mut all = self.host.lock().unwrap_or_else(|e| e.into_inner());
        let further = all.contains_key(&key);
        write(all.entry(key).or_insert_with(|| vec![0.0; len]), further);
    }

    /// Takes a whole gradient over, or adds it.
    pub(crate) fn add(&self, key: Key, grad: Vec<f32>) {
        let mut all = self.host.lock().unwrap_or_else(|e| e.into_inner());
        match all.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(grad);
            }
            std::collections::btree_map::Entry::Occupied(mut sum) => {
                sum.get_mut().iter_mut().zip(grad).for_each(|(s, g)| *s += g);
            }
        }
    }

    /// Takes a whole gradient on a device over, or adds it.
    ///
    /// # Errors
    /// If it is not of f32, or not of the size of an earlier one.
    #[cfg(feature = "cuda")]
    pub(crate) fn add_on_device(&self, key: Key, grad: &candle_core::Tensor) -> Result<()> {
        let grad = Array::of(grad).map_err(candle_core::Error::wrap)?;
        let mut all = self.device.lock().unwrap_or_else(|e| e.into_inner());
        match all.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(grad);
            }
            std::collections::btree_map::Entry::Occupied(mut sum) => {
                sum.get_mut().add(&grad).map_err(candle_core::Error::wrap)?;
            }
        }
        Ok(())
    }

    /// Takes all gradients on a device out.
    #[cfg(feature = "cuda")]
    pub(crate) fn take_from_device(&self) -> BTreeMap<Key, Array> {
        std::mem::take(&mut *self.device.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Takes all gradients on the host out.
    pub(crate) fn take(&self) -> BTreeMap<Key, Vec<f32>> {
        std::mem::take(&mut *self.host.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

/// An operation whose operand is a parameter: its gradient goes to the sink instead of candle's graph.
pub(crate) struct Deposited<T> {
    /// The operation.
    pub(crate) op: T,
    /// Name of its operand.
    pub(crate) key: Key,
    /// Where the gradient goes.
    pub(crate) sink: Arc<Sink>,
}

impl<T: Op<1>> Op<1> for Deposited<T> {
    const NAME: &'static str = T::NAME;

    fn forward(&self, args: [Arg<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        self.op.forward(args)
    }

    fn backward(
        &self,
        args: [Arg<'_>; 1],
        result: &[f32],
        grad: &[f32],
        wanted: [bool; 1],
    ) -> Result<[Option<Vec<f32>>; 1]> {
        let [grad] = self.op.backward(args, result, grad, wanted)?;
        grad.into_iter().for_each(|grad| self.sink.add(self.key, grad));
        Ok([None])
    }
}
