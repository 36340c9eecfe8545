//! The search: a small population of merges, judged on held-out data, improves generation by generation.
//!
//! Generation 0 holds the eight combinations. Each later one keeps the elite as it is, adds mutated copies of
//! it, and merges the losers, in groups, to one child a group. The originals stay eligible for the elite
//! throughout, so the champion is never worse than the best of them on the data judged by.
//!
//! Everything follows from the founders, the settings, the seed and the losses. A search that was interrupted
//! is resumed by running it again with the losses already known ([`Objective::known`]): it takes the same
//! course without judging anything twice.
//!
//! [`Strategy::Cmaes`] searches over the coefficients of one kind of merge instead, see [`super::blend`].
//!
//! Host memory: the originals, the base, the elite of two generations, the merges of one, and the candidate that is
//! judged. Other individuals are kept as the change that makes them from one of these, and candidates are judged
//! one by one, so the device never holds more than one.

mod member;
#[cfg(test)]
mod memory_tests;
mod search;
mod strategy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::config::{EvolveConfig, Strategy};
use super::lineage::{Founders, Lineage};
use super::operators::check_models;
use super::report::{Generation, Report};
use crate::error::{Error, Result};
use crate::weights::Weights;
use search::Search;

/// What the search asks of its surroundings.
pub trait Objective {
    /// The loss of a model on the search set; lower is better. One that is not finite rejects the candidate.
    ///
    /// # Errors
    /// Ends the search.
    fn loss(&mut self, model: &Weights) -> Result<f64>;

    /// The loss of an individual judged in an earlier, interrupted search by the same objective.
    fn known(&self, _id: &str) -> Option<f64> {
        None
    }

    /// Called with every finite loss newly measured, to keep it for [`Objective::known`].
    ///
    /// # Errors
    /// Ends the search.
    fn judged(&mut self, _id: &str, _loss: f64) -> Result<()> {
        Ok(())
    }

    /// Called when a generation is complete.
    fn generation(&mut self, _generation: &Generation) {}

    /// Whether to stop now; asked before every candidate.
    fn stop(&self) -> bool {
        false
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Evolution {
    /// The best individual, or the best original when none is better.
    pub champion: Weights,
    /// The course.
    pub report: Report,
    /// Origin of every individual; [`Lineage::regenerate`] makes any of them again.
    pub lineage: Lineage,
    /// Loss of every individual judged, by identity; rejected ones are left out.
    pub losses: BTreeMap<String, f64>,
}

/// Evolves merges of the founders' originals, under `config` and `seed`.
///
/// # Errors
/// [`Error::Config`] when the settings are invalid, there are fewer than two originals, they differ in shape,
/// or one of them has no finite loss; [`Error::Interrupted`] when the objective asks to stop; what the
/// objective returns.
pub fn evolve<O: Objective + ?Sized>(
    founders: Founders<'_>,
    config: &EvolveConfig,
    seed: u64,
    objective: &mut O,
) -> Result<Evolution> {
    config.validate()?;
    if founders.originals.len() < 2 {
        return Err(Error::Config("an evolution of merges needs at least two models".into()));
    }
    let all: Vec<&Weights> =
        std::iter::once(founders.base).chain(founders.originals.iter().copied()).collect();
    check_models(&all)?;
    let mut search = Search::new(founders, config, seed, objective);
    let originals = search.originals()?;
    let (population, stopped) = match config.strategy {
        Strategy::Cmaes => strategy::cmaes(&mut search, &originals)?,
        Strategy::Evolve => {
            let mut population = search.first(&originals)?;
            loop {
                search.record(&originals, &population);
                if let Some(reason) = search.finished(config.children()) {
                    break (population, reason);
                }
                population = search.next(&originals, population)?;
            }
        }
    };
    search.conclude(&originals, population, stopped)
}
