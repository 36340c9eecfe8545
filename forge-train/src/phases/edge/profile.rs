//! What a device offers and what it must achieve.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Instruction set a profile is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isa {
    /// Cortex-M4 and M7, with DSP instructions and FPU.
    Thumbv7em,
    /// Cortex-M33.
    Thumbv8m,
    /// 32-bit RISC-V microcontrollers.
    Riscv32,
    /// ESP32-S3.
    Xtensa,
    /// Browsers and Node.
    Wasm32,
    /// 64-bit ARM.
    Aarch64,
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
}

/// A device: what it has, and what is asked of a model on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name, as given to `--profile`.
    pub name: String,
    /// Instruction set.
    pub isa: Isa,
    /// Storage the weights are read from in place, bytes: flash, or a download's size.
    pub flash_bytes: u64,
    /// Working memory, bytes.
    pub ram_bytes: u64,
    /// Part of the storage that program code and data take.
    pub reserved_flash_bytes: u64,
    /// Part of the memory that stack and the rest of the program take.
    pub reserved_ram_bytes: u64,
    /// Clock of one core, Hz.
    pub clock_hz: u64,
    /// Longest time to the first generated token after a prompt of [`PROMPT_TOKENS`] tokens, milliseconds.
    pub max_latency_ms: f64,
    /// Fewest tokens generated a second.
    pub min_tokens_per_second: f64,
}

/// Length of the prompt by which latency is measured.
pub const PROMPT_TOKENS: u32 = 32;

/// Names and texts of the profiles that come with the program.
const BUILT_IN: [(&str, &str); 7] = [
    ("cortex-m4-1m", include_str!("../../../profiles/cortex-m4-1m.toml")),
    ("cortex-m7-2m", include_str!("../../../profiles/cortex-m7-2m.toml")),
    ("esp32-s3", include_str!("../../../profiles/esp32-s3.toml")),
    ("rp2350", include_str!("../../../profiles/rp2350.toml")),
    ("browser", include_str!("../../../profiles/browser.toml")),
    ("raspberry-pi", include_str!("../../../profiles/raspberry-pi.toml")),
    ("desktop", include_str!("../../../profiles/desktop.toml")),
];

/// How a model misses a profile.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Misfit {
    /// The file is larger than the storage left for it.
    #[error("the file takes {needed} bytes, the device has {available} for it")]
    Flash {
        /// Bytes of the file.
        needed: u64,
        /// Bytes the device has for it.
        available: u64,
    },
    /// The workspace is larger than the memory left for it.
    #[error("a session takes {needed} bytes of memory, the device has {available} for it")]
    Ram {
        /// Bytes of the workspace.
        needed: u64,
        /// Bytes the device has for it.
        available: u64,
    },
    /// The first token comes too late.
    #[error("the first token takes {measured_ms:.1} ms, at most {allowed_ms:.1} are allowed")]
    Latency {
        /// Milliseconds to the first token.
        measured_ms: f64,
        /// Milliseconds allowed.
        allowed_ms: f64,
    },
    /// Generation is too slow.
    #[error("{measured:.1} tokens a second, at least {required:.1} are asked for")]
    Throughput {
        /// Tokens a second.
        measured: f64,
        /// Tokens a second asked for.
        required: f64,
    },
}

impl Profile {
    /// Names of the profiles that come with the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The profile of that name.
    ///
    /// # Errors
    /// [`Error::Usage`] listing the names there are.
    pub fn named(name: &str) -> Result<Self> {
        match BUILT_IN.iter().find(|(n, _)| *n == name) {
            Some((_, text)) => Self::parse(text),
            None => Err(Error::Usage {
                what: format!("no device profile is called `{name}`"),
                hint: format!("choose one of {}", Self::names().collect::<Vec<_>>().join(", ")),
            }),
        }
    }

    /// Reads a profile from TOML.
    ///
    /// # Errors
    /// [`Error::Config`] when a key is missing, unknown or of another type, or a number makes no sense.
    pub fn parse(text: &str) -> Result<Self> {
        let profile: Self =
            toml::from_str(text).map_err(|e| Error::Config(format!("device profile: {}", e.message())))?;
        let checks = [
            (!profile.name.is_empty(), "name must not be empty"),
            (profile.reserved_flash_bytes < profile.flash_bytes, "reserved_flash_bytes leaves no flash"),
            (profile.reserved_ram_bytes < profile.ram_bytes, "reserved_ram_bytes leaves no RAM"),
            (profile.clock_hz > 0, "clock_hz must not be 0"),
            (profile.max_latency_ms > 0.0, "max_latency_ms must be positive"),
            (profile.min_tokens_per_second >= 0.0, "min_tokens_per_second must not be negative"),
        ];
        match checks.iter().find(|(ok, _)| !ok) {
            Some((_, rule)) => Err(Error::Config(format!("device profile `{}`: {rule}", profile.name))),
            None => Ok(profile),
        }
    }

