//! An earlier try of the same command, as an unknown outcome printed it.

use cell_model::{RequestId, UnixMillis};

/// A try of a command, as an unknown outcome printed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlierTry {
    /// Its name,
    pub id: RequestId,
    /// and when it was made first, by this machine's clock, where that is known.
    pub first_tried: Option<UnixMillis>,
}

/// Reads `HEX` or `HEX@MS`.
pub(super) fn earlier_try(text: &str) -> Result<EarlierTry, String> {
    let (id, tried) = text.split_once('@').map_or((text, None), |(id, tried)| (id, Some(tried)));
    let digits = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(id, 16).ok().filter(|_| digits);
    let id = number.map(RequestId).ok_or_else(|| "32 hexadecimal digits are wanted".to_owned())?;
    let first_tried = tried.map(|tried| tried.parse().map(UnixMillis)).transpose();
    let first_tried = first_tried.map_err(|_| "behind @ milliseconds since 1970 are wanted".to_owned())?;
    Ok(EarlierTry { id, first_tried })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_try_is_its_id_and_when_it_was_made_where_that_is_known() {
        let id = "000000000000000000000000000000ff";
        let tried = |first_tried: Option<u64>| {
            Ok(EarlierTry { id: RequestId(255), first_tried: first_tried.map(UnixMillis) })
        };
        assert_eq!(earlier_try(id), tried(None));
        assert_eq!(earlier_try(&format!("{id}@77")), tried(Some(77)));
        for bad in ["ff", "", "@77", "x@77"] {
            assert!(earlier_try(bad).unwrap_err().contains("32 hexadecimal"), "{bad}");
        }
        assert!(earlier_try(&format!("{id}@soon")).unwrap_err().contains("milliseconds"));
    }
}
