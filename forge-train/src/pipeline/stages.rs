//! The stages of training in each phase, as planning sees them.

use crate::config::{Config, TrainConfig};
use crate::phases::baking::BATCH as TRAJECTORIES;
use crate::pipeline::phase::PhaseId;

/// Positions of a row that is sampled rather than read from data, about: those of the built-in commands with their
/// system text. A larger vocabulary says the same in fewer tokens.
fn sampled_row(config: &Config) -> usize {
    let tokens = if config.tokenizer.planned_vocab() <= 512 { 64 } else { 40 };
    tokens.min(config.data.max_len)
}

/// A stage of training, or several that train alike.
#[derive(Clone, Copy, Debug)]
pub struct StageKind<'a> {
    /// Where its settings are: `phase1.trunk`.
    pub section: &'static str,
    /// Its settings.
    pub train: &'a TrainConfig,
    /// Positions of a step's largest batch, padding included.
    pub positions: usize,
    /// How many of them there are, each with checkpoints of its own.
    pub count: u64,
    /// Whether projections are ternary.
    pub ternary: bool,
    /// Sets of weights that are held beside the one that is trained.
    pub others: u64,
    /// Whether it learns from a teacher's logits.
    pub distils: bool,
}

fn plain<'a>(phase: PhaseId, section: &'static str, train: &'a TrainConfig, count: u64) -> StageKind<'a> {
    StageKind {
        section,
        train,
        positions: train.batch_tokens,
        count,
        ternary: phase > PhaseId::BitNet,
        others: 2,
        distils: false,
    }
}

/// The stages of a phase; none where a phase trains nothing.
pub fn stages(phase: PhaseId, config: &Config) -> Vec<StageKind<'_>> {
    let sampled_row = sampled_row(config);
    match phase {
        PhaseId::Cognate => {
            let branches = plain(phase, "phase1.branch", &config.phase1.branch, 3);
            vec![plain(phase, "phase1.trunk", &config.phase1.trunk, 1), StageKind { others: 4, ..branches }]
        }
        PhaseId::QuietStar => {
            let c = &config.phase3;
            // A prompt and an answer are short beside what is thought between them.
            let positions = c.prompts * c.thoughts * (c.thought_tokens + sampled_row / 4);
            vec![
                plain(phase, "phase3.bake", &c.bake, 3),
                StageKind { positions, ..plain(phase, "phase3.reinforce", &c.reinforce, 1) },
            ]
        }
        PhaseId::Forge => vec![plain(phase, "phase5.train", &config.phase5.train, 3)],
        PhaseId::Baking => {
            let train = &config.phase6.train;
            let stage = plain(phase, "phase6.train", train, u64::from(config.phase6.cycles));
            let positions = train.batch_tokens.max(TRAJECTORIES * sampled_row);
            vec![StageKind { others: 3, positions, ..stage }]
        }
        PhaseId::Edge => {
            let stage = plain(phase, "phase7.train", &config.phase7.train, 1);
            vec![StageKind { others: 3, distils: true, ..stage }]
        }
        PhaseId::EvoMerge | PhaseId::BitNet | PhaseId::Compression => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn sections_are_where_the_settings_are() {
        let mut config = Config::preset(Preset::Nano);
        for phase in PhaseId::ALL {
            let sections: Vec<_> = stages(phase, &config).iter().map(|stage| stage.section).collect();
            for section in sections {
                let set = [format!("{section}.micro_tokens=77")];
                config = crate::config_load::override_with(&config, &set).unwrap();
                let found = stages(phase, &config).into_iter().find(|s| s.section == section).unwrap();
                assert_eq!(found.train.micro_tokens, 77, "{section}");
            }
        }
    }
}
