//! The eight phases. Each is a function of its inputs, configuration, seed and data; none keeps state.

pub mod baking;
pub mod bitnet;
pub mod calibration;
pub mod cognate;
pub mod common;
pub mod compression;
pub mod curriculum;
pub mod edge;
pub mod evomerge;
pub mod forge;
pub mod merging;
pub mod quietstar;
#[cfg(test)]
mod tests;

use crate::pipeline::Phase;

/// All phases in order.
pub fn all() -> Vec<Box<dyn Phase>> {
    vec![
        Box::new(cognate::Cognate),
        Box::new(merging::EvoMerge),
        Box::new(quietstar::QuietStar),
        Box::new(bitnet::BitNet),
        Box::new(forge::Forge),
        Box::new(baking::Baking),
        Box::new(edge::fit::Edge),
        Box::new(compression::Compression),
    ]
}
