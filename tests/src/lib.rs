//! What the cross-crate tests share: the golden files and how they are replayed.

pub mod answers;
pub mod golden;
pub mod replay;
pub mod script;