    /// Bytes of storage a model file may take.
    pub fn model_bytes(&self) -> u64 {
        self.flash_bytes.saturating_sub(self.reserved_flash_bytes)
    }

    /// Bytes of memory a session may take.
    pub fn session_bytes(&self) -> u64 {
        self.ram_bytes.saturating_sub(self.reserved_ram_bytes)
    }

    /// Whether a file of `file_bytes`, read in place, and a session of `workspace_bytes` have room.
    ///
    /// # Errors
    /// The first [`Misfit`].
    pub fn fits(&self, file_bytes: u64, workspace_bytes: u64) -> std::result::Result<(), Misfit> {
        let (flash, ram) = (self.model_bytes(), self.session_bytes());
        if file_bytes > flash {
            return Err(Misfit::Flash { needed: file_bytes, available: flash });
        }
        if workspace_bytes > ram {
            return Err(Misfit::Ram { needed: workspace_bytes, available: ram });
        }
        Ok(())
    }

    /// Whether a measured speed is enough: milliseconds to the first token after [`PROMPT_TOKENS`], and
    /// tokens generated a second. A measure that is not a number is not enough.
    ///
    /// # Errors
    /// The first [`Misfit`].
    pub fn fast_enough(&self, latency_ms: f64, tokens_per_second: f64) -> std::result::Result<(), Misfit> {
        let (allowed_ms, required) = (self.max_latency_ms, self.min_tokens_per_second);
        let in_time = latency_ms <= allowed_ms;
        let fast = tokens_per_second >= required;
        match (in_time, fast) {
            (true, true) => Ok(()),
            (false, _) => Err(Misfit::Latency { measured_ms: latency_ms, allowed_ms }),
            (_, false) => Err(Misfit::Throughput { measured: tokens_per_second, required }),
        }
    }

    /// Tokens a second when one takes `cycles` cycles, for instance as counted by an emulator.
    pub fn tokens_per_second(&self, cycles: u64) -> f64 {
        self.clock_hz as f64 / cycles.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_is_valid_and_named_as_its_file() {
        for name in Profile::names() {
            let profile = Profile::named(name).unwrap();
            assert_eq!(profile.name, name);
            assert_eq!(Profile::parse(&toml::to_string(&profile).unwrap()).unwrap(), profile);
        }
        let m4 = Profile::named("cortex-m4-1m").unwrap();
        assert_eq!((m4.flash_bytes, m4.ram_bytes, m4.isa), (1 << 20, 256 << 10, Isa::Thumbv7em));
        let unknown = Profile::named("pdp-11").unwrap_err();
        assert!(unknown.hint().unwrap().contains("rp2350"));
    }

    #[test]
    fn size_limits_count_what_the_program_takes() {
        let m4 = Profile::named("cortex-m4-1m").unwrap();
        let (flash, ram) = ((1 << 20) - (128 << 10), (256 << 10) - (32 << 10));
        assert_eq!(m4.fits(flash, ram), Ok(()));
        assert_eq!(m4.fits(flash + 1, ram), Err(Misfit::Flash { needed: flash + 1, available: flash }));
        assert_eq!(m4.fits(flash, ram + 1), Err(Misfit::Ram { needed: ram + 1, available: ram }));
        assert!(m4.fits(1 << 20, 0).unwrap_err().to_string().contains("1048576 bytes"));
    }

    #[test]
    fn speed_limits_are_inclusive_and_refuse_nan() {
        let m4 = Profile::named("cortex-m4-1m").unwrap();
        assert_eq!(m4.fast_enough(8000.0, 4.0), Ok(()));
        assert!(matches!(m4.fast_enough(8000.1, 4.0), Err(Misfit::Latency { .. })));
        assert!(matches!(m4.fast_enough(8000.0, 3.9), Err(Misfit::Throughput { .. })));
        assert!(m4.fast_enough(f64::NAN, 4.0).is_err() && m4.fast_enough(1.0, f64::NAN).is_err());
        assert_eq!(m4.tokens_per_second(6_400_000), 10.0);
    }

    #[test]
    fn faulty_profiles_are_refused_by_name_of_the_fault() {
        let text = include_str!("../../../profiles/desktop.toml");
        let message = |text: &str| Profile::parse(text).unwrap_err().to_string();
        assert!(message(&format!("{text}\nflsh_bytes = 1")).contains("flsh_bytes"));
        assert!(message(&text.replace("clock_hz", "clock")).contains("clock"));
        assert!(
            message(&text.replace("reserved_ram_bytes = 16_777_216", "reserved_ram_bytes = 500_000_000"))
                .contains("RAM")
        );
        assert!(message(&text.replace("x86_64", "pdp11")).contains("pdp11"));
        assert!(Profile::parse(text).is_ok());
    }
}
