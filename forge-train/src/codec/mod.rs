//! (module codec)
