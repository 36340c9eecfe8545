//! (module phases)
