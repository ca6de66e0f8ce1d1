//! Who is told of what, as an operator says it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cell_trust::SigningKey;
use serde::{Deserialize, Serialize};

use super::call::shown;
use crate::pem::{self, PemError};

/// More hooks than this are a mistake.
const HOOKS_MAX: usize = 16;
const KEY_FILE_BYTES_MAX: u64 = 1_024;
/// A step is answered within five seconds, hooks included.
const DEADLINE_MS: std::ops::RangeInclusive<u32> = 50..=3_000;
const CUTOVER_DEADLINE_MS: std::ops::RangeInclusive<u32> = 20..=1_500;

/// What a hook is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookPhase {
    /// A move has begun at this cell: at the source that it is captured, at the target that it is copied. May be refused.
    Prepare,
    /// Source: nobody writes now, for as long as the hold lasts. May be refused.
    Hold,
    /// Source: the tenant is fenced here.
    Fence,
    /// Target: the tenant is owned here.
    Activate,
    /// What was prepared, held or fenced is taken back.
    Abort,
    /// Source: the old copy is deleted.
    Reclaim,
}

impl HookPhase {
    /// As options and calls name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Hold => "hold",
            Self::Fence => "fence",
            Self::Activate => "activate",
            Self::Abort => "abort",
            Self::Reclaim => "reclaim",
        }
    }

    /// Before the fence nothing is decided yet.
    pub(super) const fn may_refuse(self) -> bool {
        matches!(self, Self::Prepare | Self::Hold)
    }

    /// Clients wait meanwhile.
    const fn in_cutover(self) -> bool {
        matches!(self, Self::Hold | Self::Fence | Self::Activate)
    }
}

/// All hooks of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HooksOptions {
    /// The key that calls are signed with: 64 hexadecimal digits, readable by its owner only.
    pub key_file: PathBuf,
    /// Each of them.
    pub hooks: Vec<HookOptions>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HookOptions {
    /// `http://…` or `https://…`.
    pub url: String,
    /// What it is told of; empty: everything.
    #[serde(default)]
    pub phases: Vec<HookPhase>,
    /// How long a call may take, all tries together, in milliseconds.
    #[serde(default = "deadline_ms")]
    pub deadline_ms: u32,
    /// The same of hold, fence and activate, in which clients wait.
    #[serde(default = "cutover_deadline_ms")]
    pub cutover_deadline_ms: u32,
    /// How often it is tried.
    #[serde(default = "tries")]
    pub tries: u8,
    /// Certificates, in PEM, of whoever has signed that of an `https` server.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

const fn deadline_ms() -> u32 {
    1_000
}

const fn cutover_deadline_ms() -> u32 {
    150
}

const fn tries() -> u8 {
    3
}

impl HookOptions {
    /// Told of everything, with everything else at its default.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            phases: Vec::new(),
            deadline_ms: deadline_ms(),
            cutover_deadline_ms: cutover_deadline_ms(),
            tries: tries(),
            ca_file: None,
        }
    }

    pub(super) fn is_told_of(&self, phase: HookPhase) -> bool {
        self.phases.is_empty() || self.phases.contains(&phase)
    }

    pub(super) fn deadline(&self, phase: HookPhase) -> Duration {
        let millis = if phase.in_cutover() { self.cutover_deadline_ms } else { self.deadline_ms };
        Duration::from_millis(millis.into())
    }
}

/// Why hooks cannot be used as they are described.
#[derive(Debug, thiserror::Error)]
pub enum HookInvalid {
    /// A value makes no sense.
    #[error("{url}: {rule}")]
    Value {
        /// Of which hook.
        url: String,
        /// What must be.
        rule: String,
    },
    /// There are too many, or none.
    #[error("between 1 and {HOOKS_MAX} of them, not {found}")]
    Count {
        /// How many there are.
        found: usize,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] PemError),
}

impl HookInvalid {
    /// Stable code.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Value { .. } | Self::Count { .. } => "INVALID_OPTION",
            Self::File(PemError::Exposed { .. }) => "HOOK_KEY_EXPOSED",
            Self::File(_) => "HOOK_FILE_INVALID",
        }
    }
}

impl HooksOptions {
    /// The key, and that everything else makes sense.
    pub(super) fn read(&self) -> Result<SigningKey, HookInvalid> {
        if !(1..=HOOKS_MAX).contains(&self.hooks.len()) {
            return Err(HookInvalid::Count { found: self.hooks.len() });
        }
        for hook in &self.hooks {
            let invalid = |rule: String| Err(HookInvalid::Value { url: shown(&hook.url), rule });
            if !DEADLINE_MS.contains(&hook.deadline_ms) {
                return invalid(format!(
                    "deadline-ms lies between {} and {}",
                    DEADLINE_MS.start(),
                    DEADLINE_MS.end()
                ));
            }
            if !CUTOVER_DEADLINE_MS.contains(&hook.cutover_deadline_ms) {
                let (least, most) = (CUTOVER_DEADLINE_MS.start(), CUTOVER_DEADLINE_MS.end());
                return invalid(format!("cutover-deadline-ms lies between {least} and {most}"));
            }
            if !(1..=10).contains(&hook.tries) {
                return invalid("tries lies between 1 and 10".into());
            }
        }
        read_key(&self.key_file)
    }
}

fn read_key(path: &Path) -> Result<SigningKey, HookInvalid> {
    let text = pem::private(path, KEY_FILE_BYTES_MAX)?;
    let file = |reason: String| HookInvalid::File(PemError::Content { path: path.to_owned(), reason });
    let text = std::str::from_utf8(&text).map_err(|_| file("it is no key".into()))?;
    text.trim().parse().map_err(|invalid: cell_trust::InvalidKey| file(invalid.to_string()))
}
