//! What this machine can do at most: bytes read a second, and int8 multiply-accumulates a second.
//!
//! A token needs every weight read once and every weight multiplied once, so neither rate can be beaten by any
//! runtime; `docs/results.md` states the runtime's speed as a share of them.

mod peak;
mod read;
mod sgemm;

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

pub(crate) use peak::Unit;
pub(crate) use read::Reader;
pub(crate) use sgemm::sgemm_peak;

use crate::stats::Summary;

/// Bytes of a cache line.
const LINE: usize = 64;
/// Measurements of one rate.
const ROUNDS: usize = 7;
/// How long one of them takes, about.
const SLICE: Duration = Duration::from_millis(15);

/// Bytes a second that `threads` threads together read out of `bytes` bytes they share out among themselves, over
/// and over, so that they come from the smallest cache they fit into.
pub(crate) fn read_bandwidth(bytes: usize, threads: usize) -> Summary {
    let reader = Reader::best();
    let each = (bytes / threads).next_multiple_of(Reader::STEP);
    let work = |_: usize| {
        let buffer = vec![1u8; each + LINE];
        // Loads that straddle two cache lines take twice as long.
        let start = buffer.as_ptr().align_offset(LINE).min(LINE);
        move |times: u64| {
            for _ in 0..times {
                black_box(reader.read(black_box(&buffer[start..start + each])));
            }
        }
    };
    rate(threads, (each * threads) as f64, &work)
}

/// Int8 multiply-accumulates a second of `threads` threads together, in registers alone.
pub(crate) fn int8_peak(unit: Unit, threads: usize) -> Summary {
    rate(threads, unit.macs(), &|_| move |times: u64| unit.run(times))
}

/// Runs the same work on all threads at once, and says how much of it a second they do together. `work` makes a
/// thread's own state; `amount` is what one turn of all threads does.
fn rate<W: FnMut(u64)>(threads: usize, amount: f64, work: &(dyn Fn(usize) -> W + Sync)) -> Summary {
    let times = turns(&mut work(0));
    let barrier = Barrier::new(threads);
    let run = |index| {
        let mut own = work(index);
        own(1);
        (0..ROUNDS).map(|_| timed(&barrier, || own(times))).collect::<Vec<f64>>()
    };
    let run = &run;
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|i| scope.spawn(move || run(i))).collect();
        let mut slowest = run(0);
        for other in others {
            let seconds = other.join().expect("the measuring thread does not panic");
            slowest.iter_mut().zip(seconds).for_each(|(s, o)| *s = s.max(o));
        }
        slowest.iter().map(|s| amount * times as f64 / s).collect()
    });
    Summary::of(&rates).expect("there are rounds")
}

/// How many turns fill a slice of time; the turns that find it out also warm the caches and the clock.
fn turns(work: &mut impl FnMut(u64)) -> u64 {
    let mut times = 1;
    loop {
        let start = Instant::now();
        work(times);
        let taken = start.elapsed();
        if taken >= SLICE / 4 {
            return ((times as f64) * SLICE.as_secs_f64() / taken.as_secs_f64()).max(1.0) as u64;
        }
        times *= 2;
    }
}

/// Seconds of one piece of work that all threads begin together.
fn timed(barrier: &Barrier, work: impl FnOnce()) -> f64 {
    barrier.wait();
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_read_faster_than_memory() {
        let near = read_bandwidth(16 << 10, 1).max;
        let far = read_bandwidth(256 << 20, 1).max;
        assert!(near > 1.2 * far && far > 1e8, "{near} {far}");
    }

    #[test]
    fn every_unit_of_this_machine_multiplies() {
        for unit in Unit::all() {
            let peak = int8_peak(unit, 1).max;
            assert!((1e8..1e13).contains(&peak), "{unit:?} {peak}");
        }
    }
}
