//! A merge in three stages: interpolate, add deltas, select. Eight combinations of techniques.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::operators::{self, Dare, Pattern, Ties, check_models};
use crate::error::{Error, Result};
use crate::weights::{Key, Weights};

/// First stage: an average of the parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// [`operators::linear`].
    Linear,
    /// [`operators::slerp`].
    Slerp,
}

/// Second stage: the parents' deltas on the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// [`operators::dare`].
    Dare,
    /// [`operators::ties`].
    Ties,
}

/// Third stage: a choice between the first stage, the second, and the best parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// [`operators::franken`]: block by block.
    Franken,
    /// [`operators::dfs`]: shares per tensor.
    Dfs,
}

/// One technique for each stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Combination {
    /// First stage.
    pub interpolation: Interpolation,
    /// Second stage.
    pub arithmetic: Arithmetic,
    /// Third stage.
    pub selection: Selection,
}

impl Combination {
    /// Number of combinations.
    pub const COUNT: u8 = 8;

    /// The combination numbered `bits` (0 to 7, higher bits ignored). Bit 0, the least significant, is the
    /// first stage: 0 linear, 1 SLERP; bit 1 the second: 0 DARE, 1 TIES; bit 2 the third: 0 FrankenMerge, 1
    /// DFS. So `0b001`, number 1, is SLERP, DARE, FrankenMerge.
    pub fn from_bits(bits: u8) -> Self {
        let bit = |n: u8| bits >> n & 1 == 1;
        Self {
            interpolation: if bit(0) { Interpolation::Slerp } else { Interpolation::Linear },
            arithmetic: if bit(1) { Arithmetic::Ties } else { Arithmetic::Dare },
            selection: if bit(2) { Selection::Dfs } else { Selection::Franken },
        }
    }

    /// The number, inverse of [`Combination::from_bits`].
    pub fn bits(self) -> u8 {
        u8::from(self.interpolation == Interpolation::Slerp)
            | u8::from(self.arithmetic == Arithmetic::Ties) << 1
            | u8::from(self.selection == Selection::Dfs) << 2
    }

    /// The techniques' names, by stage: "linear" or "slerp", "dare" or "ties", "franken" or "dfs".
    pub fn techniques(self) -> [&'static str; 3] {
        let bit = |n: u8| self.bits() >> n & 1 == 1;
        [
            if bit(0) { "slerp" } else { "linear" },
            if bit(1) { "ties" } else { "dare" },
            if bit(2) { "dfs" } else { "franken" },
        ]
    }
}

impl std::fmt::Display for Combination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.techniques().join("+"))
    }
}

/// Everything that determines a merge, given its parents' weights and the base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// First stage.
    pub interpolation: Interpolation,
    /// Second stage.
    pub arithmetic: Arithmetic,
    /// Third stage.
    pub selection: Selection,
    /// One non-negative weight for each parent; only their proportions count.
    pub weights: Vec<f32>,
    /// Share of each delta that the second stage keeps, in (0, 1].
    pub density: f32,
    /// Factor of the merged delta in the second stage.
    pub lambda: f32,
    /// Names the second stage's random mask and the third stage's choice of blocks.
    pub seed: u64,
    /// Identities of the parents, the best one first.
    pub parents: Vec<String>,
}

impl Recipe {
    /// The techniques of the three stages.
    pub fn combination(&self) -> Combination {
        Combination {
            interpolation: self.interpolation,
            arithmetic: self.arithmetic,
            selection: self.selection,
        }
    }

    /// For FrankenMerge, where each of `layers` blocks comes from: 0 the first stage, 1 the second, 2 the
    /// best parent.
    pub fn donors(&self, layers: usize) -> Vec<usize> {
        Pattern::Shuffled { seed: self.seed }.donors(layers, 3)
    }

