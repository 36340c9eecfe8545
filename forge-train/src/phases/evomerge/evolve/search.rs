//! The state of a search and its steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::member::{Body, Member, Whole};
use super::{Evolution, Objective};
use crate::error::{Error, Result};
use crate::phases::evomerge::config::EvolveConfig;
use crate::phases::evomerge::diversity::{Sample, diversity};
use crate::phases::evomerge::lineage::{Founders, Lineage, Origin};
use crate::phases::evomerge::mutation::{Mutation, Space};
use crate::phases::evomerge::recipe::{Arithmetic, Combination, Recipe};
use crate::phases::evomerge::report::{Generation, Report, StopReason, Tally, relative};
use crate::rng::Rng;
use crate::weights::Weights;

/// Growth of the mutations for each generation of low diversity.
const RAISE: f32 = 1.5;
/// Most they grow to.
const RAISE_LIMIT: f32 = 4.0;
/// Names under which the techniques are counted.
const TECHNIQUES: [&str; 8] = ["linear", "slerp", "dare", "ties", "franken", "dfs", "noise", "task"];

/// Everything a search carries from one generation to the next, but for the individuals themselves.
pub(super) struct Search<'a, 'o, O: ?Sized> {
    founders: Founders<'a>,
    config: &'o EvolveConfig,
    seed: u64,
    objective: &'o mut O,
    sample: Sample,
    lineage: Lineage,
    losses: BTreeMap<String, f64>,
    /// Generation in which each individual was made.
    born: BTreeMap<String, usize>,
    original_losses: Vec<f64>,
    original_ids: Vec<String>,
    techniques: BTreeMap<String, Tally>,
    combinations: Vec<Tally>,
    rejected: usize,
    generations: Vec<Generation>,
    scale: f32,
    reseeded: bool,
    /// The champion's loss when it last improved noticeably, and the generations since.
    reference: f64,
    stale: usize,
}

impl<'a, 'o, O: Objective + ?Sized> Search<'a, 'o, O> {
    pub(super) fn new(
        founders: Founders<'a>,
        config: &'o EvolveConfig,
        seed: u64,
        objective: &'o mut O,
    ) -> Self {
        Self {
            founders,
            config,
            seed,
            objective,
            sample: Sample::new(founders.base, config.diversity_sample, seed),
            lineage: Lineage::new(founders),
            losses: BTreeMap::new(),
            born: BTreeMap::new(),
            original_losses: Vec::new(),
            original_ids: Vec::new(),
            techniques: TECHNIQUES.map(|n| (n.to_string(), Tally::default())).into(),
            combinations: vec![Tally::default(); Combination::COUNT.into()],
            rejected: 0,
            generations: Vec::new(),
            scale: 1.0,
            reseeded: false,
            reference: f64::INFINITY,
            stale: 0,
        }
    }

    /// Blocks of the models.
    pub(super) fn layers(&self) -> u32 {
        self.founders.base.config.layers
    }

    /// Identities of the originals, in the founders' order.
    pub(super) fn original_ids(&self) -> &[String] {
        &self.original_ids
    }

