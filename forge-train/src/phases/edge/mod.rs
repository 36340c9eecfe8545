//! Phase 7, Edge: fits the model to a device.

pub mod fit;
