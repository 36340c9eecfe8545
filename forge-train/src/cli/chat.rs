//! `forge-train chat`: a prompt a line, an answer a line.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use forge_train::error::Error;

use super::model::{self, Generation};
use super::output::{Outcome, print, say};

const EXAMPLES: &str = "\
Every line is a prompt of its own: the models of this project are trained on single turns.
An empty line is skipped; `/quit` or the end of the input ends the conversation.

Examples:
  forge-train chat model.forge
  forge-train chat model.forge --think 0
  forge-train chat model.forge --temperature 0.7 < prompts.txt > answers.txt";

/// Answers a prompt a line.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The .forge file
    model: PathBuf,
    #[command(flatten)]
    generation: Generation,
}

pub(crate) fn main(args: &Args) -> Outcome {
    let bytes = model::read(&args.model)?;
    let model = model::parse(&args.model, &bytes)?;
    let mut input = std::io::stdin().lock();
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        say("one prompt a line; /quit to leave");
    }
    loop {
        if terminal {
            // A prompt that cannot be shown is no reason to stop.
            let _ = write!(std::io::stderr(), "> ");
        }
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line).map_err(Error::io("read", "stdin"))?;
        let text = String::from_utf8_lossy(&line);
        match (read, text.trim()) {
            (0, _) | (_, "/quit") => return Ok(()),
            (_, "") => {}
            (_, prompt) => {
                let answer = model::answer(&model, prompt, &args.generation)?;
                print(&format!("{}\n", answer.text(&args.generation)))?;
            }
        }
    }
}
