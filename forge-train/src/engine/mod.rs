//! The training engine that every phase uses: one loop with checkpoints, the objectives, data mixtures, and
//! the emission of `.forge` files.

pub mod emit;
pub mod environment;
pub mod lengths;
pub mod mixture;
pub mod objective;
pub mod prefetch;
pub mod shards;
pub mod split;
pub mod trainer;
pub mod update;

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod resume_tests;
