//! `compare inference`: this runtime and its peers in one run, in turn, on the same shapes.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::contestant::{Contestant, Speeds, TOKENS};
use super::ours::{Ours, model_file};
use super::peer::Peer;
use super::shape::{Floor, Shape};
use super::{Peers, report};
use crate::limits::{Unit, int8_peak, read_bandwidth};
use crate::stats::Summary;

/// Options of `compare inference`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Write the JSON into a file too
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Shapes to compare
    #[arg(long, value_delimiter = ',', default_value = "25M,25Mq,2M,2Mq")]
    shapes: Vec<String>,
    /// Numbers of threads to compare
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Times every runtime has its turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Runs a turn
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Our kernels to compare: best, portable, sse41, avx2, avx512 …; those of other machines are left out
    #[arg(long, value_delimiter = ',', default_value = "best,avx2")]
    isa: Vec<String>,
    #[command(flatten)]
    peers: Peers,
}

/// One runtime's result on a shape.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    /// Runtime and weight format.
    pub label: String,
    /// Whether it is this project's.
    pub ours: bool,
    /// The instruction set of `floor`.
    pub isa: String,
    /// Threads that took part, where it is told.
    pub threads: Option<usize>,
    /// Tokens a second of generating.
    pub decode: Option<Summary>,
    /// Tokens a second of reading a prompt.
    pub prefill: Option<Summary>,
    /// Speed over that of the fastest peer.
    pub decode_over_best_peer: Option<f64>,
    /// Likewise of the prompt.
    pub prefill_over_best_peer: Option<f64>,
    /// The least time over the time taken.
    pub decode_of_floor: Option<f64>,
    /// The same, when only the weights are read and not the keys and values before a token.
    pub decode_of_weights_floor: Option<f64>,
    /// Int8 multiply-accumulates of the blocks' weights over the peak's.
    pub prefill_of_peak: Option<f64>,
    /// What the shares are of.
    pub floor: Floor,
    /// Why it has no result.
    pub error: Option<String>,
}

/// The results of a shape and a number of threads.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    /// Name of the shape.
    pub shape: &'static str,
    /// Number of threads.
    pub threads: usize,
    /// Bytes of weights a token reads.
    pub weight_bytes: u64,
    /// Bytes a second read out of a working set of that size.
    pub bandwidth: Summary,
    /// Name and multiply-accumulates a second of each int8 unit.
    pub peaks: Vec<(&'static str, f64)>,
    /// The runtimes, ours first.
    pub entries: Vec<Entry>,
}

/// All results of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What the processor calls itself.
    pub processor: String,
    /// Tokens of a prompt, and tokens generated.
    pub tokens: usize,
    /// Turns of every runtime.
    pub rounds: usize,
    /// Runs a turn.
    pub repetitions: usize,
    /// A table for each shape and number of threads.
    pub tables: Vec<Table>,
}

/// Runs the comparison and prints it.
///
/// # Errors
/// When an option is wrong, a peer cannot be built, or our own runtime fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let shapes: Vec<Shape> = options.shapes.iter().map(|name| Shape::named(name)).collect::<Result<_>>()?;
    ensure!(options.rounds > 0 && options.repetitions > 0, "at least one round of one repetition is needed");
    ensure!(options.threads.iter().all(|t| *t > 0), "a run needs at least one thread");
    let peers = options.peers.find(&shapes)?;
    let (rounds, repetitions) = (options.rounds, options.repetitions);
    let mut report =
        Report { processor: report::processor(), tokens: TOKENS, rounds, repetitions, tables: Vec::new() };
    if !options.json {
        print!("{}", report::heading(&report));
    }
    for shape in &shapes {
        let file = model_file(shape);
        for threads in &options.threads {
            eprintln!("{}, {threads} threads …", shape.name);
            let table = table(options, shape, *threads, &file, &peers)?;
            if !options.json {
                print!("{}", report::table(&table));
            }
            report.tables.push(table);
        }
    }
    let json = serde_json::to_string_pretty(&report)?;
    if let Some(path) = &options.save {
        std::fs::write(path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.json {
        println!("{json}");
    }
    Ok(())
}

/// A contestant's place in the comparison of a shape.
struct Turn<'c> {
    contestant: Box<dyn Contestant + 'c>,
    ours: bool,
    speeds: Speeds,
    error: Option<String>,
}

impl<'c> Turn<'c> {
    fn new(contestant: impl Contestant + 'c, ours: bool) -> Self {
        Self { contestant: Box::new(contestant), ours, speeds: Speeds::default(), error: None }
    }

    /// One turn, unless it has failed before.
    fn take(&mut self, threads: usize, repetitions: usize) {
        if self.error.is_none() {
            match self.contestant.measure(threads, repetitions) {
                Ok(speeds) => self.speeds.extend(speeds),
                Err(error) => self.error = Some(format!("{error:#}")),
            }
        }
    }
}

