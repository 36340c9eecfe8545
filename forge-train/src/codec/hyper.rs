//! Hyper-Compression encoder (Fan et al. 2024, arXiv 2409.00592), K = 2: the nearest node for every pair.
//!
//! Two choices go beyond the released code without changing the bitstream: the side of the square is the one
//! of least error instead of a constant, and each pair takes the ring of least error instead of the one its
//! distance falls in.

use forge_formats::codec::bitstream::BitWriter;
use forge_formats::codec::hyper::{MAX_MAGNITUDE, MIN_SIDE, Nodes, Winding, payload_len, theta_bits, turn};
use forge_formats::codec::{Codec, HyperParams};
use forge_formats::error::Error as FormatError;
use rayon::prelude::*;

use crate::codec::{Encoded, Metric};
use crate::error::{Error, Result};
use crate::weights::Matrix;

/// Pairs that the side of the square is fitted to.
const SAMPLE: usize = 8192;
/// Pairs whose errors are added up before they join the total.
const CHUNK: usize = 512;
/// Sides tried, in standard deviations: first, last, step.
const SIDES: (f32, f32, f32) = (0.5, 10.0, 0.25);
/// Halvings of the step around the best side.
const REFINEMENTS: u32 = 4;

/// Two weights and what errors in them cost.
type Pair = ([f32; 2], [f32; 2]);

/// Encodes a matrix.
///
/// # Errors
/// When the parameters or the weights are out of range.
pub fn encode(p: &HyperParams, matrix: &Matrix, metric: Metric<'_>) -> Result<Encoded> {
    let [rows, cols] = super::shape(matrix.rows, matrix.cols)?;
    payload_len(p, rows, cols).ok_or(FormatError::Codec("hyper"))?;
    let pairs = pairs(matrix, metric.columns(matrix.cols).as_deref());
    let winding = fit(p, &pairs)?;
    let nodes = winding.nodes(p);
    let thetas: Vec<u32> = pairs.par_iter().map(|pair| nearest(p, &winding, &nodes, pair).0).collect();
    let mut bits = BitWriter::default();
    bits.bytes(&winding.to_bytes());
    for row in thetas.chunks(matrix.cols.div_ceil(2)) {
        row.iter().for_each(|theta| bits.put(*theta, theta_bits(p)));
        bits.align();
    }
    Ok(Encoded { codec: Codec::Hyper(*p), payload: bits.finish() })
}

/// The pairs of all rows; an odd row's last weight is paired with a copy of itself that costs nothing.
fn pairs(matrix: &Matrix, importance: Option<&[f32]>) -> Vec<Pair> {
    let weight = |i: usize| match importance {
        _ if i >= matrix.cols => 0.0,
        None => 1.0,
        Some(h) => h[i],
    };
    let row = |r: usize| {
        let row = matrix.row(r);
        let pair = move |i: usize| [row[i], row.get(i + 1).copied().unwrap_or(row[i])];
        (0..matrix.cols).step_by(2).map(move |i| (pair(i), [weight(i), weight(i + 1)]))
    };
    (0..matrix.rows).flat_map(row).collect()
}

/// Centroid, farthest distance, and the side of the square with the least error.
fn fit(p: &HyperParams, pairs: &[Pair]) -> Result<Winding> {
    let mean = |i: usize| pairs.iter().map(|(w, _)| f64::from(w[i])).sum::<f64>() / pairs.len() as f64;
    let centroid = [mean(0) as f32, mean(1) as f32];
    let squares: Vec<f64> =
        pairs.iter().map(|(w, _)| square(w[0] - centroid[0]) + square(w[1] - centroid[1])).collect();
    let far = squares.iter().fold(0.0f64, |far, d| far.max(*d)).sqrt() as f32;
    let deviation = (squares.iter().sum::<f64>() / (2 * pairs.len()) as f64).sqrt() as f32;
    let winding = |sides: f32| {
        let side = (sides * deviation).clamp(MIN_SIDE, MAX_MAGNITUDE);
        Winding { centroid, side, far: far.max(side * 0.5) }
    };
    if !winding(SIDES.1).valid() {
        return Err(Error::Config("weights are too large for Hyper-Compression".into()));
    }
    let sample: Vec<Pair> = pairs.iter().step_by(pairs.len().div_ceil(SAMPLE)).copied().collect();
    let error = |sides: f32| error(p, &winding(sides), &sample);
    let (first, last, mut step) = SIDES;
    let mut best = (error(first), first);
    let mut try_side = |sides: f32| {
        let candidate = (error(sides), sides);
        best = if candidate.0 < best.0 { candidate } else { best };
        best.1
    };
    let mut centre = first;
    for i in 1..=((last - first) / step) as u32 {
        centre = try_side(first + i as f32 * step);
    }
    for _ in 0..REFINEMENTS {
        step *= 0.5;
        try_side(centre - step);
        centre = try_side(centre + step);
    }
    Ok(winding(centre))
}

/// Total error of pairs under a winding.
fn error(p: &HyperParams, winding: &Winding, pairs: &[Pair]) -> f64 {
    let nodes = winding.nodes(p);
    let chunk = |chunk: &[Pair]| chunk.iter().map(|pair| nearest(p, winding, &nodes, pair).1).sum::<f64>();
    let chunks: Vec<f64> = pairs.par_chunks(CHUNK).map(chunk).collect();
    chunks.iter().sum()
}

