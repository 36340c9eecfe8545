//! Optimisers over a network's variables. Every piece of state can be saved and restored, keyed by name.
//!
//! Parameters, gradients and state lie together, on the host or on a GPU ([`Array`]); a step copies nothing between the
//! two. On a GPU each parameter takes one launch an operation; a saved state has the same form either way and goes on on
//! either.
//!
//! A training step is: [`Gradients::collect`] (and [`Gradients::add`] over micro-batches), optionally
//! [`Grokfast::apply`], then [`Gradients::clip`], then [`Optimizer::step`] with [`Schedule::rate`], then optionally
//! [`qk_clip`] and [`Average::update`].

mod adamw;
mod array;
mod average;
#[cfg(feature = "cuda")]
mod cuda;
mod gradients;
mod grokfast;
mod muon;
mod qk_clip;
mod schedule;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use candle_core::{CpuStorage, InplaceOp1, Layout, Var, bail};
use forge_formats::role::{Role, RoleKind};

pub use adamw::{AdamW, AdamWConfig};
pub use array::Array;
pub use average::Average;
pub use gradients::Gradients;
pub use grokfast::Grokfast;
pub use muon::{Muon, MuonConfig, MuonScale};
pub use qk_clip::qk_clip;
pub use schedule::Schedule;

use crate::error::{Error, Result};
use crate::weights::Key;

/// Named state of an optimiser, as checkpoints hold it.
pub type State = BTreeMap<String, Vec<f32>>;

/// Updates variables from their gradients.
pub trait Optimizer: Send {
    /// Takes one step at learning rate `lr`. Variables without a gradient in `grads` stay as they are.
    ///
    /// # Errors
    /// If a gradient's size is not its variable's, or belongs to no variable.
    fn step(&mut self, vars: &BTreeMap<Key, Var>, grads: &Gradients, lr: f32) -> Result<()>;

    /// Everything needed to continue as if never interrupted, on the same device or another.
    ///
    /// # Errors
    /// If a device cannot be read.
    fn state(&self) -> Result<State>;

    /// Takes over a state written by [`Optimizer::state`]; names of other owners are ignored.
    ///
    /// # Errors
    /// If the step counter is missing or a name is not one of a parameter.
    fn restore(&mut self, state: &State) -> Result<()>;
}

/// Whether weight decay applies: to projections and tables, not to gains and biases.
fn decays(role: Role) -> bool {
    role.kind() != RoleKind::Vector
}

/// The variable a gradient belongs to, sizes checked.
fn variable<'a>(vars: &'a BTreeMap<Key, Var>, key: &Key, grad: &Array) -> Result<&'a Var> {
    match vars.get(key) {
        Some(var) if var.elem_count() == grad.len() => Ok(var),
        Some(var) => Err(Error::Config(format!(
            "gradient of {} values for `{}` of {}",
            grad.len(),
            parameter_name(key),
            var.elem_count()
        ))),
        None => Err(Error::Config(format!("gradient for unknown parameter `{}`", parameter_name(key)))),
    }
}

/// `role.layer`.
fn parameter_name((role, layer): &Key) -> String {
    format!("{}.{layer}", role.name())
}

/// The key `parameter_name` was made of.
fn parameter_key(name: &str) -> Result<Key> {
    let unknown = || Error::Artifact(format!("optimiser state names unknown parameter `{name}`"));
    let (role, layer) = name.rsplit_once('.').ok_or_else(unknown)?;
    let role = Role::ALL.into_iter().find(|r| r.name() == role).ok_or_else(unknown)?;
    Ok((role, layer.parse().map_err(|_| unknown())?))
}

/// The running value kept for a parameter, zero at first, where the parameter's gradient is.
fn moment<'m>(map: &'m mut BTreeMap<Key, Array>, key: Key, grad: &Array) -> Result<&'m mut Array> {
    let moment = match map.entry(key) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(grad.zeros_like()?),
    };
    moment.move_beside(grad)?;
    Ok(moment)
}

/// Writes one vector per parameter under `prefix`.
fn save_map(prefix: &str, map: &BTreeMap<Key, Array>, state: &mut State) -> Result<()> {
    for (key, values) in map {
        state.insert(format!("{prefix}{}", parameter_name(key)), values.to_host()?);
    }
    Ok(())
}

/// Reads what [`save_map`] wrote; it lies on the host until its parameter is next updated.
fn load_map(prefix: &str, state: &State) -> Result<BTreeMap<Key, Array>> {
    state
        .iter()
        .filter_map(|(name, values)| Some((name.strip_prefix(prefix)?, values)))
        .map(|(name, values)| Ok((parameter_key(name)?, values.clone().into())))
        .collect()
}

/// A step counter as two exact f32 values of 20 bits each.
fn save_step(name: &str, step: u64, state: &mut State) {
    state.insert(name.into(), vec![(step >> 20) as f32, (step & 0xF_FFFF) as f32]);
}

/// Reads what [`save_step`] wrote.
fn load_step(name: &str, state: &State) -> Result<u64> {
    match state.get(name).map(Vec::as_slice) {
        Some(&[high, low]) => Ok(((high as u64) << 20) + low as u64),
        _ => Err(Error::Artifact(format!("optimiser state lacks its step counter `{name}`"))),
    }
}

/// Runs `f` on the values of a variable, in place.
fn update(var: &Var, f: impl FnMut(&mut [f32])) -> Result<()> {
    Ok(var.as_tensor().inplace_op1(&InPlace(RefCell::new(f)))?)
}

struct InPlace<F>(RefCell<F>);

impl<F: FnMut(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "optimiser-update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((from, to))) = (storage, layout.contiguous_offsets()) else {
            bail!("variables must be contiguous f32")
        };
        (self.0.borrow_mut())(&mut values[from..to]);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
