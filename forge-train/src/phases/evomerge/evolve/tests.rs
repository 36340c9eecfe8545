//! The search on objectives whose optimum is known.

use std::collections::BTreeMap;

use forge_formats::role::Role;

use super::*;
use crate::phases::evomerge::mutation::{Mutation, Space};
use crate::phases::evomerge::report::StopReason;
use crate::phases::evomerge::test_support::{model, values};

/// Mean squared distance to a target, with the books a test looks into.
struct Distance {
    target: Weights,
    losses: BTreeMap<String, f64>,
    known: BTreeMap<String, f64>,
    calls: usize,
    generations: usize,
    stop_after: usize,
    /// Every n-th model gets no number.
    broken_every: usize,
}

impl Distance {
    fn to(target: Weights) -> Self {
        let (losses, known) = (BTreeMap::new(), BTreeMap::new());
        Self { target, losses, known, calls: 0, generations: 0, stop_after: usize::MAX, broken_every: 0 }
    }
}

fn distance(a: &Weights, b: &Weights) -> f64 {
    let squares: f64 = values(a).zip(values(b)).map(|(x, y)| f64::from(x - y).powi(2)).sum();
    squares / a.parameters() as f64
}

impl Objective for Distance {
    fn loss(&mut self, model: &Weights) -> Result<f64> {
        self.calls += 1;
        if self.broken_every > 0 && self.calls > 3 && self.calls.is_multiple_of(self.broken_every) {
            return Ok(f64::NAN);
        }
        Ok(distance(model, &self.target))
    }

    fn known(&self, id: &str) -> Option<f64> {
        self.known.get(id).copied()
    }

    fn judged(&mut self, id: &str, loss: f64) -> Result<()> {
        self.losses.insert(id.to_string(), loss);
        Ok(())
    }

    fn generation(&mut self, _: &Generation) {
        self.generations += 1;
    }

    fn stop(&self) -> bool {
        self.calls >= self.stop_after
    }
}

/// A trunk and three branches that each moved a little from it, as phase 1 makes them.
fn family() -> (Weights, Vec<Weights>) {
    let base = model(0);
    let branch = |seed| Mutation { space: Space::Noise { fraction: 1.0 }, sigma: 0.3, seed };
    let branches = (1..4).map(|seed| branch(seed).apply(&base, &[], &base).unwrap()).collect();
    (base, branches)
}

/// The trunk with `shares[block]` of each branch's delta.
fn mixture(base: &Weights, branches: &[Weights], shares: [[f32; 3]; 2]) -> Weights {
    let mut mixed = base.clone();
    for (&(role, layer), m) in &mut mixed.tensors {
        let shares = shares[if role.per_layer() { layer as usize } else { 0 }];
        for (branch, share) in branches.iter().zip(shares) {
            let (from, to) = (&base.get(role, layer).data, &branch.get(role, layer).data);
            m.data.iter_mut().zip(from.iter().zip(to)).for_each(|(v, (f, t))| *v += share * (t - f));
        }
    }
    mixed
}

fn run(config: &EvolveConfig, seed: u64, objective: &mut Distance) -> Result<Evolution> {
    let (base, branches) = family();
    let originals: Vec<&Weights> = branches.iter().collect();
    evolve(Founders { base: &base, originals: &originals }, config, seed, objective)
}

fn mixed_target() -> Weights {
    let (base, branches) = family();
    mixture(&base, &branches, [[0.9, 0.2, 0.5], [0.1, 0.8, 0.4]])
}

fn patient() -> EvolveConfig {
    EvolveConfig { patience: 0, ..EvolveConfig::default() }
}

#[test]
fn merges_beat_every_original_and_evolution_beats_the_first_merges() {
    let mut objective = Distance::to(mixed_target());
    let result = run(&patient(), 1, &mut objective).unwrap();
    let report = &result.report;
    let best_original = report.originals.iter().copied().fold(f64::INFINITY, f64::min);
    let first = report.generations[0].champion;
    assert!(first < best_original, "generation 0: {first} against {best_original}");
    assert!(report.loss < 0.6 * first, "evolved: {} from {first}", report.loss);
    assert_eq!(distance(&result.champion, &objective.target), report.loss);
    assert_eq!(report.generations.len(), 51);
    assert_eq!(objective.generations, 51);
    assert_eq!(report.stopped, StopReason::Generations);
    assert!(report.made_in.is_some_and(|g| g > 0));
    assert!(report.evaluations <= EvolveConfig::default().evaluations(3));
    assert_eq!(report.evaluations, objective.calls);
    assert!(report.generations.windows(2).all(|g| g[1].champion <= g[0].champion && g[1].best <= g[0].best));
}

