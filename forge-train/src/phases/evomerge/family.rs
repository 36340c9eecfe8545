//! The champion's family tree, from the `evolution` artifact of phase 2.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::lineage::{Lineage, Origin};
use super::mutation::Space;
use super::report::Report;
use crate::engine::mixture::Domain;
use crate::error::{Error, Result};

/// Characters of an identity that are shown.
const SHORT: usize = 10;
/// Longest descent shown; no search is as long.
const DEEPEST: usize = 2000;

/// What phase 2 stored about its search.
#[derive(Clone, Debug, Deserialize)]
pub struct Family {
    report: Report,
    lineage: Lineage,
    /// Loss of every individual; absent in artifacts of older versions.
    #[serde(default)]
    losses: BTreeMap<String, f64>,
}

impl Family {
    /// Reads the artifact's bytes.
    ///
    /// # Errors
    /// [`Error::Artifact`] when they are not what phase 2 writes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::Artifact(format!("the record of evomerge: {e}")))
    }

    /// The champion's identity.
    pub fn champion(&self) -> &str {
        &self.report.champion
    }

    fn origin(&self, id: &str) -> Result<&Origin> {
        let missing = || Error::Artifact(format!("the record of evomerge has no individual {id}"));
        self.lineage.origins.get(id).ok_or_else(missing)
    }

    fn loss(&self, id: &str) -> Option<f64> {
        match self.lineage.origins.get(id) {
            Some(Origin::Original { index }) => self.report.originals.get(*index).copied(),
            _ if id == self.champion() => Some(self.report.loss),
            _ => self.losses.get(id).copied(),
        }
    }

    /// The champion and its ancestors, each once, in the order of the text; with origin, loss and parents.
    ///
    /// # Errors
    /// [`Error::Artifact`] when an ancestor is missing or descends from itself.
    pub fn document(&self) -> Result<Value> {
        let mut list = Vec::new();
        self.walk(&mut |id, origin, _, seen| {
            if !seen {
                let (loss, parents) = (self.loss(id), origin.parents());
                list.push(json!({"id": id, "loss": loss, "parents": parents, "origin": origin}));
            }
        })?;
        Ok(Value::Array(list))
    }

    /// The tree as text: children above, parents indented below them.
    ///
    /// # Errors
    /// As [`Family::document`].
    pub fn text(&self) -> Result<String> {
        let made = self.report.made_in.map_or("an original".into(), |g| format!("made in generation {g}"));
        let mut text = format!(
            "champion {}, {made} of {}; loss {:.4}, best original {:.4}\n\n",
            short(self.champion()),
            self.report.generations.len().saturating_sub(1),
            self.report.loss,
            self.report.originals.iter().copied().fold(f64::INFINITY, f64::min),
        );
        self.walk(&mut |id, origin, depth, seen| {
            let loss = self.loss(id).map_or(String::new(), |loss| format!("  loss {loss:.4}"));
            let rest = match seen && !origin.parents().is_empty() {
                true => "  (above)".into(),
                false => format!("  {}{loss}", describe(origin)),
            };
            text.push_str(&format!("{}{}{rest}\n", "  ".repeat(depth), short(id)));
        })?;
        Ok(text)
    }

    /// Calls `visit(id, origin, depth, seen before)` for the champion, then depth first for its ancestors.
    fn walk(&self, visit: &mut dyn FnMut(&str, &Origin, usize, bool)) -> Result<()> {
        let mut seen = BTreeSet::new();
        let mut open = vec![(self.champion(), 0)];
        while let Some((id, depth)) = open.pop() {
            if depth > DEEPEST {
                return Err(Error::Artifact("the record of evomerge: a descent without an end".into()));
            }
            let origin = self.origin(id)?;
            let new = seen.insert(id);
            visit(id, origin, depth, !new);
            if new {
                open.extend(origin.parents().iter().rev().map(|p| (p.as_str(), depth + 1)));
            }
        }
        Ok(())
    }
}

fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

fn describe(origin: &Origin) -> String {
    match origin {
        Origin::Original { index } => Domain::ALL
            .get(*index)
            .map_or(format!("original {index}"), |d| format!("original {}", d.branch())),
        Origin::Merge(r) => {
            let weights: Vec<String> = r.weights.iter().map(|w| format!("{w:.2}")).collect();
            let (density, lambda) = (r.density, r.lambda);
            let weights = weights.join(" ");
            format!("{} (weights {weights}; density {density:.2}, lambda {lambda:.2})", r.combination())
        }
        Origin::Mutation { mutation, .. } => {
            let space = if mutation.space == Space::Task { "task" } else { "noise" };
            format!("{space} mutation (sigma {:.3})", mutation.sigma)
        }
        Origin::Blend(blend) => format!("blend of {} groups by CMA-ES", blend.coefficients.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::lineage::Founders;
    use crate::phases::evomerge::mutation::Mutation;
    use crate::phases::evomerge::test_support::model;

    /// An original, a mutant of it, and a mutant of that.
    fn family() -> Value {
        let (base, a) = (model(0), model(1));
        let mut lineage = Lineage::new(Founders { base: &base, originals: &[&a] });
        let original = lineage.enter(Origin::Original { index: 0 }).unwrap();
        let mutation = Mutation { space: Space::Task, sigma: 0.1, seed: 1 };
        let child = lineage.enter(Origin::Mutation { parent: original, mutation }).unwrap();
        let grandchild = lineage.enter(Origin::Mutation { parent: child.clone(), mutation }).unwrap();
        let report = json!({
            "originals": [0.5], "champion": grandchild, "loss": 0.25, "made_in": 2, "generations": [],
            "techniques": {}, "combinations": [], "rejected": 0, "evaluations": 3, "stopped": "patience",
        });
        json!({"report": report, "lineage": lineage, "losses": {child: 0.375}})
    }

    fn parse(value: &Value) -> Result<Family> {
        Family::parse(value.to_string().as_bytes())
    }

    #[test]
    fn the_tree_leads_from_the_champion_to_the_originals() {
        let text = parse(&family()).unwrap().text().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("made in generation 2") && lines[0].contains("0.2500"), "{text}");
        assert!(lines[2].ends_with("task mutation (sigma 0.100)  loss 0.2500"), "{text}");
        assert!(lines[3].starts_with("  ") && lines[3].ends_with("loss 0.3750"), "{text}");
        assert!(
            lines[4].starts_with("    ") && lines[4].contains("original reasoning  loss 0.5000"),
            "{text}"
        );
        assert_eq!(parse(&family()).unwrap().document().unwrap().as_array().unwrap().len(), 3);
    }

    #[test]
    fn a_broken_record_is_an_error() {
        assert!(Family::parse(b"{}").is_err());
        let mut orphan = family();
        let champion = orphan["report"]["champion"].as_str().unwrap().to_owned();
        orphan["lineage"]["origins"].as_object_mut().unwrap().remove(&champion);
        assert!(parse(&orphan).unwrap().text().unwrap_err().to_string().contains("no individual"));
        // A circle ends: whoever was shown is not followed again.
        let mut circle = family();
        circle["lineage"]["origins"][&champion]["mutation"]["parent"] = json!(champion);
        assert!(parse(&circle).unwrap().text().unwrap().contains("(above)"));
    }
}
