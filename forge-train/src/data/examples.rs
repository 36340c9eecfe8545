//! The examples of a split: of one source, or of several that are mixed by weight.

use std::borrow::Cow;

use super::Example;
use super::store::Store;
use crate::error::Result;

/// Examples in the order of their sources.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    parts: Vec<Part>,
}

/// The examples of one source.
#[derive(Clone, Debug)]
pub struct Part {
    /// Share of the batches that come from it, among the weights of all sources.
    pub weight: u64,
    /// Its examples.
    pub examples: Store<Example>,
}

impl Examples {
    /// The examples of one source.
    pub fn one(examples: Store<Example>) -> Self {
        Self::mixed(vec![Part { weight: 1, examples }])
    }

    /// The examples of several sources.
    pub fn mixed(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// The sources.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.examples.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The example of an index.
    ///
    /// # Panics
    /// If the index is not below [`Examples::len`].
    pub fn get(&self, mut index: usize) -> Cow<'_, Example> {
        for part in &self.parts {
            if index < part.examples.len() {
                return part.examples.get(index);
            }
            index -= part.examples.len();
        }
        panic!("an index beyond the examples")
    }

    /// The examples in their order.
    pub fn iter(&self) -> impl Iterator<Item = Cow<'_, Example>> + Clone {
        self.parts.iter().flat_map(|part| part.examples.iter())
    }

    /// Copies of all examples.
    pub fn to_vec(&self) -> Vec<Example> {
        self.iter().map(Cow::into_owned).collect()
    }

    /// What `change` makes of each example, source by source with its weight.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] when what is too large for memory cannot be written.
    pub fn flat_map<I: IntoIterator<Item = Example>>(
        &self,
        mut change: impl FnMut(Cow<'_, Example>) -> I,
    ) -> Result<Self> {
        let mut parts = Vec::new();
        for Part { weight, examples } in &self.parts {
            let mut writer = examples.writer();
            examples.iter().try_for_each(|example| writer.extend(change(example)))?;
            parts.push(Part { weight: *weight, examples: writer.finish()? });
        }
        Ok(Self { parts })
    }

    /// Those that `keep` keeps.
    ///
    /// # Errors
    /// As [`Examples::flat_map`].
    pub fn filter(&self, keep: impl Fn(&Example) -> bool) -> Result<Self> {
        self.flat_map(|example| keep(&example).then(|| example.into_owned()))
    }
}

impl From<Vec<Example>> for Examples {
    fn from(examples: Vec<Example>) -> Self {
        Self::one(examples.into())
    }
}

impl FromIterator<Example> for Examples {
    fn from_iter<I: IntoIterator<Item = Example>>(examples: I) -> Self {
        Self::from(Vec::from_iter(examples))
    }
}

/// Equal examples in equal order, whatever their sources.
impl PartialEq for Examples {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Examples {}
