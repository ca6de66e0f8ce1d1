//! `If-Match` and `If-None-Match` of a write.

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::problem::Problem;

/// What must be so before a document is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    /// It must exist.
    Exists,
    /// It must not exist.
    Absent,
    /// It must have one of these versions.
    Version(Vec<u64>),
}

const HINT: &str = "send the ETag of your last read in If-Match, or If-None-Match: * to create only";

impl Condition {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let invalid = |detail| Problem::bad_request("CONDITION_INVALID", detail, HINT);
        match (headers.get(IF_MATCH), headers.get(IF_NONE_MATCH)) {
            (None, None) => Ok(Self::None),
            (Some(value), None) if value == "*" => Ok(Self::Exists),
            (Some(value), None) => versions(value)
                .map(Self::Version)
                .ok_or_else(|| invalid("If-Match is not a list of this cell's ETags")),
            (None, Some(value)) if value == "*" => Ok(Self::Absent),
            (None, Some(_)) => Err(invalid("of a write, If-None-Match can only be *")),
            (Some(_), Some(_)) => Err(invalid("If-Match and If-None-Match exclude each other")),
        }
    }

    /// Holds the condition against the version that is there.
    pub(crate) fn check(&self, found: Option<u64>) -> Result<(), Problem> {
        let holds = match self {
            Self::None => true,
            Self::Exists => found.is_some(),
            Self::Absent => found.is_none(),
            Self::Version(versions) => found.is_some_and(|found| versions.contains(&found)),
        };
        if holds {
            return Ok(());
        }
        let detail = match found {
            Some(version) => format!("the document has the ETag \"{version}\""),
            None => "there is no such document".into(),
        };
        Err(Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "ETAG_MISMATCH",
            detail,
            "read the document and try again",
        ))
    }
}

fn versions(value: &HeaderValue) -> Option<Vec<u64>> {
    let one = |tag: &str| tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    value.to_str().ok()?.split(',').map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(name: http::HeaderName, value: &'static str) -> Result<Condition, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        Condition::from_headers(&headers)
    }

    #[test]
    fn conditions_are_read_and_held() {
        assert_eq!(Condition::from_headers(&HeaderMap::new()), Ok(Condition::None));
        let listed = condition(IF_MATCH, "\"3\", \"5\"").unwrap();
        assert_eq!(listed, Condition::Version(vec![3, 5]));
        assert!(listed.check(Some(5)).is_ok());
        assert!(listed.check(Some(4)).is_err());
        assert!(listed.check(None).is_err());
        assert!(condition(IF_MATCH, "*").unwrap().check(None).is_err());
        assert!(condition(IF_NONE_MATCH, "*").unwrap().check(None).is_ok());
        assert!(condition(IF_NONE_MATCH, "*").unwrap().check(Some(1)).is_err());
        assert!(Condition::None.check(None).is_ok());
    }

    #[test]
    fn a_condition_that_makes_no_sense_is_refused() {
        for (name, value) in [(IF_MATCH, "3"), (IF_MATCH, "W/\"3\""), (IF_MATCH, "\"x\""), (IF_NONE_MATCH, "\"3\"")]
        {
            assert!(condition(name, value).is_err(), "{value}");
        }
    }
}