/// The θ of least error for a pair, and that error. In every ring: the centroid, and in each of the winding's
/// r rows (`n mod r` = 0..r, evenly spaced in x) the node nearest in x.
fn nearest(p: &HyperParams, winding: &Winding, nodes: &Nodes, (pair, weights): &Pair) -> (u32, f64) {
    let (count, turn) = (u32::from(p.nodes), turn(p));
    let cost = |theta: u32| {
        let [x, y] = nodes.decode(theta);
        f64::from(weights[0]) * square(pair[0] - x) + f64::from(weights[1]) * square(pair[1] - y)
    };
    let mut best = (0, cost(0));
    for ring in 0..=u32::from(p.rings) {
        let x = (pair[0] - winding.centroid[0]) / nodes.factor(ring);
        let steps = (x / winding.side + 0.5) * (turn * turn) as f32;
        let rows = (0..turn.min(count)).map(|row| {
            let most = (count - 1 - row) / turn;
            let turns = ((steps - row as f32) / turn as f32).round().clamp(0.0, most as f32) as u32;
            1 + turns * turn + row
        });
        for node in std::iter::once(0).chain(rows) {
            let theta = ring * (count + 1) + node;
            let cost = cost(theta);
            if cost < best.1 {
                best = (theta, cost);
            }
        }
    }
    best
}

fn square(x: f32) -> f64 {
    f64::from(x) * f64::from(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Distortion;
    use crate::codec::reference::{Source, source};
    use forge_formats::codec::bitstream::BitReader;

    const P: HyperParams = HyperParams { nodes: 22, rings: 2 };

    fn sample(rows: usize, cols: usize) -> Matrix {
        Matrix { rows, cols, data: source(Source::Gauss, rows * cols) }
    }

    fn thetas(encoded: &Encoded, rows: usize, cols: usize) -> Vec<u32> {
        let row_bytes = (encoded.payload.len() - 16) / rows;
        let row = |bytes| {
            let mut bits = BitReader::new(bytes);
            (0..cols.div_ceil(2)).map(move |_| bits.take(theta_bits(&P)))
        };
        encoded.payload[16..].chunks(row_bytes).flat_map(row).collect()
    }

    #[test]
    fn every_pair_takes_the_nearest_node_of_all_rings() {
        let matrix = sample(7, 31);
        let encoded = encode(&P, &matrix, Metric::Plain).unwrap();
        let nodes = Winding::read(&encoded.payload).unwrap().nodes(&P);
        for (pair, theta) in pairs(&matrix, None).iter().zip(thetas(&encoded, 7, 31)) {
            let cost = |theta: u32| {
                let [x, y] = nodes.decode(theta);
                square(pair.0[0] - x) + f64::from(pair.1[1]) * square(pair.0[1] - y)
            };
            let least = (0..23 * 3).map(cost).fold(f64::INFINITY, f64::min);
            assert!(cost(theta) <= least * 1.000_001, "θ {theta}: {} {least}", cost(theta));
        }
    }

    #[test]
    fn readers_see_the_encoders_own_reconstruction_to_the_bit() {
        let matrix = sample(4, 9);
        let encoded = encode(&P, &matrix, Metric::Plain).unwrap();
        let decoded = encoded.decode(4, 9).unwrap();
        let Winding { centroid, side, far } = Winding::read(&encoded.payload).unwrap();
        let half = side / 2.0;
        let stretch = (far - half) / (2.0 * half);
        for (r, row) in thetas(&encoded, 4, 9).chunks(5).enumerate() {
            let pair = |theta: &u32| {
                let (ring, node) = (theta / 23, theta % 23);
                let factor = 1.0 + ring as f32 * stretch;
                let n = node.saturating_sub(1);
                let offset = [n as f32 * (side / 25.0) - half, (n % 5) as f32 * (side / 5.0) - half];
                let offset = if node == 0 { [0.0; 2] } else { offset };
                [centroid[0] + offset[0] * factor, centroid[1] + offset[1] * factor]
            };
            let expected: Vec<u32> = row.iter().flat_map(pair).map(f32::to_bits).take(9).collect();
            assert_eq!(decoded.row(r).iter().map(|w| w.to_bits()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn importance_and_rings_lower_the_error_they_are_for() {
        let matrix = Matrix { rows: 64, cols: 64, data: source(Source::Student, 4096) };
        let relative = |p: &HyperParams, fit, metric| {
            let encoded = encode(p, &matrix, fit).unwrap();
            Distortion::of(&matrix, &encoded, metric).unwrap().relative()
        };
        let importance: Vec<f32> = (0..64).map(|c| if c % 2 == 0 { 25.0 } else { 1.0 }).collect();
        let columns = Metric::Columns(&importance);
        let flat = HyperParams { nodes: 22, rings: 0 };
        assert!(relative(&flat, columns, columns) < relative(&flat, Metric::Plain, columns));
        assert!(relative(&P, Metric::Plain, Metric::Plain) < relative(&flat, Metric::Plain, Metric::Plain));
    }

    #[test]
    fn degenerate_matrices_are_encoded() {
        let constant = Matrix { rows: 2, cols: 3, data: vec![0.5; 6] };
        let decoded = encode(&P, &constant, Metric::Plain).unwrap().decode(2, 3).unwrap();
        assert_eq!(decoded, constant);
        let zeros = Matrix::zeros(2, 4);
        assert_eq!(encode(&P, &zeros, Metric::Plain).unwrap().decode(2, 4).unwrap(), zeros);
        let huge = Matrix { rows: 1, cols: 2, data: vec![1e30, -1e30] };
        assert!(encode(&P, &huge, Metric::Plain).is_err());
        assert!(encode(&HyperParams { nodes: 0, rings: 0 }, &zeros, Metric::Plain).is_err());
    }
}
