//! One encoding a tensor under a byte budget: Lagrangian rate–distortion allocation (Shoham and Gersho 1988,
//! "Efficient bit allocation for an arbitrary set of quantizers").
//!
//! For a price λ of a byte every tensor takes the candidate of least `distortion + λ·bytes`, which lies on
//! the lower convex hull of its candidates. Lowering λ buys the hulls' edges by falling slope, so the
//! bisection for the λ of a budget is a search in the sorted list of edges. What the hulls leave of the
//! budget, single exchanges with the best gain for a byte fill.

use forge_formats::codec::Codec;

/// One way to store a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The codec.
    pub codec: Codec,
    /// Exact bytes stored.
    pub bytes: u64,
    /// What it costs the model, in one unit for all tensors.
    pub distortion: f64,
}

/// An edge of a tensor's hull: its slope, the tensor, and the candidate it leads to.
struct Edge {
    slope: f64,
    tensor: usize,
    bytes: u64,
}

/// Picks one candidate a tensor with the least total distortion within `budget_bytes` in total: optimal where
/// the budget falls on a vertex of the joint hull, within one edge's gain of the optimum elsewhere.
/// Candidates with a distortion that is not finite are left out. `None` when a tensor has no candidate or
/// even the smallest do not fit.
pub fn choose(candidates: &[Vec<Candidate>], budget_bytes: u64) -> Option<Vec<usize>> {
    let hulls: Vec<Vec<usize>> = candidates.iter().map(|list| hull(list)).collect();
    let mut spent = 0u64;
    for (list, hull) in candidates.iter().zip(&hulls) {
        spent = spent.checked_add(list[*hull.first()?].bytes)?;
    }
    let mut left = budget_bytes.checked_sub(spent)?;
    let edges = edges(candidates, &hulls);
    let bought = affordable(&edges, left);
    let mut steps = vec![0usize; candidates.len()];
    for edge in &edges[..bought] {
        steps[edge.tensor] += 1;
        left -= edge.bytes;
    }
    let mut picks: Vec<usize> = hulls.iter().zip(steps).map(|(hull, step)| hull[step]).collect();
    fill(candidates, &mut picks, left);
    Some(picks)
}

/// Lower convex hull of a tensor's candidates, by rising bytes and falling distortion.
fn hull(list: &[Candidate]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..list.len()).filter(|&i| list[i].distortion.is_finite()).collect();
    order.sort_by(|&a, &b| {
        let (x, y) = (&list[a], &list[b]);
        x.bytes.cmp(&y.bytes).then(x.distortion.total_cmp(&y.distortion)).then(a.cmp(&b))
    });
    let mut hull: Vec<usize> = Vec::new();
    for i in order {
        if hull.last().is_some_and(|&last| list[i].distortion >= list[last].distortion) {
            continue;
        }
        while let [.., a, b] = hull[..]
            && slope(&list[a], &list[b]) <= slope(&list[b], &list[i])
        {
            hull.pop();
        }
        hull.push(i);
    }
    hull
}

/// Distortion saved for each byte paid.
fn slope(from: &Candidate, to: &Candidate) -> f64 {
    (from.distortion - to.distortion) / (to.bytes - from.bytes) as f64
}

/// The edges of all hulls by falling slope; those of one tensor keep their order.
fn edges(candidates: &[Vec<Candidate>], hulls: &[Vec<usize>]) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (tensor, (list, hull)) in candidates.iter().zip(hulls).enumerate() {
        edges.extend(hull.array_windows().map(|&[a, b]| {
            let bytes = list[b].bytes - list[a].bytes;
            Edge { slope: slope(&list[a], &list[b]), tensor, bytes }
        }));
    }
    edges.sort_by(|a, b| b.slope.total_cmp(&a.slope));
    edges
}

/// How many of the edges, from the steepest, `left` bytes pay for.
fn affordable(edges: &[Edge], left: u64) -> usize {
    let total = edges.iter().scan(0u64, |sum, edge| {
        *sum = sum.saturating_add(edge.bytes);
        Some(*sum)
    });
    total.take_while(|sum| *sum <= left).count()
}