#[test]
fn the_best_original_is_kept_where_no_merge_is_better() {
    let (_, branches) = family();
    for target in &branches {
        let result = run(&EvolveConfig::default(), 2, &mut Distance::to(target.clone())).unwrap();
        assert_eq!(&result.champion, target);
        assert_eq!((result.report.loss, result.report.made_in), (0.0, None));
        assert_eq!(result.report.improvement(), 0.0);
        assert_eq!(result.report.stopped, StopReason::Patience);
    }
}

#[test]
fn the_course_depends_on_the_seed_and_on_nothing_else() {
    let short = EvolveConfig { generations: 6, ..patient() };
    let with_threads = |threads: usize, seed| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&short, seed, &mut Distance::to(mixed_target())).unwrap())
    };
    let (one, four, other) = (with_threads(1, 5), with_threads(4, 5), with_threads(1, 6));
    assert_eq!(one.report, four.report);
    assert_eq!(one.champion, four.champion);
    assert_eq!(one.lineage, four.lineage);
    assert_ne!(one.report, other.report);
}

#[test]
fn an_interrupted_search_resumes_on_the_same_course() {
    let short = EvolveConfig { generations: 6, ..patient() };
    let whole = run(&short, 5, &mut Distance::to(mixed_target())).unwrap();
    let mut first = Distance { stop_after: 20, ..Distance::to(mixed_target()) };
    assert!(matches!(run(&short, 5, &mut first), Err(Error::Interrupted)));
    assert_eq!(first.losses.len(), 20);
    let mut second = Distance { known: first.losses, ..Distance::to(mixed_target()) };
    let resumed = run(&short, 5, &mut second).unwrap();
    assert_eq!(resumed.report, whole.report);
    assert_eq!(resumed.champion, whole.champion);
    assert_eq!(second.calls + 20, whole.report.evaluations);
}

#[test]
fn candidates_without_a_loss_are_rejected_and_the_search_goes_on() {
    let mut objective = Distance { broken_every: 3, ..Distance::to(mixed_target()) };
    let result = run(&EvolveConfig { generations: 10, ..patient() }, 5, &mut objective).unwrap();
    assert!(result.report.rejected > 10, "{}", result.report.rejected);
    assert!(result.report.loss.is_finite() && result.champion.is_finite());
    assert!(result.report.generations.iter().all(|g| g.mean.is_finite() && g.diversity.is_finite()));
    assert!(result.report.improvement() > 0.0);
    let mut hopeless = Distance::to(model(0));
    hopeless.target.tensors.values_mut().for_each(|m| m.data.fill(f32::NAN));
    assert!(run(&patient(), 5, &mut hopeless).is_err());
}

#[test]
fn the_champion_is_made_again_from_its_lineage() {
    let result =
        run(&EvolveConfig { generations: 5, ..patient() }, 8, &mut Distance::to(mixed_target())).unwrap();
    let (base, branches) = family();
    let originals: Vec<&Weights> = branches.iter().collect();
    let json = serde_json::to_string(&result.lineage).unwrap();
    let lineage: Lineage = serde_json::from_str(&json).unwrap();
    let founders = Founders { base: &base, originals: &originals };
    assert_eq!(lineage.regenerate(&result.report.champion, founders).unwrap(), result.champion);
}

#[test]
fn all_techniques_are_tried_and_counted() {
    let result =
        run(&EvolveConfig { generations: 10, ..patient() }, 3, &mut Distance::to(mixed_target())).unwrap();
    let report = result.report;
    assert!(report.techniques.values().all(|t| t.tried > 0), "{:?}", report.techniques);
    assert!(report.combinations.iter().all(|t| t.tried > 0));
    let of = |names: [&str; 2]| names.iter().map(|n| report.techniques[*n].tried).sum::<u32>();
    let merges: u32 = report.combinations.iter().map(|t| t.tried).sum();
    assert_eq!([merges; 3], [of(["linear", "slerp"]), of(["dare", "ties"]), of(["franken", "dfs"])]);
    assert_eq!(merges, 8 + 10 * 2);
    assert_eq!([report.techniques["task"].tried, report.techniques["noise"].tried], [10 * 3, 10]);
}

#[test]
fn lost_diversity_is_answered() {
    // A floor that no population reaches reseeds every time and lets mutations grow to their limit; one of 0
    // never.
    let loud = EvolveConfig { generations: 6, diversity_reseed: 1.0, diversity_raise: 1.0, ..patient() };
    let quiet = EvolveConfig { generations: 6, diversity_reseed: 0.0, diversity_raise: 0.0, ..patient() };
    let loud = run(&loud, 1, &mut Distance::to(mixed_target())).unwrap();
    let quiet = run(&quiet, 1, &mut Distance::to(mixed_target())).unwrap();
    assert!(loud.report.generations[1..].iter().all(|g| g.reseeded));
    assert_eq!(loud.report.generations[6].mutation_scale, 4.0);
    assert!(quiet.report.generations.iter().all(|g| !g.reseeded && g.mutation_scale == 1.0));
    assert!(quiet.report.generations.iter().all(|g| g.diversity > 0.0 && g.std > 0.0));
}

