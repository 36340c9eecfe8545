//! One training run outside the pipeline: data and a recipe in, a `.forge` file, its loss curve and its measures out.
//!
//! ```text
//! forge-runs/char-cpu-1337/
//!   recipe.toml          the resolved settings
//!   inputs.json          where the data comes from, with hashes
//!   lock                 held while a process works on the run
//!   checkpoints/         state inside the run
//!   curve.csv            a line a step: loss, rate, gradient norm, and held-out losses where they were measured
//!   tokenizer.tokens     the tokenizer's table
//!   best.safetensors     the weights of the lowest held-out loss
//!   model.forge          those weights in the recipe's precision
//!   report.json          what was measured on model.forge, through the runtime
//! ```

mod config;
mod curve;
mod directory;
mod judge;
mod material;
mod run;

pub use config::{Recipe, RecipeData, RecipePrecision, RecipeRun, RecipeSupervision, Teacher, TernaryCodec};
pub use directory::RunDirectory;
pub use run::{Report, run};
