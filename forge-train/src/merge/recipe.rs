//! The recipe of a merge: TOML, with every key checked.

use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::phases::evomerge::operators::Rescale;

/// How tensors are merged. docs/merging.md has the formulas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// `Σ w_i W_i / Σ w_i`.
    Linear,
    /// Spherical interpolation of two models at `t`, or of any number by their weights.
    Slerp,
    /// `base + λ Σ w_i δ_i`.
    TaskArithmetic,
    /// Trimmed deltas, elected signs, mean of those who agree.
    Ties,
    /// Randomly thinned deltas, summed.
    DareLinear,
    /// Randomly thinned deltas, elected signs.
    DareTies,
    /// Each tensor from one model (FrankenMerge).
    Passthrough,
    /// Weights inverse to the variance of the deltas; Forge's own.
    Dfs,
}

impl Method {
    /// Whether deltas from a base are merged.
    pub fn needs_base(self) -> bool {
        !matches!(self, Method::Linear | Method::Slerp | Method::Passthrough)
    }

    /// Whether deltas are thinned to a density.
    pub fn thins(self) -> bool {
        matches!(self, Method::Ties | Method::DareLinear | Method::DareTies)
    }

    /// Whether the sum of deltas is divided by its weights unless the recipe says otherwise; as in mergekit.
    pub fn normalizes(self) -> bool {
        self == Method::Ties
    }

    /// Whether weights must not be negative.
    fn averages(self) -> bool {
        matches!(self, Method::Linear | Method::Slerp | Method::Dfs)
    }
}

/// Type of the values written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeName {
    /// 32 bits.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a f32.
    Bf16,
}

impl DtypeName {
    pub(super) fn dtype(self) -> Dtype {
        match self {
            DtypeName::F32 => Dtype::F32,
            DtypeName::F16 => Dtype::F16,
            DtypeName::Bf16 => Dtype::BF16,
        }
    }
}

/// One model of a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// The .safetensors file.
    pub path: PathBuf,
    /// Weight of the model.
    #[serde(default = "one")]
    pub weight: f32,
    /// Share of its delta that is kept, instead of the recipe's.
    pub density: Option<f32>,
}

fn one() -> f32 {
    1.0
}

/// Settings for the tensors whose names match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Name of a tensor; `*` stands for any run of characters.
    pub tensors: String,
    /// One weight for each model.
    pub weights: Option<Vec<f32>>,
    /// For `slerp` of two models: 0 is the first, 1 the second.
    pub t: Option<f32>,
    /// Share of each delta that is kept.
    pub density: Option<f32>,
    /// Factor of the merged delta.
    pub lambda: Option<f32>,
    /// For `passthrough`: path of the model that gives these tensors, as it stands under `models`.
    pub from: Option<PathBuf>,
    /// For `passthrough`: factor of these tensors.
    pub scale: Option<f32>,
}

/// A merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Where the merged model goes.
    pub output: PathBuf,
    /// How tensors are merged.
    pub method: Method,
    /// The common ancestor, for methods that merge deltas.
    pub base: Option<PathBuf>,
    /// Type of the values written; that of the first model without it.
    pub dtype: Option<DtypeName>,
    /// For `slerp` of two models: 0 is the first, 1 the second; instead of weights.
    pub t: Option<f32>,
    /// Share of each delta that is kept, in (0, 1]; 1 without it.
    pub density: Option<f32>,
    /// Factor of the merged delta; 1 without it.
    pub lambda: Option<f32>,
    /// Whether the sum of deltas is divided by its weights; true for `ties`, false for the others without it.
    pub normalize: Option<bool>,
    /// What makes up for entries that DARE drops; `l1` without it.
    pub rescale: Option<Rescale>,
    /// Names the random choice of entries of DARE; 0 without it.
    pub seed: Option<u64>,
    /// The models, in order.
    pub models: Vec<ModelEntry>,
    /// Settings for some tensors; of several that match, the first that has a setting decides it.
    #[serde(default)]
    pub overrides: Vec<Override>,
}

