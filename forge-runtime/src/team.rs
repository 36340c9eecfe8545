//! One session computed by several threads, each some rows of every matrix and some heads.
//!
//! Every member runs the whole program on memory of its own and computes only its part of each product; four times a
//! block the members give each other their parts. Nothing a member computes depends on how many they are, so the
//! results are those of one thread, to the bit.
#![forbid(unsafe_code)]

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::vec::Vec;

use forge_formats::ModelConfig;

use crate::error::{Error, Result};
use crate::kernels::PANEL_ROWS;
use crate::member::{Exchange, Member};
use crate::model::Model;
use crate::options::Options;
use crate::session::Session;
use crate::workspace::Workspace;

/// Turns a waiting member makes before it lets others run.
const SPINS: u32 = 2_000;
/// Multiplications a token must cost before a second thread gains more than the exchanges cost.
const WORTHWHILE: u64 = 6_000_000;

/// The number of threads, at most `wanted`, that are worth while for a model: one for small models, and for shapes
/// whose heads cannot be shared out in whole panels.
pub fn worthwhile_threads(model: &Model<'_>, wanted: usize) -> usize {
    let c = model.config();
    let macs: u64 = c.parameters() * u64::from(c.recursion);
    if macs < WORTHWHILE { 1 } else { wanted.min(most_threads(c)).max(1) }
}

/// The most members that a shape can be shared out among.
fn most_threads(c: &ModelConfig) -> usize {
    let panels = [c.head_dim, c.ffn].iter().all(|n| (*n as usize).is_multiple_of(PANEL_ROWS));
    let parts = [c.dim, c.ffn].iter().map(|n| *n as usize / PANEL_ROWS).min().unwrap_or(1);
    if panels { parts.min(c.kv_heads as usize).max(1) } else { 1 }
}

/// Runs `work` with a session that `threads` threads compute together, the calling one among them; fewer when the
/// shape cannot be shared out among so many.
///
/// # Errors
/// As [`Session::with`], and what `work` returns.
pub fn with_team<R>(
    model: &Model<'_>,
    options: &Options<'_>,
    threads: usize,
    work: impl FnOnce(&mut TeamSession<'_>) -> Result<R>,
) -> Result<R> {
    let size = threads.clamp(1, most_threads(model.config()));
    let widest = [model.config().attn_dim(), model.config().ffn, model.config().vocab, model.config().dim];
    let table = Table::new(size, widest.into_iter().max().unwrap_or(0) as usize);
    let mut workspaces: Vec<Workspace> = (0..size).map(|_| Workspace::with(model, options)).collect();
    let (first, others) = workspaces.split_first_mut().ok_or(Error::Buffer)?;
    std::thread::scope(|scope| {
        // Whatever happens to this thread, the others are let go.
        let _dismissal = Dismissal(&table);
        for (i, workspace) in others.iter_mut().enumerate() {
            let table = &table;
            scope.spawn(move || follow(model, options, table, i + 1, workspace));
        }
        let member = if size == 1 { Member::alone() } else { Member::of(0, size, &table) };
        let session = Session::member(model, options, member, first.bytes())?;
        work(&mut TeamSession { session, table: &table })
    })
}

/// A session that several threads compute.
#[derive(Debug)]
pub struct TeamSession<'t> {
    session: Session<'t>,
    table: &'t Table,
}

impl TeamSession<'_> {
    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.table.size
    }

    /// As [`Session::extend`].
    ///
    /// # Errors
    /// As [`Session::extend`].
    pub fn extend(&mut self, tokens: &[u16]) -> Result<&mut [f32]> {
        self.table.order(Order::Extend(tokens.to_vec()));
        self.session.extend(tokens)
    }

    /// As [`Session::step_mut`].
    ///
    /// # Errors
    /// As [`Session::step_mut`].
    pub fn step_mut(&mut self, token: u16) -> Result<&mut [f32]> {
        self.table.order(Order::Step(token));
        self.session.step_mut(token)
    }

    /// As [`Session::reset`].
    pub fn reset(&mut self) {
        self.table.order(Order::Reset);
        self.session.reset();
        // Without an exchange, the next order could come before this one has been seen.
        self.table.meet();
    }

    /// As [`Session::position`].
    pub fn position(&self) -> u32 {
        self.session.position()
    }
}

