//! Exponential moving average of the weights (Polyak & Juditsky 1992; in the form of Tarvainen & Valpola 2017,
//! arXiv 1703.01780, whose decay grows with the steps).

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use super::{State, load_step, parameter_name, save_step};
use crate::error::{Error, Result};
use crate::weights::Key;

/// `a ← d·a + (1−d)·w` with `a₀ = w₀` and `d = min(decay, (1+t)/(10+t))` at the `t`-th update from 0: a short run
/// is averaged over its own length, not over its start.
///
/// The averages are tensors where the parameters are.
#[derive(Clone, Debug)]
pub struct Average {
    decay: f64,
    updates: u64,
    values: BTreeMap<Key, Tensor>,
}

impl Average {
    /// An average that starts at the parameters.
    ///
    /// # Errors
    /// If a parameter cannot be copied.
    pub fn new(decay: f32, vars: &BTreeMap<Key, Var>) -> Result<Self> {
        let values = vars.iter().map(|(key, var)| Ok((*key, var.as_tensor().copy()?.detach())));
        Ok(Self { decay: f64::from(decay), updates: 0, values: values.collect::<Result<_>>()? })
    }

    /// Takes in the parameters after a step.
    ///
    /// # Errors
    /// If a parameter is of another shape than at the start.
    pub fn update(&mut self, vars: &BTreeMap<Key, Var>) -> Result<()> {
        let t = self.updates as f64;
        let decay = self.decay.min((1.0 + t) / (10.0 + t));
        for (key, value) in &mut self.values {
            if let Some(var) = vars.get(key) {
                *value = ((&*value * decay)? + (var.as_tensor().detach() * (1.0 - decay))?)?;
            }
        }
        self.updates += 1;
        Ok(())
    }

    /// The averaged parameters.
    pub fn values(&self) -> &BTreeMap<Key, Tensor> {
        &self.values
    }

    /// The averages and how often they were updated.
    ///
    /// # Errors
    /// If an average cannot be read.
    pub fn state(&self) -> Result<State> {
        let mut state = State::new();
        save_step("ema.updates", self.updates, &mut state);
        for (key, value) in &self.values {
            state.insert(format!("ema.{}", parameter_name(key)), value.flatten_all()?.to_vec1()?);
        }
        Ok(state)
    }

    /// Takes over a state written by [`Average::state`]; other names are ignored.
    ///
    /// # Errors
    /// If an average is missing or of the wrong size.
    pub fn restore(&mut self, state: &State) -> Result<()> {
        self.updates = load_step("ema.updates", state)?;
        for (key, value) in &mut self.values {
            let name = format!("ema.{}", parameter_name(key));
            let saved = state.get(&name).filter(|saved| saved.len() == value.elem_count());
            let saved = saved.ok_or_else(|| Error::Artifact(format!("the state lacks `{name}`")))?;
            *value = Tensor::from_slice(saved, value.shape(), value.device())?;
        }
        Ok(())
    }
}
