//! Levels, versions and the policy that a namespace's labels make.

use std::fmt;

use api::{ErrorList, Value};

use super::label_path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        [Self::Privileged, Self::Baseline, Self::Restricted].into_iter().find(|level| level.name() == text)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// `v1.N`, or the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Minor(u32),
    Latest,
}

impl Version {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let canonical = minor == "0" || (!minor.starts_with('0') && !minor.starts_with('+'));
        canonical.then(|| minor.parse().ok().map(Self::Minor)).flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "v1.{minor}"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub(super) level: Level,
    pub(super) version: Version,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level.name(), self.version)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: LevelVersion,
    pub(super) audit: LevelVersion,
    pub(super) warn: LevelVersion,
}

impl Policy {
    /// The policy of a namespace with these labels, and what is wrong with them. What cannot be read enforces the strictest
    /// level, and warns and audits nothing.
    pub(super) fn from_labels(labels: &Value) -> (Self, ErrorList) {
        let default = LevelVersion { level: Level::Privileged, version: Version::Latest };
        let mut policy = Self { enforce: default, audit: default, warn: default };
        let mut errors = ErrorList::new();
        let label = |mode: &str| labels[format!("pod-security.kubernetes.io/{mode}")].as_str();
        let modes = [
            ("enforce", &mut policy.enforce, Level::Restricted),
            ("audit", &mut policy.audit, Level::Privileged),
            ("warn", &mut policy.warn, Level::Privileged),
        ];
        for (mode, target, unreadable) in modes {
            if let Some(text) = label(mode) {
                target.level = Level::parse(text).unwrap_or_else(|| {
                    let path = label_path(&format!("pod-security.kubernetes.io/{mode}"));
                    errors.invalid(path, text, "must be one of privileged, baseline, restricted");
                    unreadable
                });
            }
            let key = format!("{mode}-version");
            if let Some(text) = label(&key) {
                target.version = Version::parse(text).unwrap_or_else(|| {
                    let path = label_path(&format!("pod-security.kubernetes.io/{key}"));
                    errors.invalid(path, text, "must be \"latest\" or \"v1.x\"");
                    Version::Latest
                });
            }
        }
        // Who enforces is also warned, unless the labels say otherwise.
        let readable = label("enforce").is_some_and(|text| Level::parse(text).is_some());
        if label("warn").is_none() && readable && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}
