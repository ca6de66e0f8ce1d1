//! Names and numbers, each with a type of its own so that an epoch can never be passed for a revision.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidId {
    /// What kind of id was wanted.
    pub kind: &'static str,
    /// The text as given, cut after 80 characters.
    pub given: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a {}: {}", self.given, self.kind, self.rule)
    }
}

impl std::error::Error for InvalidId {}

const LABEL_LENGTH_MAX: usize = 63;
const LABEL_RULE: &str = "1 to 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit";

/// The rule of a DNS label (RFC 1123), in lower case: an id is usable as a host name, a path segment and a key.
fn check_label(kind: &'static str, text: &str) -> Result<(), InvalidId> {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let well_formed = (1..=LABEL_LENGTH_MAX).contains(&bytes.len())
        && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1]);
    if well_formed {
        Ok(())
    } else {
        Err(InvalidId { kind, given: text.chars().take(80).collect(), rule: LABEL_RULE })
    }
}

macro_rules! label_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Checks the text and takes it as an id.
            ///
            /// # Errors
            /// [`InvalidId`] where the text is not a lower-case DNS label.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                check_label($kind, text.as_ref())?;
                Ok(Self(text.as_ref().into()))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Label;

                impl Visitor<'_> for Label {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a {}: {LABEL_RULE}", $kind)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Label)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

label_id!(
    /// The unit of placement.
    TenantId(Box<str>),
    "tenant id"
);
label_id!(
    /// An independent full stack of bounded size. Copies share the text: each of a million tenants names its owner.
    CellId(Arc<str>),
    "cell id"
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The bare number, for the wire and for logs.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number!(
    /// Incarnation of a tenant: the revision that created it. A name that is created again gets a higher one.
    Uid(u64)
);
number!(
    /// The fencing token: rises only when the set of cells that may serve the tenant changes.
    Epoch(u64)
);
number!(
    /// Version of one tenant's record: rises on every change.
    Rev(u64)
);
number!(
    /// Store-wide counter, one more with each applied command that changed something; the watch cursor.
    Revision(u64)
);
number!(
    /// Incarnation of the control plane's history. A restore makes a higher one.
    Lineage(u64)
);
number!(
    /// Raft's term, and nothing else.
    Term(u64)
);
number!(
    /// Incarnation of a cell's agent: one more each time it opens its data directory.
    Generation(u64)
);
number!(
    /// Try of a move's step: acknowledgements of an older attempt are refused.
    Attempt(u32)
);
number!(
    /// Place of a change in a tenant's commit order.
    Seq(u64)
);
number!(
    /// Milliseconds since the Unix epoch, as the proposer's clock said. Used for stamps and pauses, never for safety.
    UnixMillis(u64)
);

/// A random number that names one cluster for its whole life.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A client's random name for one request, so that a retry runs once.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A move, named after the revision of the command that asked for it: `m-4182`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MoveId(pub u64);

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("m-{}", self.0))
    }
}

impl fmt::Debug for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m-{}", self.0)
    }
}

impl FromStr for MoveId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.strip_prefix("m-").and_then(|number| number.parse().ok()).map(Self).ok_or_else(|| InvalidId {
            kind: "move id",
            given: text.chars().take(80).collect(),
            rule: "'m-' and the number of the revision that made it, as `cellctl get moves` prints it",
        })
    }
}

/// What a tenant's rows add up to: the number of rows and the wrapping sum of their 128-bit row hashes, so that it
/// can be kept up to date change by change, in any order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest {
    /// Number of rows.
    pub rows: u64,
    /// Sum of the row hashes modulo 2^128.
    pub sum: u128,
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:032x}", self.rows, self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_taken_and_anything_else_is_named() {
        for good in ["a", "t-0001", "0", &"x".repeat(63)] {
            assert_eq!(TenantId::new(good).expect("a label").as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "é", "a b", "a/b", &"x".repeat(64)] {
            let refused = TenantId::new(bad).expect_err("not a label");
            assert!(refused.to_string().contains("tenant id"), "{refused}");
        }
    }

    #[test]
    fn a_move_id_reads_back_what_it_prints() {
        let id = MoveId(4182);
        assert_eq!(id.to_string().parse::<MoveId>(), Ok(id));
        for bad in ["4182", "m-", "m-x", "M-1", "m--1"] {
            bad.parse::<MoveId>().expect_err("not a move id");
        }
    }

    #[test]
    fn an_id_inside_a_document_is_checked_too() {
        assert!(serde_json::from_str::<CellId>("\"Not A Cell\"").is_err());
        assert!(serde_json::from_str::<CellId>("\"c1\"").is_ok());
    }
}
