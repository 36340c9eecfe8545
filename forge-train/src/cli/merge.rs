//! `forge-train merge`: one model from several, without training.

use std::fs;
use std::path::{Path, PathBuf};

use forge_train::error::Error;
use forge_train::merge::{Recipe, merge};
use forge_train::pipeline::table::{bytes as size, count};
use serde_json::json;

use super::output::{Outcome, print_json, say};

const EXAMPLES: &str = "\
A recipe, with paths that start from its own directory:

  output = \"merged.safetensors\"
  method = \"ties\"               # linear, slerp, task_arithmetic, ties, dare_linear,
                                # dare_ties, passthrough or dfs
  base = \"trunk.safetensors\"    # the common ancestor, for methods on deltas
  density = 0.5                 # share of each delta that is kept

  [[models]]
  path = \"reasoning.safetensors\"
  weight = 0.6

  [[models]]
  path = \"memory.safetensors\"
  weight = 0.4

  [[overrides]]                 # other numbers for some tensors
  tensors = \"embedding.*\"
  weights = [1.0, 0.0]

Every key is in docs/merging.md. Tensors are read one at a time: memory does not grow with the
number of tensors.

Examples:
  forge-train merge recipe.toml
  forge-train merge recipe.toml --json";

/// Longest recipe read.
const MAX_RECIPE: u64 = 1 << 20;

/// Merges .safetensors files of one shape by a recipe.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The recipe, TOML
    recipe: PathBuf,
    /// Print one JSON document about what was written
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(args: &Args) -> Outcome {
    let path = &args.recipe;
    let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
    if length > MAX_RECIPE {
        let what = format!("`{}` has {length} bytes; a recipe has at most {MAX_RECIPE}", path.display());
        return Err(Error::Usage { what, hint: "name the recipe, not a model".into() }.into());
    }
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let recipe = Recipe::parse(&text, path)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let done = merge(&recipe, directory)?;
    let output = directory.join(&recipe.output);
    if args.json {
        return print_json(&json!({
            "schema": 1,
            "output": output,
            "method": recipe.method,
            "models": done.models,
            "tensors": done.tensors,
            "parameters": done.parameters,
            "bytes": done.bytes,
        }));
    }
    say(&format!(
        "merged {} models into `{}`: {} tensors, {} parameters, {}",
        done.models,
        output.display(),
        done.tensors,
        count(done.parameters),
        size(done.bytes),
    ));
    Ok(())
}
