//! Version: which of two values of an entity is newer, as text that sorts.

use std::fmt;
use std::str::FromStr;

/// Orders the writes of one pipeline: by the birth of its manifest chain, then by epoch, cut and step.
///
/// The text has a fixed width, so that the store can compare it as a string: hexadecimal digits alone, which sort the
/// same way under every locale (Lua compares strings by the server's), and dashes at fixed places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    birth_ms: u64,
    epoch: u32,
    cut: u64,
    step: u32,
}

const BIRTH_MAX: u64 = (1 << 48) - 1;

impl Version {
    /// `birth_ms` is when the manifest chain was born, `epoch` its claim, `cut` the last cut, `step` counts the
    /// writes after it.
    pub fn new(birth_ms: u64, epoch: u32, cut: u64, step: u32) -> Self {
        Version { birth_ms: birth_ms.min(BIRTH_MAX), epoch, cut, step }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}-{:08x}-{:016x}-{:08x}", self.birth_ms, self.epoch, self.cut, self.step)
    }
}

/// Text that is not a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version such as `{example}`", example = Version::default())]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let parse = || {
            let mut parts = text.split('-');
            let mut next = |width: usize| {
                let part = parts.next().filter(|part| part.len() == width)?;
                u64::from_str_radix(part, 16).ok()
            };
            let version = Version {
                birth_ms: next(12)?,
                epoch: u32::try_from(next(8)?).ok()?,
                cut: next(16)?,
                step: u32::try_from(next(8)?).ok()?,
            };
            parts.next().is_none().then_some(version)
        };
        parse().ok_or_else(|| VersionError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_sorts_as_the_versions_do() {
        let mut versions = Vec::new();
        for birth in [0, 1_764_000_000_000, BIRTH_MAX] {
            for epoch in [0, 9, 10, u32::MAX] {
                for cut in [0, 15, 16, u64::MAX] {
                    versions.extend([0, 255, 256].map(|step| Version::new(birth, epoch, cut, step)));
                }
            }
        }
        for pair in versions.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_string() < pair[1].to_string(), "{pair:?}");
        }
        assert!(versions.iter().all(|version| version.to_string().parse() == Ok(*version)));
    }

    #[test]
    fn what_is_not_a_version_is_refused() {
        for text in ["", "1", "zz", &format!("{}-00", Version::default())] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