#[test]
fn evaluations_and_models_are_bounded() {
    let capped = EvolveConfig { max_evaluations: 30, ..patient() };
    let report = run(&capped, 1, &mut Distance::to(mixed_target())).unwrap().report;
    assert_eq!((report.stopped, report.evaluations), (StopReason::Evaluations, 3 + 8 + 18));
    let (base, branches) = family();
    let one = [&branches[0]];
    let mut objective = Distance::to(mixed_target());
    assert!(evolve(Founders { base: &base, originals: &one }, &patient(), 1, &mut objective).is_err());
    let mut narrow = branches[1].clone();
    narrow.tensors.remove(&(Role::Halt, 0));
    let odd = [&branches[0], &narrow];
    assert!(evolve(Founders { base: &base, originals: &odd }, &patient(), 1, &mut objective).is_err());
}

fn cmaes() -> EvolveConfig {
    EvolveConfig { strategy: Strategy::Cmaes, patience: 0, ..EvolveConfig::default() }
}

#[test]
fn cmaes_finds_coefficients_that_even_weights_do_not_have() {
    let mut objective = Distance::to(mixed_target());
    let config = EvolveConfig { max_evaluations: 1500, generations: 200, ..cmaes() };
    let result = run(&config, 1, &mut objective).unwrap();
    let (base, branches) = family();
    let even = distance(&mixture(&base, &branches, [[1.0 / 3.0; 3]; 2]), &objective.target);
    let best_original = result.report.originals.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(even < best_original, "even weights, {even}, beat every original, {best_original}");
    assert!(result.report.loss < 0.05 * even, "{} against even weights' {even}", result.report.loss);
    assert!(result.report.generations[0].best <= even + 1e-9, "even weights are judged first");
    assert_eq!(distance(&result.champion, &objective.target), result.report.loss);
    assert_eq!(result.report.techniques["blend"].tried as usize + 3, result.report.evaluations);
}

#[test]
fn cmaes_is_reproducible_resumable_and_regenerable() {
    let short = EvolveConfig { generations: 6, ..cmaes() };
    let whole = run(&short, 5, &mut Distance::to(mixed_target())).unwrap();
    assert_eq!(run(&short, 5, &mut Distance::to(mixed_target())).unwrap().report, whole.report);
    assert_ne!(run(&short, 6, &mut Distance::to(mixed_target())).unwrap().report, whole.report);
    let mut first = Distance { stop_after: 20, ..Distance::to(mixed_target()) };
    assert!(matches!(run(&short, 5, &mut first), Err(Error::Interrupted)));
    let mut second = Distance { known: first.losses, ..Distance::to(mixed_target()) };
    let resumed = run(&short, 5, &mut second).unwrap();
    assert_eq!((&resumed.report, &resumed.champion), (&whole.report, &whole.champion));
    assert_eq!(second.calls + 20, whole.report.evaluations);
    let (base, branches) = family();
    let originals: Vec<&Weights> = branches.iter().collect();
    let lineage: Lineage = serde_json::from_str(&serde_json::to_string(&whole.lineage).unwrap()).unwrap();
    let founders = Founders { base: &base, originals: &originals };
    assert_eq!(lineage.regenerate(&whole.report.champion, founders).unwrap(), whole.champion);
}

#[test]
fn cmaes_keeps_the_best_original_where_no_blend_is_better() {
    let (_, branches) = family();
    let result = run(&EvolveConfig { generations: 2, ..cmaes() }, 2, &mut Distance::to(branches[1].clone()));
    let result = result.unwrap();
    assert_eq!((&result.champion, result.report.loss), (&branches[1], 0.0));
}

#[test]
fn a_population_of_twenty_is_made_again_from_its_lineage() {
    let crowd = EvolveConfig { elite: 4, mutants: 3, groups: 4, generations: 5, ..patient() };
    let result = run(&crowd, 8, &mut Distance::to(mixed_target())).unwrap();
    assert_eq!(result.report.evaluations, 3 + 8 + 5 * 16);
    let (base, branches) = family();
    let originals: Vec<&Weights> = branches.iter().collect();
    let founders = Founders { base: &base, originals: &originals };
    // Mutants are kept as the change to their parent: every one of them must be what its lineage says.
    for (id, loss) in &result.losses {
        let made = result.lineage.regenerate(id, founders).unwrap();
        assert_eq!(distance(&made, &mixed_target()), *loss, "{id}");
    }
}
