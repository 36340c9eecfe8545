//! What phase 1 measures: each branch on each slice, and how the file that is handed on halts.

use std::collections::BTreeMap;

use crate::engine::emit::{emit, float32};
use crate::engine::mixture::{Domain, domain_of, is_single_slice};
use crate::error::Result;
use crate::eval::{self, HaltingReport};
use crate::phases::common::{self, Prompting};
use crate::pipeline::{PhaseContext, PhaseId};
use crate::weights::Weights;

/// A branch on the held-out part of a domain, through the runtime.
#[derive(Clone, Copy)]
struct Cell {
    bits_per_byte: f64,
    recursions: f64,
}

/// Branches (rows) by domains (columns); nothing where a domain has no held-out examples.
pub(super) struct SliceTable([[Option<Cell>; 3]; 3]);

impl SliceTable {
    /// How many branches have the fewest bits per byte on their own slice; one without examples counts as won.
    pub(super) fn own_best(&self) -> usize {
        let wins = |d: &usize| {
            let bits = |row: &[Option<Cell>; 3]| row[*d].map(|cell| cell.bits_per_byte);
            let own = bits(&self.0[*d]);
            // Itself alone has so few: equal branches are not specialised.
            own.is_none_or(|own| self.0.iter().filter_map(bits).filter(|other| *other <= own).count() == 1)
        };
        (0..3).filter(wins).count()
    }

    /// Bits per byte by branch and slice, and each branch's recursions on its own; nothing of a slice without examples.
    pub(super) fn metrics(&self) -> BTreeMap<String, f64> {
        let mut metrics = BTreeMap::new();
        for (row, branch) in self.0.iter().zip(Domain::ALL) {
            for (cell, domain) in row.iter().zip(Domain::ALL) {
                let Some(cell) = cell else { continue };
                let name = format!("{}.bpb_on_{}", branch.branch(), domain.branch());
                metrics.insert(name, finite(cell.bits_per_byte));
            }
            if let Some(own) = row[branch as usize] {
                metrics.insert(format!("{}.mean_recursions", branch.branch()), own.recursions);
            }
        }
        metrics
    }
}

fn finite(v: f64) -> f64 {
    if v.is_finite() { v } else { 0.0 }
}

/// Measures every branch on every domain.
pub(super) fn slice_table(ctx: &PhaseContext<'_>, branches: &[Weights]) -> Result<SliceTable> {
    let single = is_single_slice(&ctx.data.dataset);
    let valid = &ctx.data.dataset.valid;
    let mut slices: [Vec<_>; 3] = Default::default();
    for (i, example) in valid.iter().enumerate() {
        let slice = &mut slices[domain_of(&example, i, valid.len(), single) as usize];
        if slice.len() < ctx.config.data.eval_examples {
            slice.push(example.without_thought());
        }
    }
    let card = common::card(ctx, PhaseId::Cognate, serde_json::json!({}));
    let options = eval::Options { generate: false, ..eval::Options::default() };
    let mut table = [[None; 3]; 3];
    for (row, weights) in table.iter_mut().zip(branches) {
        let bytes = emit(weights, &ctx.data.tokenizer, &card, &float32)?;
        for (cell, slice) in row.iter_mut().zip(&slices).filter(|(_, slice)| !slice.is_empty()) {
            let report = eval::evaluate(&bytes, slice, &options)?;
            *cell = Some(Cell { bits_per_byte: report.bits_per_byte, recursions: report.mean_recursions });
        }
    }
    Ok(SliceTable(table))
}

/// How the file halts on the held-out examples, with a note where halting has learnt nothing. Empty for a file that does
/// not halt.
pub(super) fn halting_metrics(ctx: &PhaseContext<'_>, bytes: &[u8]) -> Result<BTreeMap<String, f64>> {
    let examples: Vec<_> =
        common::held_out(ctx, Prompting::With).iter().map(|e| e.without_thought()).collect();
    let Some(report) = eval::halting(bytes, &examples)? else { return Ok(BTreeMap::new()) };
    if let Some(warning) = warning(&report) {
        ctx.progress.note(&warning);
    }
    let [easy, .., hard] = report.quarters;
    let named = [
        ("halt.steps", report.steps),
        ("halt.steps_easy", easy.steps),
        ("halt.steps_hard", hard.steps),
        ("halt.bits_per_byte", report.bits_per_byte),
        ("halt.bits_per_byte_at_one", report.bits_per_byte_at_one),
        ("halt.bits_per_byte_at_all", report.bits_per_byte_at_all),
        ("halt.has_learnt", f64::from(u8::from(report.has_learnt()))),
    ];
    Ok(named.map(|(name, value)| (name.to_owned(), finite(value))).into())
}

/// What is wrong with how a file halts, if anything is.
fn warning(report: &HaltingReport) -> Option<String> {
    let [easy, .., hard] = report.quarters.map(|quarter| quarter.steps);
    (!report.has_learnt()).then(|| {
        format!(
            "halting has not learnt: {:.2} of {} recursions a token, {easy:.2} on the easiest quarter and {hard:.2} on \
             the hardest; see `phase1.halt_margin` and `model.halt_threshold`",
            report.steps, report.recursions
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Quarter;

    fn table(bits: [[f64; 3]; 3]) -> SliceTable {
        SliceTable(
            bits.map(|row| row.map(|b| b.is_finite().then_some(Cell { bits_per_byte: b, recursions: 1.5 }))),
        )
    }

    #[test]
    fn a_branch_wins_with_the_fewest_bits_on_its_own_slice() {
        let all = table([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [2.0, 3.0, 1.0]]);
        assert_eq!(all.own_best(), 3);
        // The second branch is better than the third on the third's own slice.
        assert_eq!(table([[1.0, 3.0, 3.0], [2.0, 2.0, 0.5], [2.0, 3.0, 1.0]]).own_best(), 2);
        assert_eq!(table([[1.0; 3]; 3]).own_best(), 0, "equal branches are not specialised");
        let empty = table([[f64::NAN, 3.0, 3.0], [f64::NAN, 2.0, 2.0], [f64::NAN, 3.0, 1.0]]);
        assert_eq!(empty.own_best(), 3, "a slice without examples is nobody's loss");
        // 0 bits per byte would read as a perfect branch.
        assert!(!empty.metrics().keys().any(|name| name.ends_with("bpb_on_reasoning")));
        assert!(!empty.metrics().contains_key("reasoning.mean_recursions"));
        let metrics = all.metrics();
        assert_eq!(metrics["memory_integration.bpb_on_adaptive_computation"], 2.0);
        assert_eq!(metrics["reasoning.mean_recursions"], 1.5);
        assert_eq!(metrics.len(), 12);
    }

    #[test]
    fn halting_that_has_not_learnt_is_told() {
        let report = |steps: [f64; 4]| HaltingReport {
            recursions: 2,
            steps: steps.iter().sum::<f64>() / 4.0,
            quarters: steps.map(|steps| Quarter { steps, ..Quarter::default() }),
            bits_per_byte: 1.0,
            bits_per_byte_at_one: 1.0,
            bits_per_byte_at_all: 1.0,
        };
        assert!(warning(&report([1.1, 1.2, 1.5, 1.9])).is_none());
        assert!(warning(&report([1.0; 4])).unwrap().contains("1.00 of 2"));
        assert!(warning(&report([2.0; 4])).is_some());
    }
}