impl Recipe {
    /// Parses and checks a recipe.
    ///
    /// # Errors
    /// [`Error::Usage`] saying what is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let recipe: Self = toml::from_str(text).map_err(|e| Error::Usage {
            what: format!("`{}` is not a recipe of a merge: {}", path.display(), e.to_string().trim_end()),
            hint: "docs/merging.md lists the keys; `forge-train merge --help` shows an example".into(),
        })?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// Checks all that needs no file.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first key that is wrong.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::Usage {
                what: format!("merge recipe: {what}"),
                hint: "docs/merging.md lists the keys".into(),
            })
        };
        match self.wrong_shape().or_else(|| self.wrong_key()).or_else(|| self.wrong_number()) {
            Some(what) => refuse(what),
            None => Ok(()),
        }
    }

    /// Too few models, or a base where none belongs.
    fn wrong_shape(&self) -> Option<String> {
        let least = if matches!(self.method, Method::Linear | Method::Slerp | Method::Dfs) { 2 } else { 1 };
        if self.models.len() < least {
            return Some(format!(
                "this method needs at least {least} `[[models]]`, not {}",
                self.models.len()
            ));
        }
        let repeated = |i: usize| self.models[..i].iter().any(|m| m.path == self.models[i].path);
        if let Some(i) = (0..self.models.len()).find(|&i| repeated(i)) {
            return Some(format!("`{}` is listed twice; give it one weight", self.models[i].path.display()));
        }
        match (self.method.needs_base(), &self.base) {
            (true, None) => Some("this method merges deltas and needs `base`, the common ancestor".into()),
            (false, Some(_)) => Some("`base` has no meaning for this method; remove it".into()),
            _ => None,
        }
    }

    /// A key that the method would ignore.
    fn wrong_key(&self) -> Option<String> {
        let method = self.method;
        let two = method == Method::Slerp && self.models.len() == 2;
        let deltas = method.needs_base() && method != Method::Dfs;
        let dare = matches!(method, Method::DareLinear | Method::DareTies);
        let any = |f: fn(&Override) -> bool| self.overrides.iter().any(f);
        let densities = self.density.is_some()
            || self.models.iter().any(|m| m.density.is_some())
            || any(|o| o.density.is_some());
        let used = [
            ("t", self.t.is_some() || any(|o| o.t.is_some()), two, "slerp of two models"),
            ("density", densities, method.thins(), "ties, dare_linear and dare_ties"),
            ("lambda", self.lambda.is_some() || any(|o| o.lambda.is_some()), deltas, "methods on deltas"),
            ("normalize", self.normalize.is_some(), deltas, "methods on deltas"),
            ("rescale", self.rescale.is_some(), dare, "dare_linear and dare_ties"),
            ("seed", self.seed.is_some(), dare, "dare_linear and dare_ties"),
            ("from", any(|o| o.from.is_some()), method == Method::Passthrough, "passthrough"),
            ("scale", any(|o| o.scale.is_some()), method == Method::Passthrough, "passthrough"),
            ("weights", any(|o| o.weights.is_some()), method != Method::Passthrough, "other methods"),
        ];
        let wrong = used.iter().find(|(_, given, fits, _)| *given && !*fits);
        wrong.map(|(key, _, _, place)| format!("`{key}` has a meaning only for {place}"))
    }

    fn wrong_number(&self) -> Option<String> {
        let weights: Vec<f32> = self.models.iter().map(|m| m.weight).collect();
        let lists = self.overrides.iter().filter_map(|o| o.weights.as_ref());
        for weights in std::iter::once(&weights).chain(lists) {
            if weights.len() != self.models.len() {
                return Some(format!("{} weights for {} models", weights.len(), self.models.len()));
            }
            if let Some(w) = weights.iter().find(|w| !w.is_finite() || self.method.averages() && **w < 0.0) {
                return Some(format!("weight {w} must be finite, and not negative for an average"));
            }
            if self.method.averages() && weights.iter().sum::<f32>() <= 0.0 {
                return Some("the weights are all zero".into());
            }
        }
        let o = &self.overrides;
        let densities = self.models.iter().map(|m| m.density).chain(o.iter().map(|o| o.density));
        if let Some(d) = densities.chain([self.density]).flatten().find(|d| !(*d > 0.0 && *d <= 1.0)) {
            return Some(format!("density must lie in (0, 1], not {d}"));
        }
        if let Some(t) = o.iter().map(|o| o.t).chain([self.t]).flatten().find(|t| !(0.0..=1.0).contains(t)) {
            return Some(format!("t must lie in [0, 1], not {t}"));
        }
        let factors = o.iter().flat_map(|o| [o.lambda, o.scale]).chain([self.lambda]).flatten();
        if let Some(f) = factors.into_iter().find(|f| !f.is_finite()) {
            return Some(format!("lambda and scale must be finite, not {f}"));
        }
        let unknown =
            o.iter().filter_map(|o| o.from.as_ref()).find(|f| self.models.iter().all(|m| m.path != **f));
        unknown.map(|from| format!("`from` names `{}`, which is not under `[[models]]`", from.display()))
    }
}
