//! Counts the instructions a token takes, a line a golden case: name, instructions a token, bytes of memory used.
//! `check.sh` compares them with `instructions.tsv`. QEMU runs one instruction a nanosecond (`-icount shift=0`) and the
//! timer counts at 25 MHz, so the counts are exact to 40 instructions and the same on every run.
#![no_std]
#![no_main]

use cortex_m::Peripherals;
use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::singleton;
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprintln};
use forge_runtime::{Model, Options, Result, Session};
use panic_semihosting as _;

/// A line of `golden.tsv` with its model.
#[expect(dead_code, reason = "shared with the program that replays the cases")]
struct Case {
    name: &'static str,
    prompt: &'static [u16],
    seed: Option<u64>,
    generated: usize,
    file: &'static [u8],
}

static CASES: &[Case] = include!(concat!(env!("OUT_DIR"), "/cases.rs"));
/// Words of memory, enough for the largest case and the painted part beyond it.
const MEMORY: usize = 256 * 1024;
/// Tokens counted.
const TOKENS: u32 = 16;
/// Instructions from one tick of the timer to the next.
const TICK: u32 = 40;
/// What memory holds before it is used.
const PAINT: u32 = 0xA5C3_5A3C;

#[entry]
fn main() -> ! {
    let memory = singleton!(: [u32; MEMORY] = [0; MEMORY]).expect("main runs once");
    let mut timer = Peripherals::take().expect("main runs once").SYST;
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(0x00FF_FFFF);
    timer.clear_current();
    timer.enable_counter();
    let mut status = debug::EXIT_SUCCESS;
    for case in CASES {
        match count(case, memory) {
            Ok((instructions, used)) => hprintln!("{}\t{}\t{}", case.name, instructions, used),
            Err(error) => {
                hprintln!("error: {}: {}", case.name, error);
                status = debug::EXIT_FAILURE;
            }
        }
    }
    debug::exit(status);
    loop {
        cortex_m::asm::wfi();
    }
}

/// Instructions a token, and bytes of memory up to the last one written.
fn count(case: &Case, memory: &mut [u32]) -> Result<(u32, usize)> {
    memory.fill(PAINT);
    let model = Model::parse(case.file)?;
    let options = Options::default();
    let mut session = Session::with(&model, &options, bytemuck::cast_slice_mut(memory))?;
    session.prefill(case.prompt)?;
    let mut ticks = 0u32;
    for token in case.prompt.iter().cycle().take(TOKENS as usize) {
        let begun = SYST::get_current();
        session.step(*token)?;
        // The timer counts down and wraps after 24 bits: after sixteen million ticks, longer than any token here.
        ticks += begun.wrapping_sub(SYST::get_current()) & 0x00FF_FFFF;
    }
    let needed = model.workspace_for(&options);
    let untouched = memory.iter().rev().take_while(|word| **word == PAINT).count();
    let used = (memory.len() - untouched) * 4;
    // The logits lie last, in whole panels of sixteen.
    assert!(used <= needed && needed - used < 64, "{}: {used} bytes used, {needed} stated", case.name);
    Ok((ticks * TICK / TOKENS, used))
}