/// Compares on one shape: everyone has a turn before anyone has the next, so that what else the machine does
/// meets all alike.
fn table(options: &Options, shape: &Shape, threads: usize, file: &[u8], peers: &[Peer]) -> Result<Table> {
    // What the machine can do at most is the best of several readings: others on it only ever lower one.
    let working_set = shape.weight_bytes() + shape.cache_bytes(TOKENS as u64);
    let bandwidth = read_bandwidth(working_set as usize, threads);
    let units = Unit::all().into_iter().map(|unit| (unit.isa(), int8_peak(unit, threads).max));
    let peaks: Vec<(&'static str, f64)> = units.collect();
    let ours = Ours::all(file, &options.isa)?.into_iter().map(|o| Turn::new(o, true));
    let others = peers.iter().filter(|p| p.shape() == *shape).map(|p| Turn::new(p.clone(), false));
    let mut turns: Vec<Turn<'_>> = ours.chain(others).collect();
    for _ in 0..options.rounds {
        turns.iter_mut().for_each(|turn| turn.take(threads, options.repetitions));
    }
    if let Some(error) = turns.iter().filter(|t| t.ours).find_map(|t| t.error.as_ref()) {
        anyhow::bail!("our own runtime failed: {error}");
    }
    let best = |of: fn(&Speeds) -> &[f64]| {
        let medians = turns.iter().filter(|t| !t.ours).filter_map(|t| Summary::of(of(&t.speeds)));
        medians.map(|s| s.median).max_by(f64::total_cmp)
    };
    let best = (best(|s| &s.decode), best(|s| &s.prefill));
    let entry = |turn: &Turn<'_>| {
        let isa = Unit::of_isa(turn.contestant.isa().unwrap_or_default()).isa();
        let peak = peaks.iter().find(|(name, _)| *name == isa).map_or(f64::INFINITY, |(_, peak)| *peak);
        entry(turn, isa, Floor::new(shape, TOKENS as u64, bandwidth.max, peak), best)
    };
    let entries = turns.iter().map(entry).collect();
    Ok(Table { shape: shape.name, threads, weight_bytes: shape.weight_bytes(), bandwidth, peaks, entries })
}

/// The result of a contestant, given the fastest peer's decode and prefill.
fn entry(turn: &Turn<'_>, isa: &str, floor: Floor, best: (Option<f64>, Option<f64>)) -> Entry {
    let (decode, prefill) = (Summary::of(&turn.speeds.decode), Summary::of(&turn.speeds.prefill));
    let over = |own: Option<Summary>, best: Option<f64>| Some(own?.median / best?);
    let share = |own: Option<Summary>, floor_us: f64| Some(own?.median * floor_us / 1e6);
    Entry {
        label: turn.contestant.label().to_owned(),
        ours: turn.ours,
        threads: turn.speeds.threads,
        isa: isa.to_owned(),
        decode_over_best_peer: over(decode, best.0),
        prefill_over_best_peer: over(prefill, best.1),
        decode_of_floor: share(decode, floor.decode_us()),
        decode_of_weights_floor: share(decode, floor.weights_us.max(floor.operations_us)),
        prefill_of_peak: share(prefill, floor.block_operations_us),
        decode,
        prefill,
        floor,
        error: turn.error.clone(),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    struct Fixed(f64, usize);

    impl Contestant for Fixed {
        fn label(&self) -> &str {
            "fixed"
        }

        fn measure(&mut self, _: usize, repetitions: usize) -> Result<Speeds> {
            if self.1 == 0 {
                bail!("worn out");
            }
            self.1 -= 1;
            Ok(Speeds { decode: vec![self.0; repetitions], ..Speeds::default() })
        }
    }

    #[test]
    fn a_result_stands_beside_the_best_peer_and_the_floor() {
        let shape = Shape::named("2M").expect("it is there");
        let mut turn = Turn::new(Fixed(20_000.0, 2), true);
        (0..2).for_each(|_| turn.take(1, 3));
        let floor = Floor::new(&shape, 128, 200e9, 400e9);
        let entry = entry(&turn, "avx2", floor, (Some(5_000.0), None));
        assert_eq!((entry.decode.map(|d| d.samples), entry.prefill), (Some(6), None));
        assert_eq!((entry.decode_over_best_peer, entry.prefill_over_best_peer), (Some(4.0), None));
        // 0.66 + 0.39 MB of weights and 0.29 MB of cache take 6.7 µs, the products 7.6: of 50 µs a token.
        let share = entry.decode_of_floor.expect("it decodes");
        assert!((share - 7.618_56 / 50.0).abs() < 1e-6, "{share}");
    }

    #[test]
    fn a_failure_ends_a_contestants_turns_and_is_told() {
        let mut turn = Turn::new(Fixed(1.0, 1), false);
        (0..3).for_each(|_| turn.take(1, 1));
        assert_eq!(turn.speeds.decode.len(), 1);
        assert_eq!(turn.error.as_deref(), Some("worn out"));
    }
}
