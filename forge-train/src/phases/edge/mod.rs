//! Phase 7, Edge: fits the model to a device by structured pruning and distillation.

pub mod fit;
pub mod profile;
pub mod prune;
