//! The sampler's sets against sorting, its frequencies against the distribution, its stream against fixed ids.

use forge_runtime::Sampler;
use forge_runtime::sampler::Random;
use forge_runtime::testing::Noise;

fn logits(n: usize, seed: u64) -> Vec<f32> {
    let mut noise = Noise(seed);
    // Rounded, so that ties occur.
    (0..n).map(|_| (noise.uniform() * 20.0).round() / 4.0).collect()
}

/// The ids a sampler ever returns for these logits, with their frequencies.
fn frequencies(sampler: &mut Sampler, logits: &[f32], draws: usize) -> Vec<usize> {
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        counts[usize::from(sampler.sample(&mut logits.to_vec(), &[]))] += 1;
    }
    counts
}

fn probabilities(logits: &[f32], temperature: f64) -> Vec<f64> {
    let e: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / temperature).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

/// Pearson's statistic over the ids with an expectation of at least five, and its degrees of freedom.
fn chi_square(counts: &[usize], p: &[f64]) -> (f64, usize) {
    let n: usize = counts.iter().sum();
    let cells: Vec<(f64, f64)> =
        counts.iter().zip(p).map(|(c, p)| (*c as f64, p * n as f64)).filter(|(_, e)| *e >= 5.0).collect();
    (cells.iter().map(|(c, e)| (c - e).powi(2) / e).sum(), cells.len() - 1)
}

#[test]
fn draws_follow_the_distribution() {
    let l = logits(40, 1);
    for temperature in [0.5, 1.0, 2.0] {
        let counts = frequencies(&mut Sampler::new(temperature, 5), &l, 40_000);
        let (x, freedom) = chi_square(&counts, &probabilities(&l, f64::from(temperature)));
        // Mean k and variance 2k: five deviations above is a chance of about 1e-5.
        let bound = freedom as f64 + 5.0 * (2.0 * freedom as f64).sqrt();
        assert!(x < bound, "T {temperature}: {x} > {bound}");
        let (wrong, _) = chi_square(&counts, &probabilities(&l, f64::from(temperature) * 1.1));
        assert!(wrong > bound, "T {temperature}: the test accepts the wrong temperature");
    }
}

/// The ids in falling order of logit, lower ids first.
fn ranked(l: &[f32]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..l.len()).collect();
    ids.sort_by(|a, b| l[*b].total_cmp(&l[*a]).then(a.cmp(b)));
    ids
}

/// Asserts that exactly the `kept` ids are drawn, in proportion to their probabilities.
fn assert_support(mut sampler: Sampler, l: &[f32], mut kept: Vec<usize>, what: &str) {
    // Flat enough that each kept id is drawn.
    let counts = frequencies(&mut sampler, l, 600 * kept.len());
    let drawn: Vec<usize> = (0..l.len()).filter(|i| counts[*i] > 0).collect();
    kept.sort_unstable();
    assert_eq!(drawn, kept, "{what}");
}

#[test]
fn top_k_keeps_the_largest_with_ties_by_id() {
    for seed in 0..8 {
        let l = logits(50, seed);
        for k in [1, 2, 5, 17, 50, 80] {
            let sampler = Sampler { top_k: k, ..Sampler::new(4.0, seed) };
            assert_support(sampler, &l, ranked(&l).into_iter().take(k as usize).collect(), "top-k");
        }
    }
}

#[test]
fn top_p_keeps_the_fewest_that_reach_it() {
    for seed in 0..8 {
        let l = logits(50, seed);
        let p = probabilities(&l, 4.0);
        for top_p in [0.0, 0.1, 0.5, 0.9] {
            let mut sum = 0.0;
            let reached = |id: &usize| {
                let before = sum;
                sum += p[*id];
                before < top_p || before == 0.0
            };
            let kept = ranked(&l).into_iter().take_while(reached).collect();
            let sampler = Sampler { top_p: top_p as f32, ..Sampler::new(4.0, seed) };
            assert_support(sampler, &l, kept, "top-p");
        }
    }
}

#[test]
fn min_p_keeps_what_is_likely_enough() {
    for seed in 0..8 {
        let l = logits(50, seed);
        let largest = l.iter().copied().fold(f32::MIN, f32::max);
        for min_p in [0.15, 0.33, 1.0] {
            let enough = |i: &usize| f64::from((l[*i] - largest) / 4.0).exp() >= f64::from(min_p) - 1e-6;
            let sampler = Sampler { min_p, ..Sampler::new(4.0, seed) };
            assert_support(sampler, &l, (0..50).filter(enough).collect(), "min-p");
        }
    }
}

#[test]
fn greedy_takes_the_lowest_of_the_largest() {
    let mut greedy = Sampler::greedy();
    assert_eq!(greedy.sample(&mut [1.0, 3.0, -2.0, 3.0], &[]), 1);
    assert_eq!(greedy.sample(&mut [f32::NAN, f32::NEG_INFINITY, -2.0], &[]), 2);
    assert_eq!(greedy.sample(&mut [f32::NAN, f32::NAN], &[]), 0);
    assert_eq!(greedy.sample(&mut [], &[]), 0);
}

#[test]
fn impossible_tokens_are_never_drawn() {
    let l = [0.0, f32::NEG_INFINITY, f32::NAN, 0.0];
    let counts = frequencies(&mut Sampler::new(100.0, 1), &l, 4000);
    assert!(counts[1] == 0 && counts[2] == 0 && counts[0] > 1800 && counts[3] > 1800, "{counts:?}");
}

#[test]
fn repetition_is_penalised_once_a_token() {
    let mut sampler = Sampler { repetition_penalty: 2.0, ..Sampler::greedy() };
    let mut l = [4.0, 3.0, -1.0, -1.5];
    assert_eq!(sampler.sample(&mut l, &[0, 2, 0, 0, 9999]), 1);
    assert_eq!(l, [2.0, 3.0, -2.0, -1.5]);
}

#[test]
fn the_stream_is_the_same_everywhere() {
    let l = logits(300, 3);
    let mut sampler = Sampler { top_k: 100, top_p: 0.95, min_p: 0.01, ..Sampler::new(3.0, 42) };
    let mut draw = |n: usize| -> Vec<u16> { (0..n).map(|_| sampler.sample(&mut l.clone(), &[])).collect() };
    let first = draw(12);
    assert_eq!(first, GOLDEN);
    assert_ne!(draw(12), first);
    sampler.random = Random::new(42);
    let again: Vec<u16> = (0..12).map(|_| sampler.sample(&mut l.clone(), &[])).collect();
    assert_eq!(again, first);
}

/// Fixed when the sampler was written; every target must draw these.
const GOLDEN: [u16; 12] = [162, 108, 233, 299, 163, 159, 79, 96, 163, 96, 68, 108];
