//! The limits of a trial: those of production, or wider ones to look further.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plugin::limits::Limits;

/// A set of limits by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitsProfile {
    /// What a plugin gets where the operator says nothing.
    #[default]
    Production,
    /// Four times the memory, ten minutes, and a log that is hardly limited: for
    /// unoptimised guests and long looks.
    Development,
}

/// Why limits cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidLimits(String);

impl LimitsProfile {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Development => "development",
        }
    }

    fn limits(self) -> Limits {
        let mut limits = Limits::DEFAULT;
        if self == Self::Development {
            limits.memory_bytes *= 4;
            limits.deadline = Duration::from_secs(600);
            limits.log.records *= 10;
            limits.log.bytes *= 40;
            limits.log.per_second *= 10;
        }
        limits
    }
}

impl fmt::Display for LimitsProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LimitsProfile {
    type Err = InvalidLimits;

    fn from_str(text: &str) -> Result<Self, InvalidLimits> {
        [Self::Production, Self::Development]
            .into_iter()
            .find(|profile| profile.as_str() == text)
            .ok_or_else(|| {
                let problem = format!("`{text}` is not `production` or `development`");
                InvalidLimits(problem)
            })
    }
}

/// The limits that a trial runs under.
#[derive(Debug, Clone, Default)]
pub struct TrialLimits {
    pub limits: Limits,
}

impl From<LimitsProfile> for TrialLimits {
    fn from(profile: LimitsProfile) -> Self {
        Self {
            limits: profile.limits(),
        }
    }
}

/// What a task may set, as `[plugin.NAME] limits` in `cogo.toml` does.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    memory_mb: Option<usize>,
    deadline_ms: Option<u64>,
}

impl TrialLimits {
    /// Reads `"production"`, `"development"`, or an object with `memory_mb` and
    /// `deadline_ms`.
    ///
    /// # Errors
    /// [`InvalidLimits`] says what would be right.
    pub fn parse(value: &Value) -> Result<Self, InvalidLimits> {
        if let Value::String(name) = value {
            return Ok(name.parse::<LimitsProfile>()?.into());
        }
        let own = Own::deserialize(value).map_err(|cause| InvalidLimits(cause.to_string()))?;
        let mut limits = Limits::DEFAULT;
        if let Some(mb) = own.memory_mb {
            limits.memory_bytes = mb
                .checked_mul(1 << 20)
                .filter(|bytes| (1..=4 << 30).contains(bytes))
                .ok_or_else(|| InvalidLimits("`memory_mb` is not 1 to 4096".to_owned()))?;
        }
        if let Some(ms) = own.deadline_ms {
            limits.deadline = Duration::from_millis(ms);
        }
        Ok(Self { limits })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_names_a_profile_or_its_own_limits() {
        let parse = |value: Value| TrialLimits::parse(&value).map(|l| l.limits);
        assert_eq!(parse(json!("production")), Ok(Limits::DEFAULT));
        let own = parse(json!({ "memory_mb": 8, "deadline_ms": 50 })).unwrap();
        assert_eq!((own.memory_bytes, own.deadline.as_millis()), (8 << 20, 50));
        for bad in [
            json!("fast"),
            json!({ "memory": 1 }),
            json!({ "memory_mb": 0 }),
        ] {
            assert!(parse(bad).is_err());
        }
    }
}
