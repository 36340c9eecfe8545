//! How every individual came about. An individual is not its weights but the way to them: a few numbers, from
//! which the weights can be made again.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::blend::Blend;
use super::mutation::Mutation;
use super::recipe::Recipe;
use crate::error::{Error, Result};
use crate::weights::Weights;

/// Where an individual comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// One of the models the evolution started from.
    Original {
        /// Its place among them.
        index: usize,
    },
    /// A merge of other individuals.
    Merge(Recipe),
    /// A changed copy.
    Mutation {
        /// Identity of the individual changed.
        parent: String,
        /// The change.
        mutation: Mutation,
    },
    /// A merge of the originals by coefficients.
    Blend(Blend),
}

impl Origin {
    /// Identities of the direct parents.
    pub fn parents(&self) -> &[String] {
        match self {
            Origin::Original { .. } => &[],
            Origin::Merge(recipe) => &recipe.parents,
            Origin::Blend(blend) => &blend.parents,
            Origin::Mutation { parent, .. } => std::slice::from_ref(parent),
        }
    }
}

/// The models from which all others are made.
#[derive(Clone, Copy)]
pub struct Founders<'a> {
    /// The common ancestor, from which deltas are measured.
    pub base: &'a Weights,
    /// The models to merge.
    pub originals: &'a [&'a Weights],
}

/// A family tree: identity (SHA-256 in hexadecimal) to origin.
///
/// An identity covers the founders' content and the whole way from them, so equal identities mean equal
/// weights, in this run and in any other. That makes it the key of the cache of losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// Hash of the founders' content.
    pub founders: String,
    /// Origin of every individual.
    pub origins: BTreeMap<String, Origin>,
}

impl Lineage {
    /// An empty tree on these founders.
    pub fn new(founders: Founders<'_>) -> Self {
        let mut hash = Sha256::new();
        for model in std::iter::once(&founders.base).chain(founders.originals) {
            for ((role, layer), m) in &model.tensors {
                hash.update(role.name());
                hash.update(layer.to_le_bytes());
                hash.update((m.rows as u64).to_le_bytes());
                hash.update((m.cols as u64).to_le_bytes());
                hash.update(bytemuck::cast_slice::<f32, u8>(&m.data));
            }
        }
        Self { founders: hex(hash), origins: BTreeMap::new() }
    }

    /// Enters an individual and returns its identity.
    ///
    /// # Errors
    /// [`Error::Config`] when the origin cannot be written as JSON.
    pub fn enter(&mut self, origin: Origin) -> Result<String> {
        let canonical = serde_json::to_vec(&origin).map_err(|e| Error::Config(format!("lineage: {e}")))?;
        let mut hash = Sha256::new();
        hash.update(&self.founders);
        hash.update(&canonical);
        let id = hex(hash);
        self.origins.insert(id.clone(), origin);
        Ok(id)
    }

    /// The individual's weights, given those of its direct parents in the order of [`Origin::parents`].
    ///
    /// # Errors
    /// When the origin does not fit the founders or the parents.
    pub fn make<'a>(
        origin: &Origin,
        founders: Founders<'a>,
        parents: &[&Weights],
    ) -> Result<Cow<'a, Weights>> {
        let missing = || Error::Config("lineage: an individual without its parent".into());
        match origin {
            Origin::Original { index } => {
                founders.originals.get(*index).map(|w| Cow::Borrowed(*w)).ok_or_else(missing)
            }
            Origin::Merge(recipe) => recipe.apply(parents, founders.base).map(Cow::Owned),
            Origin::Blend(blend) => blend.apply(founders.originals, founders.base).map(Cow::Owned),
            Origin::Mutation { mutation, .. } => {
                let parent = parents.first().ok_or_else(missing)?;
                mutation.apply(parent, founders.originals, founders.base).map(Cow::Owned)
            }
        }
    }

    /// Makes an individual again from the founders alone. Every ancestor is made once; all needed at a time
    /// are held.
    ///
    /// # Errors
    /// When the tree has no such individual, lacks an ancestor, or was grown on other founders.
    pub fn regenerate(&self, id: &str, founders: Founders<'_>) -> Result<Weights> {
        if Lineage::new(founders).founders != self.founders {
            return Err(Error::Config("lineage: these are not the models it started from".into()));
        }
        let mut made: BTreeMap<&str, Cow<'_, Weights>> = BTreeMap::new();
        let links: usize = self.origins.values().map(|o| o.parents().len()).sum();
        let mut open = vec![id];
        while let Some(&next) = open.last() {
            if made.contains_key(next) {
                open.pop();
                continue;
            }
            if open.len() > links + 1 {
                return Err(Error::Config("lineage: an individual descends from itself".into()));
            }
            let Some(origin) = self.origins.get(next) else {
                return Err(Error::Config(format!("lineage: no individual {next}")));
            };
            let missing: Vec<&str> =
                origin.parents().iter().map(String::as_str).filter(|p| !made.contains_key(p)).collect();
            if missing.is_empty() {
                let parents: Vec<&Weights> =
                    origin.parents().iter().map(|p| made[p.as_str()].as_ref()).collect();
                let weights = Self::make(origin, founders, &parents)?;
                made.insert(next, weights);
                open.pop();
            } else {
                open.extend(missing);
            }
        }
        made.remove(id)
            .map(Cow::into_owned)
            .ok_or_else(|| Error::Config(format!("lineage: no individual {id}")))
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::mutation::Space;
    use crate::phases::evomerge::test_support::model;

    #[test]
    fn identities_cover_content_and_way() {
        let (base, a, b) = (model(0), model(1), model(2));
        let pair = [&a, &b];
        let swapped = [&b, &a];
        let of = |originals, index| {
            Lineage::new(Founders { base: &base, originals }).enter(Origin::Original { index }).unwrap()
        };
        assert_eq!(of(&pair, 0), of(&pair, 0));
        assert_ne!(of(&pair, 0), of(&pair, 1));
        assert_ne!(of(&pair, 0), of(&swapped, 0));
    }

    #[test]
    fn an_individual_is_made_again_from_its_lineage() {
        let (base, a, b) = (model(0), model(1), model(2));
        let originals = [&a, &b];
        let founders = Founders { base: &base, originals: &originals };
        let mut tree = Lineage::new(founders);
        let parent = tree.enter(Origin::Original { index: 1 }).unwrap();
        let mutation = Mutation { space: Space::Noise { fraction: 0.5 }, sigma: 0.1, seed: 1 };
        let child = tree.enter(Origin::Mutation { parent: parent.clone(), mutation }).unwrap();
        let grandchild = tree.enter(Origin::Mutation { parent: child.clone(), mutation }).unwrap();
        let once = mutation.apply(&b, &originals, &base).unwrap();
        let twice = mutation.apply(&once, &originals, &base).unwrap();
        assert_eq!(tree.regenerate(&parent, founders).unwrap(), b);
        assert_eq!(tree.regenerate(&child, founders).unwrap(), once);
        assert_eq!(tree.regenerate(&grandchild, founders).unwrap(), twice);
        assert!(tree.regenerate("nobody", founders).is_err());
        let mut circle = tree.clone();
        circle.origins.insert(parent.clone(), Origin::Mutation { parent: child.clone(), mutation });
        assert!(circle.regenerate(&grandchild, founders).unwrap_err().to_string().contains("itself"));
        let strangers = [&b, &a];
        assert!(tree.regenerate(&child, Founders { base: &base, originals: &strangers }).is_err());
    }
}
