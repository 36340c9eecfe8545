//! Phase 7: fitting a model to a device.

pub mod profile;
pub mod prune;
