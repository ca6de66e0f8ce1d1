//! Which of the fields that the router goes by a head has, and which of them more than once: found in one pass over the
//! head. Most heads have few of them, and to look for each by its name would cost more than the rest of the strict layer.

use cell_gate::wire;
use http::{HeaderMap, HeaderName};

/// A field that the router goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Authorization,
    Connection,
    ContentLength,
    ContentType,
    Cookie,
    Expect,
    Forwarded,
    ForwardedFor,
    ForwardedHost,
    ForwardedPort,
    ForwardedPrefix,
    ForwardedProto,
    Host,
    Http2Settings,
    IdempotencyKey,
    KeepAlive,
    MethodOverride,
    ProxyConnection,
    RealIp,
    RequestId,
    /// Whatever begins as only Cellway's own fields do.
    Reserved,
    Te,
    TransferEncoding,
    Upgrade,
    /// One whose name is not made of letters, digits and hyphens alone.
    Unusual,
}

impl Field {
    /// The field of this name, if it is one of those with a name of their own.
    pub(super) fn named(name: &HeaderName) -> Option<Self> {
        let field = match name.as_str() {
            "authorization" => Self::Authorization,
            "connection" => Self::Connection,
            "content-length" => Self::ContentLength,
            "content-type" => Self::ContentType,
            "cookie" => Self::Cookie,
            "expect" => Self::Expect,
            "forwarded" => Self::Forwarded,
            "x-forwarded-for" => Self::ForwardedFor,
            "x-forwarded-host" => Self::ForwardedHost,
            "x-forwarded-port" => Self::ForwardedPort,
            "x-forwarded-prefix" => Self::ForwardedPrefix,
            "x-forwarded-proto" => Self::ForwardedProto,
            "host" => Self::Host,
            "http2-settings" => Self::Http2Settings,
            "idempotency-key" => Self::IdempotencyKey,
            "keep-alive" => Self::KeepAlive,
            "x-http-method-override" | "x-http-method" | "x-method-override" => Self::MethodOverride,
            "proxy-connection" => Self::ProxyConnection,
            "x-real-ip" => Self::RealIp,
            "x-request-id" => Self::RequestId,
            "te" => Self::Te,
            "transfer-encoding" => Self::TransferEncoding,
            "upgrade" => Self::Upgrade,
            _ => return None,
        };
        Some(field)
    }
}

/// The fields of one head, as it came.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fields {
    there: u32,
    repeated: u32,
}

impl Fields {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, _) in headers {
            match Field::named(name) {
                Some(field) => fields.add(field),
                None => fields.add_unnamed(name.as_str()),
            }
        }
        fields
    }

    fn add(&mut self, field: Field) {
        let bit = 1 << field as u32;
        self.repeated |= self.there & bit;
        self.there |= bit;
    }

    fn add_unnamed(&mut self, name: &str) {
        if name.starts_with(wire::RESERVED_PREFIX) {
            self.add(Field::Reserved);
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            self.add(Field::Unusual);
        }
    }

    /// Whether the head has it. False is certain; so is true, for all but what has been taken out since.
    pub(crate) fn has(self, field: Field) -> bool {
        self.there & (1 << field as u32) != 0
    }

    /// Whether the head has it more than once.
    pub(crate) fn repeats(self, field: Field) -> bool {
        self.repeated & (1 << field as u32) != 0
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn one_pass_finds_what_looking_for_each_name_finds() {
        let mut headers = HeaderMap::new();
        for name in ["host", "accept", "cookie", "x_tenant_id", "cell-any_thing", "cookie", "x-http-method", "te"] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        let fields = Fields::of(&headers);
        headers.remove("x_tenant_id");
        assert!(Fields::of(&headers).has(Field::Unusual), "a reserved one can be unusual");
        for there in [Field::Host, Field::Cookie, Field::Unusual, Field::Reserved, Field::MethodOverride, Field::Te]
        {
            assert!(fields.has(there), "{there:?}");
        }
        for gone in [Field::Connection, Field::Upgrade, Field::Authorization, Field::TransferEncoding] {
            assert!(!fields.has(gone), "{gone:?}");
        }
        assert!(fields.repeats(Field::Cookie) && !fields.repeats(Field::Host));
    }
}
