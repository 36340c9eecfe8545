//! `forge-train eval`: measures a model file through the runtime, or compares two.

mod against;
mod choice;
mod examples;
mod text;

use std::path::PathBuf;

use clap::ArgGroup;

use super::output::Outcome;
use against::Files;

const EXAMPLES: &str = "\
--data: tool prompts are asked as the file was measured when it was made: with the system text
before phase 6, without it once phase 6 has baked it in. `--system` sets it for every example;
`--system \"\"` leaves it out.
--corpus: every token but the first is scored, in blocks that are each read from an empty state.
--questions: {\"question\",\"choices\",\"answer\"} a line; the likeliest choice is the answer.

Examples:
  forge-train eval model.forge --data test.jsonl
  forge-train eval model.forge --data test.jsonl --json | jq .frame_accuracy
  forge-train eval model.forge --corpus text.txt --block 256 --held-out
  forge-train eval model.forge --questions arc.jsonl
  forge-train eval new.forge --against old.forge --data test.jsonl";

/// Measures a model on examples, running text or questions.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = ArgGroup::new("rows").args(["data", "corpus", "questions"]).required(true))]
pub(crate) struct Args {
    /// The .forge file
    model: PathBuf,
    /// Examples to answer, one JSON object a line
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Running text to measure the likelihood of
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// Multiple-choice questions to choose by likelihood, one JSON object a line
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Another .forge file, to compare with on the same rows
    #[arg(long, value_name = "MODEL")]
    against: Option<PathBuf>,
    #[command(flatten)]
    asking: examples::Asking,
    #[command(flatten)]
    cutting: text::Cutting,
    /// Print one JSON document; every figure comes with its 95 % interval
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(args: &Args) -> Outcome {
    let files = Files::read(&args.model, args.against.as_deref())?;
    match (&args.data, &args.corpus, &args.questions) {
        (Some(data), ..) => examples::main(&files, data, &args.asking, args.json),
        (_, Some(corpus), _) => text::main(&files, corpus, &args.cutting, args.json),
        (_, _, Some(questions)) => choice::main(&files, questions, args.json),
        (None, None, None) => unreachable!("one of the group is required"),
    }
}
