//! The processor's kernels against the portable ones on random matrices and inputs: equal bits. Prints the number of
//! cases and how many instructions each codec's products take on either.
#![no_std]
#![no_main]

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprintln};
use forge_formats::Matrix;
use forge_formats::codec::Codec;
use forge_runtime::Kernels;
use forge_runtime::kernels::PORTABLE;
use panic_semihosting as _;

const CODECS: [Codec; 3] = [Codec::Int8Row, Codec::Ternary2b, Codec::Ternary5x8];
/// Cases of each codec.
const CASES: usize = 1000;
const ROWS: usize = 100;
const COLS: usize = 150;
/// See `cost.rs`.
const PER_TICK: u32 = 40;

#[entry]
fn main() -> ! {
    let mut clock = cortex_m::Peripherals::take().expect("main runs once").SYST;
    clock.set_clock_source(SystClkSource::Core);
    clock.set_reload(0x00FF_FFFF);
    clock.clear_current();
    clock.enable_counter();
    let best = Kernels::best();
    let (mut cases, mut wrong, mut moved) = (0, 0, 0);
    let mut noise = Noise(1);
    for codec in CODECS {
        for _ in 0..CASES {
            let shape = [1 + noise.below(ROWS), 1 + noise.below(COLS)];
            let mut case = Case::new(&mut noise, codec, shape);
            let [want, got] = [case.product(&PORTABLE).0, case.product(best).0];
            wrong += usize::from(want.map(f32::to_bits) != got.map(f32::to_bits));
            // Negative control: another input gives another product.
            case.x[0] += 1.0;
            moved += usize::from(case.product(best).0 != want);
            cases += 1;
        }
        let case = Case::new(&mut noise, codec, [ROWS, COLS]);
        let [portable, own] = [case.product(&PORTABLE).1, case.product(best).1];
        let macs = (ROWS * COLS) as u32;
        hprintln!(
            "{}: {} instructions a hundred products, portable {}",
            codec.name(),
            100 * own / macs,
            100 * portable / macs
        );
    }
    let passed = best.name() == "dsp" && wrong == 0 && moved * 2 > cases;
    hprintln!("{}: {} cases, {} wrong, {} moved by their input", best.name(), cases, wrong, moved);
    debug::exit(if passed { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    loop {
        cortex_m::asm::wfi();
    }
}

/// A matrix with an input.
struct Case {
    codec: Codec,
    shape: [usize; 2],
    payload: [u8; ROWS * COLS + 2 * ROWS],
    len: usize,
    x: [f32; COLS],
}

impl Case {
    fn new(noise: &mut Noise, codec: Codec, shape: [usize; 2]) -> Self {
        let [rows, cols] = shape;
        let mut case = Self { codec, shape, payload: [0; ROWS * COLS + 2 * ROWS], len: 0, x: [0.0; COLS] };
        // All of one sign now and then: the largest sums there are.
        let extreme = noise.below(4) == 0;
        for _ in 0..rows {
            let mut left = cols;
            while left > 0 {
                let n = left.min(match codec {
                    Codec::Int8Row => 1,
                    Codec::Ternary2b => 4,
                    _ => 5,
                });
                let byte = weights(noise, codec, n, extreme);
                case.push(byte);
                left -= n;
            }
        }
        for _ in 0..rows {
            // An f16 between 2^-14 and 2.
            let bits = 0x0400 + noise.below(0x3C00) as u16;
            bits.to_le_bytes().iter().for_each(|byte| case.push(*byte));
        }
        let strange = noise.below(8) == 0;
        for x in case.x.iter_mut().take(cols) {
            *x = match noise.below(8) {
                0 if strange => [f32::NAN, f32::INFINITY, -3e38, 1e-40][noise.below(4)],
                _ if extreme => 2.0,
                _ => noise.below(1 << 20) as f32 / 1e5 - 5.0,
            };
        }
        case
    }

    fn push(&mut self, byte: u8) {
        self.payload[self.len] = byte;
        self.len += 1;
    }

    /// The product, and the instructions it took.
    fn product(&self, kernels: &Kernels) -> ([f32; ROWS], u32) {
        let shape = self.shape.map(|n| n as u32);
        let matrix = Matrix::new(self.codec, shape, &self.payload[..self.len]).expect("valid weights");
        let mut buffer = [0xFFFF_FFFF; (COLS + 80) / 2];
        let mut y = [0.0; ROWS];
        let start = SYST::get_current();
        kernels.multiply_rows(&matrix, &self.x[..self.shape[1]], &mut buffer, &mut y[..self.shape[0]]);
        let spent = start.wrapping_sub(SYST::get_current()) & 0x00FF_FFFF;
        (y, spent * PER_TICK)
    }
}

/// A byte that holds `n` weights, what is beyond them 0.
fn weights(noise: &mut Noise, codec: Codec, n: usize, extreme: bool) -> u8 {
    let mut trit = |i: usize| {
        if i >= n {
            1
        } else if extreme {
            2
        } else {
            noise.below(3)
        }
    };
    match codec {
        Codec::Int8Row if extreme => 127,
        Codec::Int8Row => (noise.below(255) as i32 - 127) as u8,
        Codec::Ternary2b => (0..4).map(|i| trit(i) << (2 * i)).sum::<usize>() as u8,
        _ => ((0..5).fold(0, |v, i| 3 * v + trit(i)) * 256).div_ceil(243) as u8,
    }
}

/// SplitMix64.
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((((z ^ (z >> 31)) >> 32) * n as u64) >> 32) as usize
    }
}
