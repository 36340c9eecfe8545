//! Analytic gradients against finite differences.
