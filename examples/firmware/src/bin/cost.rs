//! What a token costs: instructions, counted by QEMU, on the portable kernels and on those of this processor, and
//! whether both give the same logits. The model is that of the example, `FORGE_MODEL`.
#![no_std]
#![no_main]

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::singleton;
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprintln};
use forge_runtime::{Kernels, Model, Options, Result, Session};
use panic_semihosting as _;

static MODEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/model.forge"));
/// Words of memory for the session.
const MEMORY: usize = 768 * 1024;
/// Tokens read.
const TOKENS: u16 = 24;
/// With `-icount shift=0` an instruction takes 1 ns, and the machine's clock of 25 MHz ticks every 40.
const PER_TICK: u32 = 40;

#[entry]
fn main() -> ! {
    let memory = singleton!(: [u32; MEMORY] = [0; MEMORY]).expect("main runs once");
    let mut clock = cortex_m::Peripherals::take().expect("main runs once").SYST;
    clock.set_clock_source(SystClkSource::Core);
    clock.set_reload(0x00FF_FFFF);
    clock.clear_current();
    clock.enable_counter();
    let mut results = [0u32; 4];
    for (kernels, result) in Kernels::all().zip(&mut results) {
        match run(kernels, bytemuck::cast_slice_mut(memory)) {
            Ok(sum) => *result = sum,
            Err(error) => {
                hprintln!("error: {}", error);
                debug::exit(debug::EXIT_FAILURE);
            }
        }
    }
    let same = results.iter().zip(Kernels::all()).all(|(r, _)| r == &results[0]);
    hprintln!("{}", if same { "same bits" } else { "error: different bits" });
    debug::exit(if same { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    loop {
        cortex_m::asm::wfi();
    }
}

/// Reads tokens and prints what the last cost; returns a checksum of all logits.
fn run(kernels: &'static Kernels, memory: &mut [u8]) -> Result<u32> {
    let model = Model::parse(MODEL)?;
    let options = Options::device().kernels(kernels);
    let mut session = Session::with(&model, &options, memory)?;
    let (mut sum, mut spent) = (0u32, 0);
    for token in 0..TOKENS {
        let start = SYST::get_current();
        let logits = session.step(token + 7)?;
        // The clock counts down.
        spent = start.wrapping_sub(SYST::get_current()) & 0x00FF_FFFF;
        sum = logits.iter().fold(sum, |sum, l| sum.rotate_left(5) ^ l.to_bits());
    }
    hprintln!("{}: {} instructions for token {}", kernels.name(), spent * PER_TICK, TOKENS);
    Ok(sum)
}
