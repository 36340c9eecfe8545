//! The stages of training in each phase, as planning sees them.

use crate::config::{Config, TrainConfig};
use crate::pipeline::phase::PhaseId;

/// A stage of training, or several that train alike.
#[derive(Clone, Copy, Debug)]
pub struct StageKind<'a> {
    /// Where its settings are: `phase1.trunk`.
    pub section: &'static str,
    /// Its settings.
    pub train: &'a TrainConfig,
    /// How many of them there are, each with checkpoints of its own.
    pub count: u64,
    /// Whether projections are ternary.
    pub ternary: bool,
    /// Sets of weights that are held beside the one that is trained.
    pub others: u64,
    /// Whether it learns from a teacher's logits.
    pub distils: bool,
}

/// The stages of a phase; none where a phase trains nothing.
pub fn stages(phase: PhaseId, config: &Config) -> Vec<StageKind<'_>> {
    let plain = |section, train, count| StageKind {
        section,
        train,
        count,
        ternary: phase > PhaseId::BitNet,
        others: 2,
        distils: false,
    };
    match phase {
        PhaseId::Cognate => vec![
            plain("phase1.trunk", &config.phase1.trunk, 1),
            StageKind { others: 4, ..plain("phase1.branch", &config.phase1.branch, 3) },
        ],
        PhaseId::QuietStar => vec![
            plain("phase3.bake", &config.phase3.bake, 2),
            plain("phase3.reinforce", &config.phase3.reinforce, 1),
        ],
        PhaseId::Forge => vec![plain("phase5.train", &config.phase5.train, 3)],
        PhaseId::Baking => {
            let cycles = u64::from(config.phase6.cycles);
            vec![StageKind { others: 3, ..plain("phase6.train", &config.phase6.train, cycles) }]
        }
        PhaseId::Edge => {
            vec![StageKind { others: 3, distils: true, ..plain("phase7.train", &config.phase7.train, 1) }]
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
