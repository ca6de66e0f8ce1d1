//! request → tenant: from `Host: <tenant>.<domain>`, from `X-Tenant-ID`, or from both with the same value.

use cell_model::TenantId;
use http::request::Parts;
use http::{HeaderName, Uri};

use crate::refusal::{Code, Refusal};

/// The header that names a tenant.
pub(crate) static TENANT_HEADER: HeaderName = HeaderName::from_static("x-tenant-id");

/// The base domains, each with its leading dot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Domains(Vec<String>);

impl Domains {
    /// Takes `example.com` or `.example.com`, in any case; answers the first that is no domain.
    pub(crate) fn new(domains: &[String]) -> Result<Self, String> {
        let suffix = |domain: &String| {
            let bare = domain.strip_prefix('.').unwrap_or(domain).to_ascii_lowercase();
            let well_formed = bare.len() <= 253 && bare.split('.').all(|label| TenantId::new(label).is_ok());
            if well_formed { Ok(format!(".{bare}")) } else { Err(domain.clone()) }
        };
        domains.iter().map(suffix).collect::<Result<_, _>>().map(Self)
    }

    /// What stands before the longest base domain that a host ends in.
    fn name_within<'h>(&self, host: &'h str) -> Option<&'h str> {
        self.0.iter().filter_map(|suffix| strip_suffix_ignoring_case(host, suffix)).min_by_key(|name| name.len())
    }
}

fn strip_suffix_ignoring_case<'h>(host: &'h str, suffix: &str) -> Option<&'h str> {
    let at = host.len().checked_sub(suffix.len())?;
    let (name, end) = (host.get(..at)?, host.get(at..)?);
    end.eq_ignore_ascii_case(suffix).then_some(name)
}

/// Whose request it is.
pub(crate) fn tenant_of(parts: &Parts, domains: &Domains) -> Result<TenantId, Refusal> {
    let from_header = from_header(parts)?;
    let from_host = from_host(parts, domains)?;
    match (from_host, from_header) {
        (Some(host), Some(header)) if host != header => Err(Refusal::new(
            Code::TenantAmbiguous,
            format!("the host names tenant {host}, the header X-Tenant-ID names tenant {header}"),
        )),
        (Some(tenant), _) | (None, Some(tenant)) => Ok(tenant),
        (None, None) => Err(Refusal::new(
            Code::TenantMissing,
            "neither the host nor a header X-Tenant-ID says which tenant the request is for",
        )),
    }
}

fn from_header(parts: &Parts) -> Result<Option<TenantId>, Refusal> {
    let mut values = parts.headers.get_all(&TENANT_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::new(Code::TenantAmbiguous, "the header X-Tenant-ID is there more than once"));
    }
    let text = value.to_str().map_err(|_| Refusal::new(Code::TenantInvalid, "X-Tenant-ID is not visible ASCII"))?;
    if text.contains(',') {
        return Err(Refusal::new(Code::TenantAmbiguous, "the header X-Tenant-ID has more than one value"));
    }
    TenantId::new(text)
        .map(Some)
        .map_err(|invalid| Refusal::new(Code::TenantInvalid, format!("the header X-Tenant-ID: {invalid}")))
}

