//! How fast files are checked and rows streamed, for `docs/results.md`:
//! `cargo test --release -p forge-formats --features std --test speed -- --ignored --nocapture`

mod common;

use std::hint::black_box;
use std::time::Instant;

use forge_formats::Matrix;
use forge_formats::codec::encode::{Simple, encode, pack};
use forge_formats::header::{crc32, crc32_by_table};

/// The least seconds of many runs: other work on the machine only adds.
fn least(mut run: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut least = f64::MAX;
    while begun.elapsed().as_secs_f64() < 1.0 {
        let start = Instant::now();
        run();
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

#[test]
#[ignore = "prints figures"]
fn speed() {
    let (rows, cols) = (256, 512);
    for (codec, zeros) in [
        (Simple::F32, 0.3),
        (Simple::F16, 0.3),
        (Simple::Int8Row, 0.3),
        (Simple::Ternary2b, 0.3),
        (Simple::Ternary5x8, 0.3),
        (Simple::TernaryRans, 0.3),
        (Simple::TernaryRans, 0.6),
        (Simple::TernaryRans, 0.9),
        (Simple::TernarySparse, 0.6),
        (Simple::TernarySparse, 0.9),
    ] {
        let q = common::trits(3, rows * cols, zeros);
        let payload = match codec {
            Simple::F32 | Simple::F16 => encode(codec, rows, cols, &common::values(3, rows * cols)),
            _ => pack(codec, cols, &q, &vec![1.0; rows]),
        };
        let shape = [rows as u32, cols as u32];
        let check = least(|| {
            black_box(Matrix::new(codec.into(), shape, black_box(&payload))).unwrap();
        });
        let m = Matrix::new(codec.into(), shape, &payload).unwrap();
        let mut tile = vec![0; 16 * m.packed_2b_bytes()];
        let pack = least(|| {
            (0..rows).step_by(16).for_each(|r| m.pack_rows_2b(r, black_box(&mut tile)));
        });
        let bytes = payload.len() as f64;
        let n = (rows * cols) as f64;
        println!(
            "{codec:?}, P0 {zeros}: {:.3} bits a weight; checked at {:.2} GB/s, {:.2} ns a weight; packed in {:.2} ns a weight",
            bytes * 8.0 / n,
            bytes / check / 1e9,
            check / n * 1e9,
            pack / n * 1e9,
        );
    }
    let bytes = vec![0x5Au8; 1 << 17];
    for (name, crc) in [("crc32", crc32 as fn(&[u8]) -> u32), ("crc32 by table", crc32_by_table)] {
        let seconds = least(|| {
            black_box(crc(black_box(&bytes)));
        });
        println!("{name}: {:.2} GB/s", bytes.len() as f64 / seconds / 1e9);
    }
}