    /// Judges the originals and returns them, the best first.
    pub(super) fn originals(&mut self) -> Result<Vec<Member<'a>>> {
        let mut members = Vec::new();
        for index in 0..self.founders.originals.len() {
            let member = self.admit(Origin::Original { index }, &[])?;
            if !member.loss.is_finite() {
                return Err(Error::Config(format!("model {index} to be merged has no finite loss")));
            }
            self.original_losses.push(member.loss);
            self.original_ids.push(member.id.clone());
            members.push(member);
        }
        members.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        Ok(members)
    }

    /// Generation 0: the eight combinations, with even weights.
    pub(super) fn first(&mut self, originals: &[Member<'a>]) -> Result<Vec<Member<'a>>> {
        let parents: Vec<&Member<'a>> = originals.iter().collect();
        (0..Combination::COUNT)
            .map(|bits| {
                let combination = Combination::from_bits(bits);
                let density = match combination.arithmetic {
                    Arithmetic::Dare => self.config.dare_density,
                    Arithmetic::Ties => self.config.ties_density,
                };
                let seed = draw_seed(&mut self.stream("first", usize::from(bits)));
                let weights = vec![1.0; parents.len()];
                let recipe = recipe(combination, &parents, weights, density, self.config.lambda, seed);
                self.admit(Origin::Merge(recipe), &parents)
            })
            .collect()
    }

    /// The generation after `population`: elite, mutants of the elite, merges of the losers.
    pub(super) fn next(
        &mut self,
        originals: &[Member<'a>],
        population: Vec<Member<'a>>,
    ) -> Result<Vec<Member<'a>>> {
        let spread = self.generations.last().map_or(0.0, |g| g.diversity);
        self.reseeded = spread < self.config.diversity_reseed;
        let raised = (self.scale * RAISE).min(RAISE_LIMIT);
        self.scale = if spread < self.config.diversity_raise { raised } else { 1.0 };

        let mut elite = eligible(originals, population);
        let mut losers = elite.split_off(self.config.elite.min(elite.len()));
        losers.retain(|m| m.loss.is_finite() && originals.iter().all(|o| o.id != m.id));
        let merges = (0..self.config.groups)
            .map(|group| {
                let members = losers.iter().skip(group).step_by(self.config.groups);
                let mut parents: Vec<&Member<'a>> = members.collect();
                if self.reseeded || parents.len() < 2 {
                    parents = originals.iter().collect();
                }
                self.merge(&parents, group)
            })
            .collect::<Result<Vec<_>>>()?;
        drop(losers);

        let mut mutants = Vec::new();
        for parent in &mut elite {
            parent.body = Body::Whole(parent.body.whole(self.founders));
        }
        for parent in &elite {
            for _ in 0..self.config.mutants {
                mutants.push(self.mutate(parent, mutants.len())?);
            }
        }
        elite.extend(mutants);
        elite.extend(merges);
        Ok(elite)
    }

    /// A merge by a random combination with random weights.
    fn merge(&mut self, parents: &[&Member<'a>], slot: usize) -> Result<Member<'a>> {
        let mut rng = self.stream("merge", slot);
        let combination = Combination::from_bits(rng.below(Combination::COUNT.into()) as u8);
        let weights = parents.iter().map(|_| 0.1 + 0.9 * rng.uniform()).collect();
        let density = 0.2 + 0.8 * rng.uniform();
        let lambda = 0.5 + rng.uniform();
        let recipe = recipe(combination, parents, weights, density, lambda, draw_seed(&mut rng));
        self.admit(Origin::Merge(recipe), parents)
    }

    /// A mutated copy, every fourth by noise and the others in task space. Most steps are shorter than the
    /// configured one, down to an eighth: the nearer the optimum, the shorter the steps that still help.
    fn mutate(&mut self, parent: &Member<'a>, slot: usize) -> Result<Member<'a>> {
        let c = self.config;
        let (space, sigma) = match slot % 4 {
            3 => (Space::Noise { fraction: c.noise_fraction }, c.noise_sigma),
            _ => (Space::Task, c.task_sigma),
        };
        let mut rng = self.stream("mutate", slot);
        let shorter = (-3.0 * rng.uniform()).exp2();
        let mutation = Mutation { space, sigma: sigma * self.scale * shorter, seed: draw_seed(&mut rng) };
        self.admit(Origin::Mutation { parent: parent.id.clone(), mutation }, &[parent])
    }

    /// The stream of random numbers for `slot` of the generation being made.
    pub(super) fn stream(&self, purpose: &str, slot: usize) -> Rng {
        let generation = self.generations.len().to_string();
        Rng::new(self.seed, &["evolve", purpose, &generation, &slot.to_string()])
    }

    /// Makes an individual, judges it and enters it in the books.
    pub(super) fn admit(&mut self, origin: Origin, parents: &[&Member<'a>]) -> Result<Member<'a>> {
        if self.objective.stop() {
            return Err(Error::Interrupted);
        }
        let body = self.body(&origin, parents)?;
        let id = self.lineage.enter(origin.clone())?;
        let whole = body.whole(self.founders);
        let loss = self.judge(&id, whole.weights())?;
        let best_parent = parents.iter().map(|p| p.loss).fold(f64::INFINITY, f64::min);
        self.count(&origin, loss < best_parent);
        self.born.entry(id.clone()).or_insert(self.generations.len());
        let delta = self.sample.delta(whole.weights());
        Ok(Member { id, loss, body, delta })
    }

    /// How an individual of this origin is kept.
    fn body(&self, origin: &Origin, parents: &[&Member<'a>]) -> Result<Body<'a>> {
        let founders = self.founders;
        let missing = || Error::Config("evolution: an individual without its parent".into());
        Ok(match origin {
            Origin::Original { index } => {
                Body::Whole(Whole::Founder(founders.originals.get(*index).ok_or_else(missing)?))
            }
            Origin::Merge(recipe) => {
                let merged = recipe.merge(founders.base, |i, key| parents[i].body.tensor(key, founders))?;
                Body::Whole(Whole::Made(Arc::new(merged)))
            }
            Origin::Mutation { mutation, .. } => {
                let parent = parents.first().ok_or_else(missing)?.body.whole(founders);
                Body::Mutant { parent, mutation: *mutation }
            }
            Origin::Blend(blend) => Body::Blend(blend.clone()),
        })
    }

    /// The loss of an individual, infinite when its weights or its loss are not finite.
    fn judge(&mut self, id: &str, weights: &Weights) -> Result<f64> {
        if let Some(&loss) = self.losses.get(id) {
            return Ok(loss);
        }
        let loss = match self.objective.known(id) {
            Some(loss) => loss,
            None if weights.is_finite() => {
                let loss = self.objective.loss(weights)?;
                if loss.is_finite() {
                    self.objective.judged(id, loss)?;
                }
                loss
            }
            None => f64::INFINITY,
        };
        let loss = if loss.is_finite() { loss } else { f64::INFINITY };
        self.rejected += usize::from(loss.is_infinite());
        self.losses.insert(id.to_string(), loss);
        Ok(loss)
    }

    /// Counts a child for its techniques.
    fn count(&mut self, origin: &Origin, improved: bool) {
        let names: Vec<&str> = match origin {
            Origin::Original { .. } => Vec::new(),
            Origin::Merge(recipe) => {
                let combination = recipe.combination();
                self.combinations[usize::from(combination.bits())].count(improved);
                combination.techniques().to_vec()
            }
            Origin::Mutation { mutation, .. } => {
                vec![if mutation.space == Space::Task { "task" } else { "noise" }]
            }
            Origin::Blend(_) => vec!["blend"],
        };
        for name in names {
            self.techniques.entry(name.to_string()).or_default().count(improved);
        }
    }

    /// Enters a complete generation in the history.
    pub(super) fn record(&mut self, originals: &[Member<'a>], population: &[Member<'a>]) {
        let sound: Vec<&Member<'a>> = population.iter().filter(|m| m.loss.is_finite()).collect();
        let n = sound.len().max(1) as f64;
        let mean = sound.iter().map(|m| m.loss).sum::<f64>() / n;
        let variance = sound.iter().map(|m| (m.loss - mean).powi(2)).sum::<f64>() / n;
        let best = sound.iter().map(|m| m.loss).fold(f64::INFINITY, f64::min);
        let before = self.generations.last().map_or(originals[0].loss, |g| g.champion);
        let champion = before.min(best);
        let deltas: Vec<Vec<f64>> = sound.iter().map(|m| m.delta.clone()).collect();
        let generation = Generation {
            index: self.generations.len(),
            best,
            mean,
            worst: sound.iter().map(|m| m.loss).fold(f64::NEG_INFINITY, f64::max),
            std: variance.sqrt(),
            diversity: diversity(&deltas),
            improvement: relative(before, champion),
            champion,
            mutation_scale: self.scale,
            reseeded: self.reseeded,
            evaluations: self.losses.len(),
        };
        if self.reference.is_infinite() || relative(self.reference, champion) >= self.config.min_improvement {
            self.reference = champion;
            self.stale = 0;
        } else {
            self.stale += 1;
        }
        self.objective.generation(&generation);
        self.generations.push(generation);
    }

    /// Why the search ends here, if it does; another generation would judge `cost` candidates.
    pub(super) fn finished(&self, cost: usize) -> Option<StopReason> {
        let c = self.config;
        if self.generations.len() > c.generations {
            Some(StopReason::Generations)
        } else if c.patience > 0 && self.stale >= c.patience {
            Some(StopReason::Patience)
        } else if self.losses.len() + cost > c.max_evaluations {
            Some(StopReason::Evaluations)
        } else {
            None
        }
    }

    /// The best of all, and the books.
    pub(super) fn conclude(
        self,
        originals: &[Member<'a>],
        population: Vec<Member<'a>>,
        stopped: StopReason,
    ) -> Result<Evolution> {
        let champion = eligible(originals, population).swap_remove(0);
        let original = originals.iter().any(|o| o.id == champion.id);
        let whole = champion.body.whole(self.founders);
        let evaluations = self.losses.len();
        let losses = self.losses.into_iter().filter(|(_, loss)| loss.is_finite()).collect();
        let report = Report {
            originals: self.original_losses,
            made_in: if original { None } else { self.born.get(&champion.id).copied() },
            champion: champion.id,
            loss: champion.loss,
            generations: self.generations,
            techniques: self.techniques,
            combinations: self.combinations,
            rejected: self.rejected,
            evaluations,
            stopped,
        };
        Ok(Evolution { champion: whole.weights().clone(), report, lineage: self.lineage, losses })
    }
}

/// Population and originals, the best first; of equals the originals come first, then the older.
fn eligible<'a>(originals: &[Member<'a>], population: Vec<Member<'a>>) -> Vec<Member<'a>> {
    let mut all: Vec<Member<'a>> = originals.to_vec();
    all.extend(population.into_iter().filter(|m| originals.iter().all(|o| o.id != m.id)));
    all.sort_by(|a, b| a.loss.total_cmp(&b.loss));
    all
}

fn recipe(
    combination: Combination,
    parents: &[&Member<'_>],
    weights: Vec<f32>,
    density: f32,
    lambda: f32,
    seed: u64,
) -> Recipe {
    Recipe {
        interpolation: combination.interpolation,
        arithmetic: combination.arithmetic,
        selection: combination.selection,
        weights,
        density,
        lambda,
        seed,
        parents: parents.iter().map(|p| p.id.clone()).collect(),
    }
}

/// A seed that survives a reader of JSON who keeps numbers as f64.
fn draw_seed(rng: &mut Rng) -> u64 {
    rng.next_u64() >> 11
}
