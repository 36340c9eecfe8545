//! Individuals in memory: whole where they may become parents of whole models, on the way to it where not.

use std::borrow::Cow;
use std::sync::Arc;

use crate::phases::evomerge::blend::Blend;
use crate::phases::evomerge::lineage::Founders;
use crate::phases::evomerge::mutation::Mutation;
use crate::phases::evomerge::operators::build;
use crate::weights::{Key, Weights};

/// A model that is held.
#[derive(Clone)]
pub(super) enum Whole<'a> {
    Founder(&'a Weights),
    Made(Arc<Weights>),
}

impl Whole<'_> {
    pub(super) fn weights(&self) -> &Weights {
        match self {
            Whole::Founder(weights) => weights,
            Whole::Made(weights) => weights,
        }
    }
}

/// How an individual is kept. A mutant is its parent, which several share, and the change; a blend is its
/// coefficients. Their tensors are made when they are asked for, so that a population of twenty is a handful of
/// models in memory.
#[derive(Clone)]
pub(super) enum Body<'a> {
    Whole(Whole<'a>),
    Mutant { parent: Whole<'a>, mutation: Mutation },
    Blend(Blend),
}

impl<'a> Body<'a> {
    /// The values of one tensor.
    pub(super) fn tensor<'s>(&'s self, key: Key, founders: Founders<'_>) -> Cow<'s, [f32]> {
        let of = |whole: &'s Whole<'a>| whole.weights().get(key.0, key.1).data.as_slice();
        let (originals, base) = (founders.originals, founders.base);
        match self {
            Body::Whole(whole) => Cow::Borrowed(of(whole)),
            Body::Mutant { parent, mutation } => {
                Cow::Owned(mutation.tensor(key, of(parent), originals, base))
            }
            Body::Blend(blend) => Cow::Owned(blend.tensor(key, originals, base)),
        }
    }

    /// The model whole.
    pub(super) fn whole(&self, founders: Founders<'_>) -> Whole<'a> {
        match self {
            Body::Whole(whole) => whole.clone(),
            // A mutant takes its parent's halting threshold, a blend that of the base; the shapes are one.
            Body::Mutant { parent, .. } => Whole::Made(Arc::new(self.built(parent.weights(), founders))),
            Body::Blend(_) => Whole::Made(Arc::new(self.built(founders.base, founders))),
        }
    }

    fn built(&self, template: &Weights, founders: Founders<'_>) -> Weights {
        build(template, |key, _| self.tensor(key, founders).into_owned())
    }
}

/// An individual.
#[derive(Clone)]
pub(super) struct Member<'a> {
    pub(super) id: String,
    /// Infinite for a rejected candidate.
    pub(super) loss: f64,
    pub(super) body: Body<'a>,
    /// What it learned beyond the base, at the places by which the diversity is measured.
    pub(super) delta: Vec<f64>,
}
