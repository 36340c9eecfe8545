//! A `.forge` model in a Rust program: read the file, lend the model memory, ask.
//!
//! ```sh
//! cargo run --release -p forge-embed -- model.forge "dim the bedroom lights to 20"
//! ```

use std::error::Error;
use std::process::ExitCode;

use forge_runtime::generate::prompt;
use forge_runtime::{Generator, Model, Sampler, Session, Workspace, call};

/// Most tokens in an answer.
const MAX_TOKENS: usize = 64;

/// The answer to `text`: a tool call as JSON, anything else as it is.
fn answer(file: &[u8], text: &str) -> Result<String, Box<dyn Error>> {
    // A view of the bytes, wherever they lie: nothing is copied. `verify` looks for damage in transit.
    let model = Model::parse(file)?;
    model.file().verify()?;

    // All the memory it will ever use, to the byte.
    let mut memory = Workspace::new(&model);
    let session = Session::new(&model, memory.bytes())?;

    let tokenizer = model.tokenizer();
    let mut tokens = vec![0; text.len() + 3];
    let len = prompt(&tokenizer, None, text.as_bytes(), &mut tokens)?;

    let mut generator = Generator::new(session, Sampler::greedy(), tokenizer.control("<eos>")?);
    let mut completion = [0; MAX_TOKENS];
    let count = generator.complete(&tokens[..len], &mut completion)?;

    let mut out = String::new();
    call::render(&tokenizer, &completion[..count], &mut out)?;
    Ok(out)
}

fn main() -> ExitCode {
    let [_, path, text] = &std::env::args().collect::<Vec<_>>()[..] else {
        eprintln!("usage: forge-embed MODEL.forge PROMPT");
        return ExitCode::from(2);
    };
    let result = std::fs::read(path).map_err(Into::into).and_then(|file| answer(&file, text));
    match result {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {path}: {error}");
            ExitCode::from(2)
        }
    }
}
