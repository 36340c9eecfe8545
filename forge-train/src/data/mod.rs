//! Data sets.

/// Examples in three splits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    /// Name used in reports.
    pub name: String,
}