/// Exchanges single picks for the best gain until nothing fits: first any that lowers distortion for no more
/// bytes, then by distortion saved for each byte.
fn fill(candidates: &[Vec<Candidate>], picks: &mut [usize], mut left: u64) {
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (tensor, list) in candidates.iter().enumerate() {
            let now = &list[picks[tensor]];
            for (i, other) in list.iter().enumerate() {
                let fits = other.bytes <= now.bytes.saturating_add(left);
                if !fits || !other.distortion.is_finite() || other.distortion >= now.distortion {
                    continue;
                }
                let gain = if other.bytes <= now.bytes { f64::INFINITY } else { slope(now, other) };
                if best.is_none_or(|(most, ..)| gain > most) {
                    best = Some((gain, tensor, i));
                }
            }
        }
        let Some((_, tensor, i)) = best else { return };
        left = left + candidates[tensor][picks[tensor]].bytes - candidates[tensor][i].bytes;
        picks[tensor] = i;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn candidate(bytes: u64, distortion: f64) -> Candidate {
        Candidate { codec: Codec::F32, bytes, distortion }
    }

    fn total(candidates: &[Vec<Candidate>], picks: &[usize]) -> (u64, f64) {
        let picked = candidates.iter().zip(picks).map(|(list, &i)| list[i]);
        picked.fold((0, 0.0), |(bytes, loss), c| (bytes + c.bytes, loss + c.distortion))
    }

    /// The least distortion within the budget, by trying every combination.
    fn brute_force(candidates: &[Vec<Candidate>], budget: u64) -> Option<f64> {
        let Some((list, rest)) = candidates.split_first() else { return Some(0.0) };
        let tails =
            list.iter().filter_map(|c| Some(c.distortion + brute_force(rest, budget.checked_sub(c.bytes)?)?));
        tails.min_by(f64::total_cmp)
    }

    fn random_case(rng: &mut Rng) -> Vec<Vec<Candidate>> {
        let tensors = 1 + rng.below(4);
        let list = |rng: &mut Rng| {
            let count = 1 + rng.below(5);
            (0..count).map(|_| candidate(rng.below(40) as u64, f64::from(rng.uniform()) * 8.0)).collect()
        };
        (0..tensors).map(|_| list(rng)).collect()
    }

    #[test]
    fn never_exceeds_the_budget_and_stays_within_an_edge_of_the_optimum() {
        let mut rng = Rng::new(1, &["choose"]);
        let (mut optimal, mut solved) = (0, 0);
        for _ in 0..2000 {
            let case = random_case(&mut rng);
            let budget = rng.below(120) as u64;
            let best = brute_force(&case, budget);
            let picks = choose(&case, budget);
            assert_eq!(picks.is_none(), best.is_none(), "{case:?} under {budget}");
            let (Some(picks), Some(best)) = (picks, best) else { continue };
            let (bytes, loss) = total(&case, &picks);
            assert!(bytes <= budget);
            let edge = case.iter().map(|list| {
                let losses = || list.iter().map(|c| c.distortion);
                losses().fold(0.0, f64::max) - losses().fold(f64::INFINITY, f64::min)
            });
            assert!(loss <= best + edge.fold(0.0, f64::max) + 1e-9);
            solved += 1;
            optimal += u32::from(loss <= best + 1e-9);
        }
        assert!(solved > 1000 && optimal * 10 > solved * 8, "{optimal} of {solved} optimal");
    }

    #[test]
    fn is_optimal_on_the_hull() {
        let mut rng = Rng::new(2, &["choose"]);
        for _ in 0..500 {
            let case = random_case(&mut rng);
            let hulls: Vec<Vec<usize>> = case.iter().map(|list| hull(list)).collect();
            let mut budget: u64 = case.iter().zip(&hulls).map(|(list, hull)| list[hull[0]].bytes).sum();
            let edges = edges(&case, &hulls);
            for edge in std::iter::once(0).chain(edges.iter().map(|edge| edge.bytes)) {
                budget += edge;
                let (bytes, loss) = total(&case, &choose(&case, budget).unwrap());
                assert!(bytes <= budget);
                assert!((loss - brute_force(&case, budget).unwrap()).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn impossible_budgets_and_unusable_candidates_give_none() {
        let case = vec![vec![candidate(10, 1.0)], vec![candidate(5, 2.0), candidate(4, f64::NAN)]];
        assert_eq!(choose(&case, 14), None);
        assert_eq!(choose(&case, 15), Some(vec![0, 0]));
        assert_eq!(choose(&[vec![]], 100), None);
        assert_eq!(choose(&[], 0), Some(vec![]));
        assert_eq!(choose(&[vec![candidate(u64::MAX, 0.0)], vec![candidate(1, 0.0)]], u64::MAX), None);
    }
}