    /// Merges `parents`, given in the order of [`Recipe::parents`] (the best first), which share the ancestor
    /// `base`:
    /// 1. The parents are interpolated.
    /// 2. Their deltas, with weights normalised to 1, are merged onto the base.
    /// 3. Of these two and the best parent, FrankenMerge takes each block from one, in a seeded, even
    ///    distribution, and all that is outside the blocks from the best parent; DFS weighs the three per tensor.
    ///
    /// # Errors
    /// When the recipe does not fit the parents, they differ in shape, or a number is out of range.
    pub fn apply(&self, parents: &[&Weights], base: &Weights) -> Result<Weights> {
        let all: Vec<&Weights> = std::iter::once(base).chain(parents.iter().copied()).collect();
        check_models(&all)?;
        self.check(parents.len())?;
        self.merge(base, |parent, key| Cow::Borrowed(parents[parent].get(key.0, key.1).data.as_slice()))
    }

    /// Checks the recipe's numbers and that it is one for `parents` parents.
    fn check(&self, parents: usize) -> Result<()> {
        if parents != self.parents.len() || parents == 0 {
            let want = self.parents.len();
            return Err(Error::Config(format!("a recipe for {want} parents was applied to {parents}")));
        }
        if !self.lambda.is_finite() {
            return Err(Error::Config("a merge of deltas needs a model and a finite lambda".into()));
        }
        operators::check_density(self.density)
    }

