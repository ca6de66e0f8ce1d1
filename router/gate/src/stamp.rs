//! What a router says about a request: whose it is, and which owner the router believes in.

use cell_model::{Epoch, TenantId, Uid};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire;
use crate::wire::Code;

/// The tenant of a request and the (uid, epoch) under which it was sent and admitted.
///
/// The gate leaves it in the extensions of an admitted request; the data layer checks it again inside the write.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestStamp {
    /// Whose request it is.
    pub tenant: TenantId,
    /// The incarnation of the tenant.
    pub uid: Uid,
    /// The epoch of the owner's grant.
    pub epoch: Epoch,
}

/// Why a request has no usable stamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// A header is missing.
    #[error("the request carries no header {header}")]
    Missing {
        /// Its name.
        header: &'static str,
    },
    /// A header is there twice or cannot be read.
    #[error("the header {header} cannot be read: {rule}")]
    Malformed {
        /// Its name.
        header: &'static str,
        /// The rule that it breaks.
        rule: String,
    },
}

impl StampError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::StampMissing,
            Self::Malformed { .. } => Code::StampMalformed,
        }
    }
}

impl RequestStamp {
    /// Reads the stamp from a request's headers.
    ///
    /// # Errors
    /// [`StampError`] where a header is missing, there twice, or malformed.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, StampError> {
        let tenant = single(headers, &wire::TENANT, "cell-tenant")?;
        let tenant = TenantId::new(tenant)
            .map_err(|invalid| StampError::Malformed { header: "cell-tenant", rule: invalid.to_string() })?;
        let uid = Uid(decimal(headers, &wire::UID, "cell-uid")?);
        let epoch = Epoch(decimal(headers, &wire::EPOCH, "cell-epoch")?);
        Ok(Self { tenant, uid, epoch })
    }

    /// Writes the stamp over whatever a request carries.
    pub fn insert_into(&self, headers: &mut HeaderMap) {
        let stamp = StampValues::new(&self.tenant, self.uid, self.epoch);
        for (name, value) in stamp.fields() {
            headers.insert(name, value.clone());
        }
    }
}

/// A stamp as it stands in a head: made once for all requests that carry the same.
#[derive(Debug, Clone)]
pub struct StampValues {
    tenant: HeaderValue,
    uid: HeaderValue,
    epoch: HeaderValue,
}

impl StampValues {
    /// The stamp of these.
    #[must_use]
    pub fn new(tenant: &TenantId, uid: Uid, epoch: Epoch) -> Self {
        let tenant = HeaderValue::from_str(tenant.as_str()).expect("a DNS label is a header value");
        Self { tenant, uid: number(uid.get()), epoch: number(epoch.get()) }
    }

    /// Its fields, of which a request has each once.
    #[must_use]
    pub fn fields(&self) -> [(&'static HeaderName, &HeaderValue); 3] {
        [(&wire::TENANT, &self.tenant), (&wire::UID, &self.uid), (&wire::EPOCH, &self.epoch)]
    }
}

/// The longest number below 2^64.
const DIGITS_MAX: usize = 20;

/// A number as a header value. Written in place, it takes one allocation.
fn number(mut rest: u64) -> HeaderValue {
    let mut text = [b'0'; DIGITS_MAX];
    let mut first = DIGITS_MAX - 1;
    for at in (0..DIGITS_MAX).rev() {
        text[at] += u8::try_from(rest % 10).expect("below ten");
        first = at;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&text[first..]).expect("digits are a header value")
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName, header: &'static str) -> Result<&'h str, StampError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().ok_or(StampError::Missing { header })?;
    if values.next().is_some() {
        return Err(StampError::Malformed { header, rule: "it must be there once".into() });
    }
    first.to_str().map_err(|_| StampError::Malformed { header, rule: "it must be visible ASCII".into() })
}

fn decimal(headers: &HeaderMap, name: &HeaderName, header: &'static str) -> Result<u64, StampError> {
    let text = single(headers, name, header)?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| StampError::Malformed { header, rule: "it must be a decimal number below 2^64".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> RequestStamp {
        RequestStamp { tenant: TenantId::new("t-1").unwrap(), uid: Uid(7), epoch: Epoch(u64::MAX) }
    }

    #[test]
    fn a_stamp_reads_back_what_was_written() {
        let mut headers = HeaderMap::new();
        stamp().insert_into(&mut headers);
        assert_eq!(RequestStamp::from_headers(&headers), Ok(stamp()));
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for value in [0, 7, 10, 99, 1_000, 4_294_967_296, u64::MAX - 1, u64::MAX] {
            assert_eq!(number(value).to_str().unwrap(), value.to_string());
        }
    }

    #[test]
    fn a_missing_header_is_named() {
        for (missing, name) in
            [(&wire::TENANT, "cell-tenant"), (&wire::UID, "cell-uid"), (&wire::EPOCH, "cell-epoch")]
        {
            let mut headers = HeaderMap::new();
            stamp().insert_into(&mut headers);
            headers.remove(missing);
            let refused = RequestStamp::from_headers(&headers).unwrap_err();
            assert_eq!(refused, StampError::Missing { header: name });
            assert_eq!(refused.code(), Code::StampMissing);
        }
    }

    #[test]
    fn a_header_that_is_there_twice_or_is_no_number_is_malformed() {
        let mut twice = HeaderMap::new();
        stamp().insert_into(&mut twice);
        twice.append(&wire::TENANT, HeaderValue::from_static("t-2"));
        assert_eq!(RequestStamp::from_headers(&twice).unwrap_err().code(), Code::StampMalformed);
        for bad in ["", "+1", "-1", "1.0", "0x1", " 1", "18446744073709551616"] {
            let mut headers = HeaderMap::new();
            stamp().insert_into(&mut headers);
            headers.insert(&wire::EPOCH, HeaderValue::from_str(bad).unwrap());
            assert_eq!(RequestStamp::from_headers(&headers).unwrap_err().code(), Code::StampMalformed, "{bad:?}");
        }
    }
}
