//! Replays the golden cases and prints, a line a case, the ids generated and the CRC-32 of all logits.
//! `check.sh` compares them with what the host committed.
#![no_std]
#![no_main]

use cortex_m::singleton;
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprint, hprintln};
use forge_runtime::{Model, Result};
use panic_semihosting as _;

#[path = "../../../../tests/src/replay.rs"]
mod replay;

/// A line of `golden.tsv` with its model.
struct Case {
    name: &'static str,
    prompt: &'static [u16],
    seed: Option<u64>,
    generated: usize,
    file: &'static [u8],
}

static CASES: &[Case] = include!(concat!(env!("OUT_DIR"), "/cases.rs"));
/// Words of memory, enough for the largest case.
const MEMORY: usize = 256 * 1024;
/// Most ids a case generates.
const GENERATED: usize = 64;

#[entry]
fn main() -> ! {
    let memory = singleton!(: [u32; MEMORY] = [0; MEMORY]).expect("main runs once");
    let mut status = debug::EXIT_SUCCESS;
    for case in CASES {
        if let Err(error) = run(case, bytemuck::cast_slice_mut(memory)) {
            hprintln!("error: {}: {}", case.name, error);
            status = debug::EXIT_FAILURE;
        }
    }
    debug::exit(status);
    loop {
        cortex_m::asm::wfi();
    }
}

fn run(case: &Case, memory: &mut [u8]) -> Result<()> {
    let model = Model::parse(case.file)?;
    model.file().verify()?;
    let mut buffer = [0; GENERATED];
    let generated = &mut buffer[..case.generated];
    let crc = replay::replay(&model, memory, case.prompt, case.seed, generated)?;
    hprint!("{}\t", case.name);
    for (i, token) in generated.iter().enumerate() {
        hprint!("{}{}", if i > 0 { "," } else { "" }, token);
    }
    hprintln!("\t{:08x}", crc);
    Ok(())
}