    /// As [`Recipe::apply`], with parents of the base's shape that give one tensor at a time: `tensor(parent, key)`.
    /// A parent that is itself made on the way is so never whole in memory.
    ///
    /// # Errors
    /// When a number of the recipe is out of range.
    pub fn merge<'p>(
        &self,
        base: &Weights,
        tensor: impl Fn(usize, Key) -> Cow<'p, [f32]> + Sync,
    ) -> Result<Weights> {
        self.check(self.parents.len())?;
        let shares = operators::shares(self.parents.len(), &self.weights)?;
        // Rounded to f32 and normalised again, as the operators on whole models do.
        let weights: Vec<f32> = shares.iter().map(|&s| s as f32).collect();
        let shares = operators::shares(self.parents.len(), &weights)?;
        let donors = self.donors(base.config.layers as usize);
        Ok(operators::build(base, |key, origin| {
            let parents: Vec<Cow<'_, [f32]>> = (0..self.parents.len()).map(|p| tensor(p, key)).collect();
            let parents: Vec<&[f32]> = parents.iter().map(AsRef::as_ref).collect();
            let first = || match self.interpolation {
                Interpolation::Linear => operators::linear_slices(&parents, &shares),
                Interpolation::Slerp => operators::slerp_slices(&parents, &shares),
            };
            let second = || self.add_deltas(key, &origin.data, &parents, &weights);
            match self.selection {
                Selection::Franken => match if key.0.per_layer() { donors[key.1 as usize] } else { 2 } {
                    0 => first(),
                    1 => second(),
                    _ => parents[0].to_vec(),
                },
                Selection::Dfs => {
                    let (first, second) = (first(), second());
                    let prior = [1.0 / 3.0; 3];
                    operators::dfs_slices(&origin.data, &[&first, &second, parents[0]], &prior)
                }
            }
        }))
    }

    /// The second stage for one tensor.
    fn add_deltas(&self, key: Key, base: &[f32], parents: &[&[f32]], weights: &[f32]) -> Vec<f32> {
        let (density, lambda, seed) = (self.density, self.lambda, self.seed);
        match self.arithmetic {
            Arithmetic::Dare => {
                let how = Dare { density, lambda, seed, elect_sign: false };
                operators::dare_slices(key, base, parents, weights, how)
            }
            Arithmetic::Ties => operators::ties_slices(base, parents, weights, Ties { density, lambda }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::test_support::{model, model_of, values};
    use forge_formats::role::Role;

    fn recipe(bits: u8, parents: usize) -> Recipe {
        let Combination { interpolation, arithmetic, selection } = Combination::from_bits(bits);
        let parents: Vec<String> = (0..parents).map(|i| format!("p{i}")).collect();
        let weights = vec![1.0; parents.len()];
        Recipe { interpolation, arithmetic, selection, weights, density: 1.0, lambda: 1.0, seed: 4, parents }
    }

    #[test]
    fn bit_order_is_as_documented() {
        use {Arithmetic::*, Interpolation::*, Selection::*};
        let table = [
            (0b000, Linear, Dare, Franken),
            (0b001, Slerp, Dare, Franken),
            (0b010, Linear, Ties, Franken),
            (0b011, Slerp, Ties, Franken),
            (0b100, Linear, Dare, Dfs),
            (0b101, Slerp, Dare, Dfs),
            (0b110, Linear, Ties, Dfs),
            (0b111, Slerp, Ties, Dfs),
        ];
        for (bits, interpolation, arithmetic, selection) in table {
            let combination = Combination { interpolation, arithmetic, selection };
            assert_eq!(Combination::from_bits(bits), combination);
            assert_eq!(combination.bits(), bits);
        }
        assert_eq!(Combination::from_bits(1).to_string(), "slerp+dare+franken");
        assert_eq!(Combination::from_bits(6).to_string(), "linear+ties+dfs");
    }

    #[test]
    fn the_eight_combinations_give_eight_models() {
        let (base, a, b, c) = (model(0), model(1), model(2), model(3));
        let merged: Vec<Weights> = (0..Combination::COUNT)
            .map(|bits| Recipe { density: 0.5, ..recipe(bits, 3) }.apply(&[&a, &b, &c], &base).unwrap())
            .collect();
        for (i, x) in merged.iter().enumerate() {
            assert!(x.is_finite());
            assert!(merged[..i].iter().all(|y| y != x), "combination {i} repeats an earlier one");
        }
        let again = Recipe { density: 0.5, ..recipe(5, 3) }.apply(&[&a, &b, &c], &base).unwrap();
        assert_eq!(again, merged[5]);
    }

    #[test]
    fn stages_are_chained_as_documented() {
        // Constant models: base 0, parents 2 and 6. Linear gives 4, DARE at density 1 the mean delta 4 as
        // well, times lambda 0.5 is 2, and the best parent is 2. DFS has no variance to go by and averages 4,
        // 2 and 2.
        let (base, a, b) = (model_of(0.0), model_of(2.0), model_of(6.0));
        let merged = Recipe { lambda: 0.5, ..recipe(0b100, 2) }.apply(&[&a, &b], &base).unwrap();
        assert!(values(&merged).all(|v| (v - 8.0 / 3.0).abs() < 1e-6));
        // FrankenMerge: the embedding is the best parent's, the blocks follow `donors`.
        let franken = Recipe { lambda: 0.25, ..recipe(0b000, 2) };
        let merged = franken.apply(&[&a, &b], &base).unwrap();
        assert_eq!(merged.get(Role::Embedding, 0).data[0], 2.0);
        for (layer, donor) in franken.donors(2).into_iter().enumerate() {
            let expected = [4.0, 1.0, 2.0][donor];
            assert_eq!(merged.get(Role::Qkv, layer as u32).data[0], expected);
        }
    }

    #[test]
    fn identical_parents_merge_to_themselves() {
        let (base, a) = (model(0), model(1));
        for bits in 0..Combination::COUNT {
            let merged = recipe(bits, 2).apply(&[&a, &a], &base).unwrap();
            let worst = values(&merged).zip(values(&a)).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-6, "combination {bits} moved by {worst}");
        }
    }

    #[test]
    fn a_recipe_must_fit_its_parents() {
        let (base, a) = (model(0), model(1));
        assert!(recipe(0, 2).apply(&[&a], &base).is_err());
        assert!(Recipe { weights: vec![1.0], ..recipe(0, 2) }.apply(&[&a, &a], &base).is_err());
        assert!(Recipe { density: 0.0, ..recipe(0, 2) }.apply(&[&a, &a], &base).is_err());
    }
}
