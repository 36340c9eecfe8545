//! A `.forge` model on a Cortex-M4: the weights stay in flash and are executed there, memory is one static array,
//! and there is no heap.
//!
//! ```sh
//! FORGE_MODEL=../../model.forge cargo run --release
//! ```
#![no_std]
#![no_main]

use cortex_m::singleton;
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprint, hprintln};
use forge_runtime::generate::prompt;
use forge_runtime::{Generator, Model, Result, Sampler, Session, Thinking, call};
use panic_semihosting as _;

/// In flash, because it is constant data.
static MODEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/model.forge"));
/// What is asked.
const PROMPT: &str = "dim the bedroom lights to 20";
/// Most tokens of a thought before the answer.
const THINK: u32 = 24;
/// Words of memory for the session; `Model::workspace` says how many bytes a model needs.
const MEMORY: usize = 256 * 1024;

#[entry]
fn main() -> ! {
    let memory = singleton!(: [u32; MEMORY] = [0; MEMORY]).expect("main runs once");
    match answer(bytemuck::cast_slice_mut(memory)) {
        Ok(()) => debug::exit(debug::EXIT_SUCCESS),
        Err(error) => {
            hprintln!("error: {}", error);
            debug::exit(debug::EXIT_FAILURE);
        }
    }
    loop {
        cortex_m::asm::wfi();
    }
}

fn answer(memory: &mut [u8]) -> Result<()> {
    let model = Model::parse(MODEL)?;
    hprintln!("model: {} bytes of flash, {} bytes of memory", MODEL.len(), model.workspace());

    let tokenizer = model.tokenizer();
    let mut tokens = [0; PROMPT.len() + 3];
    let len = prompt(&tokenizer, None, PROMPT.as_bytes(), &mut tokens)?;

    let session = Session::new(&model, memory)?;
    let thinking = Thinking::new(&tokenizer, THINK)?;
    let end = tokenizer.control("<eos>")?;
    let mut generator = Generator::new(session, Sampler::greedy(), end).thinking(thinking);
    let mut completion = [0; 64];
    let count = generator.complete(&tokens[..len], &mut completion)?;

    hprint!("{} -> ", PROMPT);
    // Printing over semihosting does not fail.
    let _ = call::render(&tokenizer, &completion[..count], &mut Console);
    hprintln!();
    Ok(())
}

/// The debugger's console.
struct Console;

impl core::fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        hprint!("{}", text);
        Ok(())
    }
}