fn from_host(parts: &Parts, domains: &Domains) -> Result<Option<TenantId>, Refusal> {
    let Some(host) = host_of(parts) else { return Ok(None) };
    let host = without_port(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    let Some(name) = domains.name_within(host) else { return Ok(None) };
    TenantId::new(name.to_ascii_lowercase())
        .map(Some)
        .map_err(|invalid| Refusal::new(Code::TenantInvalid, format!("the host: {invalid}")))
}

/// The authority that a request is for: of HTTP/2 and of an absolute target in its URI, else in the header.
pub(crate) fn host_of(parts: &Parts) -> Option<&str> {
    authority_of(&parts.uri).or_else(|| parts.headers.get(http::header::HOST)?.to_str().ok())
}

/// The authority of a target that has one.
pub(crate) fn authority_of(uri: &Uri) -> Option<&str> {
    uri.authority().map(http::uri::Authority::as_str)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn domains() -> Domains {
        Domains::new(&["example.com".into(), ".Cells.Example.COM".into()]).unwrap()
    }

    fn identify(host: &str, headers: &[&str]) -> Result<String, Code> {
        let mut request = Request::builder().uri("/").header("host", host);
        for value in headers {
            request = request.header("X-Tenant-ID", *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        tenant_of(&parts, &domains()).map(|tenant| tenant.to_string()).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_tenant_is_found_in_the_host_or_in_the_header() {
        assert_eq!(identify("t-1.example.com", &[]), Ok("t-1".into()));
        assert_eq!(identify("T-1.EXAMPLE.com:8443", &[]), Ok("t-1".into()));
        assert_eq!(identify("t-1.example.com.", &[]), Ok("t-1".into()));
        assert_eq!(identify("t-1.cells.example.com", &[]), Ok("t-1".into()), "the longest domain counts");
        assert_eq!(identify("10.0.0.1:8080", &["t-2"]), Ok("t-2".into()));
        assert_eq!(identify("[::1]:8080", &["t-2"]), Ok("t-2".into()));
        assert_eq!(identify("example.com", &["t-2"]), Ok("t-2".into()));
        assert_eq!(identify("t-2.example.com", &["t-2"]), Ok("t-2".into()));
    }

    #[test]
    fn a_request_that_names_two_tenants_is_refused() {
        assert_eq!(identify("t-1.example.com", &["t-2"]), Err(Code::TenantAmbiguous));
        assert_eq!(identify("other.org", &["t-1", "t-1"]), Err(Code::TenantAmbiguous));
        assert_eq!(identify("other.org", &["t-1, t-2"]), Err(Code::TenantAmbiguous));
    }

    #[test]
    fn a_request_that_names_none_or_something_else_is_refused() {
        assert_eq!(identify("other.org", &[]), Err(Code::TenantMissing));
        assert_eq!(identify("example.com", &[]), Err(Code::TenantMissing));
        assert_eq!(identify("notexample.com", &[]), Err(Code::TenantMissing));
        assert_eq!(identify("a.b.example.com", &[]), Err(Code::TenantInvalid));
        assert_eq!(identify(".example.com", &[]), Err(Code::TenantInvalid));
        assert_eq!(identify("other.org", &["T-1"]), Err(Code::TenantInvalid));
        assert_eq!(identify("other.org", &["a/b"]), Err(Code::TenantInvalid));
        assert_eq!(identify("other.org", &[""]), Err(Code::TenantInvalid));
        assert_eq!(identify("a_b.example.com", &["a-b"]), Err(Code::TenantInvalid));
    }

    #[test]
    fn what_is_no_domain_is_named() {
        assert_eq!(Domains::new(&["example.com".into(), "ex ample".into()]).unwrap_err(), "ex ample");
        assert!(Domains::new(&[String::new()]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_identified_stands_in_the_request(host in "\\PC{0,40}", header in proptest::option::of("\\PC{0,40}")) {
            let mut request = Request::builder().uri("/").header("host", host.as_bytes());
            if let Some(header) = &header {
                request = request.header("x-tenant-id", header.as_bytes());
            }
            if let Ok(request) = request.body(()) {
                let (parts, ()) = request.into_parts();
                if let Ok(tenant) = tenant_of(&parts, &domains()) {
                    let in_host = host.to_ascii_lowercase().starts_with(&format!("{tenant}."));
                    prop_assert!(in_host || header.as_deref() == Some(tenant.as_str()));
                }
            }
        }

        #[test]
        fn every_tenant_is_found_under_every_domain(name in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", port in proptest::option::of(1..u16::MAX)) {
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            prop_assert_eq!(identify(&format!("{name}.example.com{port}"), &[]), Ok(name.clone()));
            prop_assert_eq!(identify("example.com", &[&name]), Ok(name));
        }
    }
}
