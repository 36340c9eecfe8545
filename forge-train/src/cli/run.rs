//! `forge-train run`: one prompt, one answer.

use std::path::PathBuf;

use super::model::{self, Generation};
use super::output::{Outcome, print, print_json};

const EXAMPLES: &str = "\
Examples:
  forge-train run model.forge \"dim the bedroom lights to 20\"
  forge-train run model.forge \"what is 12 plus 30\" --json
  forge-train run model.forge \"lights, please\" --constrained=call
  forge-train run model.forge \"Once upon\" --plain --temperature 0.8 --seed 7";

/// Answers one prompt.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The .forge file
    model: PathBuf,
    /// What is said to the model
    prompt: String,
    #[command(flatten)]
    generation: Generation,
    /// Print one JSON document with everything that was written
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(args: &Args) -> Outcome {
    let bytes = model::read(&args.model)?;
    let model = model::parse(&args.model, &bytes)?;
    let answer = model::answer(&model, &args.prompt, &args.generation)?;
    if args.json {
        print_json(&answer.json())
    } else {
        print(&format!("{}\n", answer.text(&args.generation)))
    }
}
