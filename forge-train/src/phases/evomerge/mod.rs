//! Phase 2: several specialists of one trunk become one model, by evolving merges of their weights.
//!
//! [`operators`] are pure functions of weights, [`recipe`] chains three of them, [`lineage`] says how every
//! individual came about, and [`evolve`](mod@evolve) searches. Merging presupposes a common ancestor:
//! networks trained from different initialisations lie in different basins and average to noise, which
//! [`barrier`] measures.

pub mod barrier;
pub mod blend;
pub mod cmaes;
pub mod config;
pub mod diversity;
pub mod evolve;
pub mod family;
pub mod lineage;
pub mod mutation;
pub mod operators;
pub mod recipe;
pub mod report;

#[cfg(test)]
mod test_support;

pub use config::{EvolveConfig, Strategy};
pub use evolve::{Evolution, Objective, evolve};
pub use lineage::{Lineage, Origin};
pub use recipe::{Arithmetic, Combination, Interpolation, Recipe, Selection};
pub use report::{Generation, Report, StopReason, Tally};
