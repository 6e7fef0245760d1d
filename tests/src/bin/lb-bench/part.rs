//! What the benchmark is made of.

use crate::chart::Chart;
use crate::target::Target;
use crate::{balance, north_south, packets, programming, traffic};
use anyhow::Result;
use serde_json::Value;

/// What a part has found.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// All figures, for programs.
    pub(crate) figures: Value,
    pub(crate) targets: Vec<Target>,
    pub(crate) charts: Vec<Chart>,
}

/// One measurement. It prints what it has found, for people.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnOnce() -> Result<Outcome>>,
}

impl Part {
    /// A part of this name.
    pub(crate) fn new(name: &'static str, run: impl FnOnce() -> Result<Outcome> + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }

    /// All of them, as they run without a name; quick only tells whether they work.
    pub(crate) fn all(quick: bool) -> Vec<Self> {
        vec![
            Self::new("packets", move || packets::run(quick)),
            Self::new("north-south", move || {
                north_south::run(&north_south::Options::of_all(), quick)
            }),
            Self::new("traffic", move || traffic::run(&traffic::Options::of_all(), quick)),
            Self::new("programming", move || {
                programming::run(&programming::Options::of_all(), quick)
            }),
            Self::new("balance", balance::run),
        ]
    }
}
