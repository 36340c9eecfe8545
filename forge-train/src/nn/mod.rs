//! (module nn)
