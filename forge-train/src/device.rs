//! Where training runs: on the CPU, or on an NVIDIA GPU where the program is built with the feature `cuda`.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What `--device` and `run.device` may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first GPU when the program can use one and one is there, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU of this number, counted from 0.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                text.strip_prefix("cuda:").and_then(|number| number.parse().ok()).map(Self::Cuda).ok_or_else(
                    || format!("no device is called `{text}`; devices are auto, cpu, cuda and cuda:N"),
                )
            }
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Usage`] saying what is missing: CUDA in this build, its libraries and driver, or the card.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Ok(gpu::open(0).unwrap_or(Device::Cpu)),
            Self::Cuda(number) => gpu::open(number),
        }
    }
}

/// Opens the device called `name`: `auto`, `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// [`Error::Usage`] when there is no device of that name, or it cannot be opened.
pub fn open(name: &str) -> Result<Device> {
    let choice: DeviceChoice =
        name.parse().map_err(|what| Error::Usage { what, hint: "choose with `--device`".into() })?;
    choice.open()
}

/// The device for people: `CPU`, or the card's number and name.
pub fn describe(device: &Device) -> String {
    match device {
        Device::Cpu => "CPU".into(),
        other => gpu::describe(other),
    }
}

/// Starts counting [`peak_memory`] anew; nothing on the CPU.
///
/// # Errors
/// What the driver says.
pub fn reset_peak_memory(device: &Device) -> Result<()> {
    gpu::reset_peak_memory(device)
}

/// Largest number of bytes that tensors took at a time on a GPU since the last [`reset_peak_memory`]; none on the CPU.
///
/// # Errors
/// What the driver says.
pub fn peak_memory(device: &Device) -> Result<Option<u64>> {
    gpu::peak_memory(device)
}

/// Largest resident memory of this process so far, in bytes, where the system tells.
pub fn peak_resident() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::resource::{UsageWho, getrusage};
        let kibibytes = getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss();
        u64::try_from(kibibytes).ok().map(|k| k << 10)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// GPUs of a program that is built for them.
#[cfg(feature = "cuda")]
mod gpu {
    use std::panic;

    use candle_core::Device;

    use crate::cuda;
    use crate::error::{Error, Result};

    pub(super) fn open(number: usize) -> Result<Device> {
        let count = guarded(cuda::count)?;
        if number >= count {
            let what = match count {
                0 => "there is no CUDA device on this machine".to_owned(),
                _ => format!("there is no CUDA device {number}: this machine has {count}, counted from 0"),
            };
            return Err(Error::Usage {
                what,
                hint: "choose another with `--device`, for example `cpu`".into(),
            });
        }
        guarded(|| cuda::open(number))
    }

    /// Runs `f`; a missing library, which candle's bindings panic about, becomes an error like any other.
    fn guarded<T>(f: impl FnOnce() -> candle_core::Result<T> + panic::UnwindSafe) -> Result<T> {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let result = panic::catch_unwind(f);
        panic::set_hook(hook);
        let reason = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.to_string(),
            Err(payload) => payload.downcast_ref::<String>().cloned().unwrap_or_default(),
        };
        // The bindings go on with every file name that was tried.
        let reason = reason.lines().next().unwrap_or_default();
        let reason = reason.split(" - ").next().unwrap_or_default().trim_end_matches('.').to_owned();
        Err(Error::Usage {
            what: format!("CUDA cannot be used here: {reason}"),
            hint:
                "install NVIDIA's driver and the libraries cuBLAS, cuRAND and NVRTC, or choose `--device cpu`"
                    .into(),
        })
    }

    pub(super) fn describe(device: &Device) -> String {
        match device {
            Device::Cuda(card) => match cuda::name(card) {
                Ok(name) => format!("{name} (cuda:{})", card.cuda_stream().context().ordinal()),
                Err(_) => "a CUDA device".into(),
            },
            other => format!("{:?}", other.location()),
        }
    }

    pub(super) fn reset_peak_memory(device: &Device) -> Result<()> {
        match device {
            Device::Cuda(card) => Ok(cuda::reset_peak_memory(card)?),
            _ => Ok(()),
        }
    }

    pub(super) fn peak_memory(device: &Device) -> Result<Option<u64>> {
        match device {
            Device::Cuda(card) => Ok(Some(cuda::peak_memory(card)?)),
            _ => Ok(None),
        }
    }
}

/// GPUs of a program that is not built for them: there are none.
#[cfg(not(feature = "cuda"))]
mod gpu {
    use candle_core::Device;

    use crate::error::{Error, Result};

    pub(super) fn open(_number: usize) -> Result<Device> {
        Err(Error::Usage {
            what: "this build has no CUDA".into(),
            hint: "build with `cargo build --release --features cuda`, or choose `--device cpu`".into(),
        })
    }

    pub(super) fn describe(device: &Device) -> String {
        format!("{:?}", device.location())
    }

    pub(super) fn reset_peak_memory(_device: &Device) -> Result<()> {
        Ok(())
    }

    pub(super) fn peak_memory(_device: &Device) -> Result<Option<u64>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_written_and_others_refused() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            let message = wrong.parse::<DeviceChoice>().unwrap_err();
            assert!(message.contains("cuda:N"), "{message}");
            assert!(matches!(open(wrong), Err(Error::Usage { .. })), "{wrong}");
        }
    }

    #[test]
    fn the_cpu_is_always_there_and_auto_finds_something() {
        assert!(open("cpu").unwrap().is_cpu());
        let auto = open("auto").unwrap();
        assert_eq!(auto.is_cpu(), open("cuda").is_err());
        assert_eq!(describe(&Device::Cpu), "CPU");
        assert_eq!(peak_memory(&Device::Cpu).unwrap(), None);
    }

    #[test]
    fn a_card_that_is_not_there_is_an_error_that_says_what_to_do() {
        let Err(Error::Usage { what, hint }) = open("cuda:4096") else { panic!("4097 cards") };
        assert!(what.contains("CUDA") && hint.contains("cpu"), "{what}; {hint}");
    }
}
