//! A session's part in a team of threads that compute one model together.
#![forbid(unsafe_code)]

use core::ops::Range;

use crate::kernels::PANEL_ROWS;

/// One of the threads that compute a model together, each some rows of every matrix; alone by default.
#[derive(Clone, Copy)]
pub(crate) struct Member<'m> {
    pub(crate) rank: usize,
    pub(crate) size: usize,
    exchange: Option<&'m (dyn Exchange + Sync)>,
}

/// How members give each other what they have computed.
pub(crate) trait Exchange {
    /// Publishes `y[own]` and fills the rest of `y` with what the other members publish at the same place of their
    /// program.
    fn share(&self, y: &mut [f32], own: Range<usize>);
}

impl<'m> Member<'m> {
    /// The one who computes all.
    pub(crate) fn alone() -> Self {
        Self { rank: 0, size: 1, exchange: None }
    }

    /// Number `rank` of `size` members.
    #[cfg(feature = "std")]
    pub(crate) fn of(rank: usize, size: usize, exchange: &'m (dyn Exchange + Sync)) -> Self {
        Self { rank, size, exchange: Some(exchange) }
    }

    /// This member's part of `n` rows, in whole panels.
    pub(crate) fn part(&self, n: usize) -> Range<usize> {
        part_of(self.rank, self.size, n, PANEL_ROWS)
    }

    /// This member's part of `n` heads.
    pub(crate) fn heads(&self, n: usize) -> Range<usize> {
        part_of(self.rank, self.size, n, 1)
    }

    /// See [`Exchange::share`].
    #[inline]
    pub(crate) fn share(&self, y: &mut [f32], own: Range<usize>) {
        if let Some(exchange) = self.exchange {
            exchange.share(y, own);
        }
    }
}

/// Part `rank` of `size` of `n` things that come in pieces of `piece`.
pub(crate) fn part_of(rank: usize, size: usize, n: usize, piece: usize) -> Range<usize> {
    let pieces = n.div_ceil(piece);
    let at = |rank: usize| (pieces * rank / size.max(1) * piece).min(n);
    at(rank)..at(rank + 1)
}

impl core::fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Member({} of {})", self.rank, self.size)
    }
}
