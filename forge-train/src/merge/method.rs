//! What a recipe means for each tensor.

use super::recipe::{Method, Override, Recipe};
use super::source::Source;
use crate::error::{Error, Result};
use crate::phases::evomerge::operators::{
    DeltaSum, dfs_slices, drop_entries, linear_slices, merge_deltas, shares, slerp_slices, trim,
};
use crate::rng::Rng;

/// A recipe whose overrides are known to match.
pub(super) struct Plan<'a> {
    recipe: &'a Recipe,
}

impl<'a> Plan<'a> {
    /// Refuses overrides that match none of `names`: a misspelt pattern would otherwise do nothing.
    pub(super) fn new(recipe: &'a Recipe, names: &[String]) -> Result<Self> {
        let idle = recipe.overrides.iter().find(|o| !names.iter().any(|name| matches(&o.tensors, name)));
        match idle {
            Some(o) => Err(Error::Usage {
                what: format!("no tensor is called `{}`, which an override is for", o.tensors),
                hint: format!("tensors are called such as `{}`", names.first().map_or("", String::as_str)),
            }),
            None => Ok(Self { recipe }),
        }
    }

    /// The first override of tensor `name` that has a setting.
    fn setting<T>(&self, name: &str, get: impl Fn(&'a Override) -> Option<T>) -> Option<T> {
        self.recipe.overrides.iter().filter(|o| matches(&o.tensors, name)).find_map(get)
    }

    fn weights(&self, name: &str) -> Vec<f32> {
        if let Some(t) = self.setting(name, |o| o.t).or(self.recipe.t) {
            return vec![1.0 - t, t];
        }
        let listed = || self.recipe.models.iter().map(|m| m.weight).collect();
        self.setting(name, |o| o.weights.clone()).unwrap_or_else(listed)
    }

    /// Merges tensor `name`.
    pub(super) fn tensor(&self, name: &str, base: Option<&Source>, models: &[Source]) -> Result<Vec<f32>> {
        if self.recipe.method == Method::Passthrough {
            return self.pass(name, models);
        }
        let values = models.iter().map(|m| m.read(name)).collect::<Result<Vec<Vec<f32>>>>()?;
        let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
        let base = base.map(|b| b.read(name)).transpose()?.unwrap_or_default();
        let weights = self.weights(name);
        Ok(match self.recipe.method {
            Method::Linear => linear_slices(&values, &shares(values.len(), &weights)?),
            Method::Slerp => slerp_slices(&values, &shares(values.len(), &weights)?),
            Method::Dfs => dfs_slices(&base, &values, &shares(values.len(), &weights)?),
            _ => self.deltas(name, &base, &values, &weights),
        })
    }

    fn pass(&self, name: &str, models: &[Source]) -> Result<Vec<f32>> {
        let from = self.setting(name, |o| o.from.as_ref());
        let place = from.and_then(|f| self.recipe.models.iter().position(|m| m.path == *f)).unwrap_or(0);
        let mut values = models[place].read(name)?;
        if let Some(scale) = self.setting(name, |o| o.scale) {
            values.iter_mut().for_each(|v| *v *= scale);
        }
        Ok(values)
    }

    fn deltas(&self, name: &str, base: &[f32], values: &[&[f32]], weights: &[f32]) -> Vec<f32> {
        let r = self.recipe;
        let how = DeltaSum {
            lambda: self.setting(name, |o| o.lambda).or(r.lambda).unwrap_or(1.0),
            elect_sign: matches!(r.method, Method::Ties | Method::DareTies),
            normalize: r.normalize.unwrap_or_else(|| r.method.normalizes()),
        };
        let own = self.setting(name, |o| o.density);
        merge_deltas(base, values, weights, how, |model, delta| {
            let density = own.or(r.models[model].density).or(r.density).unwrap_or(1.0);
            match r.method {
                Method::Ties => trim(delta, density),
                Method::DareLinear | Method::DareTies => {
                    let label = model.to_string();
                    let mut rng = Rng::new(r.seed.unwrap_or(0), &["merge", "dare", &label, name]);
                    drop_entries(delta, density, r.rescale.unwrap_or_default(), &mut rng);
                }
                _ => {}
            }
        })
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any run of characters.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == name.get(n) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, from)) = star {
            // The last star takes one character more.
            star = Some((at, from + 1));
            (p, n) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}
