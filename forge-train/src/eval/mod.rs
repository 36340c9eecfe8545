//! (module eval)