/// What a follower does next.
#[derive(Clone, Debug)]
enum Order {
    Step(u16),
    Extend(Vec<u16>),
    Reset,
    Leave,
}

/// A follower's life.
fn follow(model: &Model<'_>, options: &Options<'_>, table: &Table, rank: usize, workspace: &mut Workspace) {
    let member = Member::of(rank, table.size, table);
    let Ok(mut session) = Session::member(model, options, member, workspace.bytes()) else {
        // The leader's session fails in the same way.
        return;
    };
    let mut seen = 0;
    loop {
        // An error is the leader's too, and changes nothing: every member checks the tokens before it computes.
        match table.next_order(&mut seen) {
            Order::Step(token) => drop(session.step_mut(token).map(|_| ())),
            Order::Extend(tokens) => drop(session.extend(&tokens).map(|_| ())),
            Order::Reset => {
                session.reset();
                table.meet();
            }
            Order::Leave => return,
        }
    }
}

/// Lets the followers go when dropped.
struct Dismissal<'t>(&'t Table);

impl Drop for Dismissal<'_> {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
        self.0.order(Order::Leave);
    }
}

/// What the members exchange their parts over.
#[derive(Debug)]
struct Table {
    size: usize,
    /// Two boards used in turn: while the slow still read one, the fast write the other.
    boards: [Vec<AtomicU32>; 2],
    /// Members that have arrived at the current exchange.
    arrived: AtomicUsize,
    /// Exchanges done.
    round: AtomicUsize,
    /// The leader has left.
    gone: AtomicBool,
    /// Number of orders given, and the last one.
    orders: AtomicUsize,
    order: Mutex<Order>,
    ordered: Condvar,
}

impl Table {
    fn new(size: usize, widest: usize) -> Self {
        let board = || (0..widest).map(|_| AtomicU32::new(0)).collect();
        Self {
            size,
            boards: [board(), board()],
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            orders: AtomicUsize::new(0),
            order: Mutex::new(Order::Reset),
            ordered: Condvar::new(),
        }
    }

    /// Gives the followers an order.
    fn order(&self, order: Order) {
        if self.size > 1 {
            *self.order.lock().unwrap_or_else(PoisonError::into_inner) = order;
            self.orders.fetch_add(1, Ordering::Release);
            self.ordered.notify_all();
        }
    }

    /// The next order after number `seen`: waits awake for a while, then sleeps.
    fn next_order(&self, seen: &mut usize) -> Order {
        for _ in 0..SPINS * 10 {
            if self.orders.load(Ordering::Acquire) != *seen {
                break;
            }
            core::hint::spin_loop();
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        while self.orders.load(Ordering::Acquire) == *seen {
            order = self.ordered.wait(order).unwrap_or_else(PoisonError::into_inner);
        }
        *seen = self.orders.load(Ordering::Acquire);
        order.clone()
    }

    /// Waits until every member has arrived.
    fn meet(&self) {
        if self.size == 1 {
            return;
        }
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.size {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.round.load(Ordering::Acquire) == round && !self.gone.load(Ordering::Relaxed) {
            spins += 1;
            if spins % SPINS == 0 { std::thread::yield_now() } else { core::hint::spin_loop() }
        }
    }
}

impl Exchange for Table {
    fn share(&self, y: &mut [f32], own: Range<usize>) {
        let board = self.boards.get(self.round.load(Ordering::Acquire) % 2).map_or(&[][..], Vec::as_slice);
        let parts = |x: Range<usize>| x.start.min(y.len())..x.end.min(y.len());
        let own = parts(own);
        let places = board.get(own.clone()).unwrap_or(&[]);
        for (place, y) in places.iter().zip(y.get(own.clone()).unwrap_or(&[])) {
            place.store(y.to_bits(), Ordering::Relaxed);
        }
        self.meet();
        let take = |y: &mut [f32], board: &[AtomicU32]| {
            for (y, place) in y.iter_mut().zip(board) {
                *y = f32::from_bits(place.load(Ordering::Relaxed));
            }
        };
        let (before, rest) = y.split_at_mut(own.start);
        take(before, board);
        take(rest.get_mut(own.len()..).unwrap_or(&mut []), board.get(own.end..).unwrap_or(&[]));
    }
}
