//! The second strategy: CMA-ES over the coefficients of a [`Blend`].

use super::Objective;
use super::member::Member;
use super::search::Search;
use crate::error::Result;
use crate::phases::evomerge::blend::Blend;
use crate::phases::evomerge::cmaes::CmaEs;
use crate::phases::evomerge::config::MAX_POPULATION;
use crate::phases::evomerge::lineage::Origin;
use crate::phases::evomerge::report::StopReason;

/// First standard deviation of a coefficient (mergekit-evolve, Akiba et al. 2024).
const SIGMA: f64 = 1.0 / 6.0;

/// Runs the search; returns the best blend as the last population.
pub(super) fn cmaes<'a, O: Objective + ?Sized>(
    search: &mut Search<'a, '_, O>,
    originals: &[Member<'a>],
) -> Result<(Vec<Member<'a>>, StopReason)> {
    let parents = originals.len();
    let groups = Blend::groups(search.layers());
    let n = groups * parents;
    let population = CmaEs::default_population(n).min(MAX_POPULATION);
    let mut state = CmaEs::new(vec![1.0 / parents as f64; n], SIGMA, population);
    let mut best: Option<Member<'a>> = None;
    loop {
        let mut samples = state.ask(&mut search.stream("cmaes", 0));
        if best.is_none() {
            // Even weights are judged too: no search should end below them.
            samples[0] = state.mean().to_vec();
        }
        let members = samples
            .iter()
            .map(|sample| {
                let coefficients =
                    sample.chunks(parents).map(|c| c.iter().map(|v| *v as f32).collect()).collect();
                let blend = Blend { coefficients, parents: search.original_ids().to_vec() };
                search.admit(Origin::Blend(blend), &originals.iter().collect::<Vec<_>>())
            })
            .collect::<Result<Vec<Member<'a>>>>()?;
        state.tell(&samples, &members.iter().map(|m| m.loss).collect::<Vec<_>>());
        search.record(originals, &members);
        for member in members {
            if best.as_ref().is_none_or(|b| member.loss < b.loss) {
                best = Some(member);
            }
        }
        if let Some(reason) = search.finished(population) {
            return Ok((best.into_iter().collect(), reason));
        }
    }
}
