//! How near the entropy the ternary codecs are, and why gaps are coded as they are. For the tables of `docs/codecs.md`:
//! `cargo test --release -p forge-formats --test rates -- --ignored --nocapture`

mod common;

use common::trits;
use forge_formats::codec::encode::{Simple, pack};

/// Bits a weight of the rows and their directory, without the scales.
fn bits(codec: Simple, cols: usize, q: &[i8]) -> f64 {
    (pack(codec, cols, q, &vec![1.0; q.len() / cols]).len() - 2 * q.len() / cols) as f64 * 8.0
        / q.len() as f64
}

fn entropy(q: &[i8]) -> f64 {
    let share = |t: i8| q.iter().filter(|x| **x == t).count() as f64 / q.len() as f64;
    [-1, 0, 1].map(share).into_iter().filter(|p| *p > 0.0).map(|p| -p * p.log2()).sum()
}

#[test]
fn rates_are_near_the_entropy() {
    for (zeros, cols) in [(0.33f32, 512), (0.5, 512), (0.7, 512), (0.9, 512), (0.5, 128)] {
        let q = trits(7, cols * 512, zeros);
        let (rans, h) = (bits(Simple::TernaryRans, cols, &q), entropy(&q));
        // A row's directory entry and its last byte cost a byte on average, and its state about as much.
        let overhead = 17.0 / cols as f64;
        assert!(rans > h && rans < h * 1.005 + overhead, "P0 {zeros}, {cols} columns: {rans} against {h}");
    }
    for zeros in [0.8f32, 0.9, 0.95] {
        let q = trits(8, 512 * 512, zeros);
        let (sparse, h) = (bits(Simple::TernarySparse, 512, &q), entropy(&q));
        assert!(sparse > h && sparse < h * 1.02 + 14.0 / 512.0, "P0 {zeros}: {sparse} against {h}");
    }
    // Negative control: trits that follow each other have less entropy than these codecs can know of.
    let same = vec![1i8; 512 * 8];
    assert!(bits(Simple::TernaryRans, 512, &same) > entropy(&same) + 0.04);
}

#[test]
#[ignore = "prints figures"]
fn table_of_rates() {
    println!("| P0 | columns | entropy | Ternary5x8 | TernaryRans | TernarySparse |");
    for zeros in [0.33f32, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95] {
        for cols in [128, 512] {
            let q = trits(7, cols * 1024, zeros);
            let [fixed, rans, sparse] = [Simple::Ternary5x8, Simple::TernaryRans, Simple::TernarySparse]
                .map(|codec| bits(codec, cols, &q));
            println!("| {zeros} | {cols} | {:.3} | {fixed:.3} | {rans:.3} | {sparse:.3} |", entropy(&q));
        }
    }
}

/// Bytes of a row coded with frequencies of `scale` bits and states of `low + 8`, the last `held` trits in the state.
fn coded(codes: &[usize], sizes: [u64; 3], scale: u32, low: u32, held: usize) -> u32 {
    let starts = [0, sizes[0], sizes[0] + sizes[1]];
    let (coded, last) = codes.split_at(codes.len() - held);
    let mut state = (1 << low) + last.iter().fold(0, |v, code| v * 3 + *code as u64);
    let mut bytes = (low + 8).div_ceil(8);
    for code in coded.iter().rev() {
        while state >= sizes[*code] << (low + 8 - scale) {
            (state, bytes) = (state >> 8, bytes + 1);
        }
        state = ((state / sizes[*code]) << scale) + state % sizes[*code] + starts[*code];
    }
    bytes
}

#[test]
#[ignore = "prints figures"]
fn table_of_states() {
    println!("| P0 | columns | entropy | 12 bits, 31 | 12 bits, 24 | 8 bits, 16 | 8 bits, 16, five trits |");
    for (zeros, cols) in [(0.33f32, 128), (0.5, 128), (0.7, 128), (0.5, 512), (0.7, 512)] {
        let q = trits(7, cols * 1024, zeros);
        let count = |trit: i8| q.iter().filter(|t| **t == trit).count() as u64;
        let row = |scale: u32, low: u32, held: usize| {
            let share = |trit| (count(trit) << scale) / q.len() as u64;
            let sizes = [share(-1), (1 << scale) - share(-1) - share(1), share(1)];
            let codes: Vec<usize> = q.iter().map(|t| (t + 1) as usize).collect();
            let bytes: u32 = codes.chunks(cols).map(|row| coded(row, sizes, scale, low, held)).sum();
            f64::from(bytes) * 8.0 / q.len() as f64
        };
        let [a, b, c, d] = [row(12, 23, 0), row(12, 16, 0), row(8, 8, 0), row(8, 8, 5)];
        println!("| {zeros} | {cols} | {:.3} | {a:.3} | {b:.3} | {c:.3} | {d:.3} |", entropy(&q));
    }
}

/// Zeros before each trit that is not 0.
fn gaps(q: &[i8]) -> Vec<u64> {
    let mut gaps = vec![0];
    for trit in q {
        match trit {
            0 => *gaps.last_mut().unwrap() += 1,
            _ => gaps.push(0),
        }
    }
    gaps
}

/// Bits of a gap in the code of Golomb: a unary quotient, a remainder in truncated binary.
fn golomb(gap: u64, m: u64) -> u64 {
    let long = u64::from(m.next_power_of_two().trailing_zeros());
    let short = u64::from(gap % m < m.next_power_of_two() - m);
    gap / m + 1 + long - short
}

/// Bits of a gap in the gamma code of Elias.
fn gamma(gap: u64) -> u64 {
    2 * u64::from((gap + 1).ilog2()) + 1
}

/// Bits of a gap in fields of `width` bits, the largest value meaning that the gap goes on.
fn fields(gap: u64, width: u64) -> u64 {
    width * (gap / ((1 << width) - 1) + 1)
}

#[test]
#[ignore = "prints figures"]
fn table_of_gap_codes() {
    println!("| P0 | entropy | Rice | Golomb | Elias gamma | fields |");
    for zeros in [0.8f32, 0.9, 0.95] {
        let q = trits(9, 1 << 20, zeros);
        let gaps = gaps(&q);
        let per_weight = |code: &dyn Fn(u64) -> u64| {
            // One bit more for the sign.
            gaps.iter().map(|gap| code(*gap) + 1).sum::<u64>() as f64 / q.len() as f64
        };
        let best = |codes: &mut dyn Iterator<Item = f64>| codes.fold(f64::MAX, f64::min);
        let rice = best(&mut (0..8).map(|k| per_weight(&|gap| golomb(gap, 1 << k))));
        let all = best(&mut (1..64).map(|m| per_weight(&|gap| golomb(gap, m))));
        let fixed = best(&mut (1..9).map(|width| per_weight(&|gap| fields(gap, width))));
        let h = entropy(&q);
        println!("| {zeros} | {h:.4} | {rice:.4} | {all:.4} | {:.4} | {fixed:.4} |", per_weight(&gamma));
    }
}
