//! request → tenant, from what the options list, in their order: `Host: <tenant>.<domain>`, a path that begins with
//! `/t/<tenant>`, `X-Tenant-ID`, the client's certificate, a claim of its token. Whatever names one has to name the same.

use cell_model::TenantId;
use http::request::Parts;
use http::{HeaderName, Uri};

use crate::options::{IdentityOptions, Source};
use crate::refusal::{Code, Refusal};
use crate::token::Verifier;

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

/// What may name a tenant, and how.
#[derive(Debug, Clone)]
pub(crate) struct IdentityRules {
    order: Vec<Source>,
    domains: Domains,
    /// With a slash at both ends.
    path_prefix: String,
}

impl IdentityRules {
    /// The rule that an option breaks, where one does.
    pub(crate) fn new(options: &IdentityOptions, domains: Domains) -> Result<Self, (&'static str, String)> {
        let order = &options.order;
        if order.is_empty() {
            return Err(("tenant.order", "at least one source is needed".into()));
        }
        if let Some(twice) = order.iter().enumerate().find(|(at, source)| order[..*at].contains(source)) {
            return Err(("tenant.order", format!("{} is listed twice", format!("{:?}", twice.1).to_lowercase())));
        }
        if *order == [Source::Host] && domains.0.is_empty() {
            let rule =
                "at least one is needed where tenant.order lists host alone: without it no request names a tenant";
            return Err(("domains", rule.into()));
        }
        if order.contains(&Source::Token) != options.token.is_some() {
            return Err(("tenant.token", "is needed where tenant.order lists token, and only there".into()));
        }
        let prefix = &options.path_prefix;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
        if !(prefix.starts_with('/') && prefix.ends_with('/') && prefix.bytes().all(plain)) {
            return Err(("tenant.path-prefix", "must be a path between two slashes".into()));
        }
        Ok(Self { order: order.clone(), domains, path_prefix: prefix.clone() })
    }

    fn reads(&self, source: Source) -> bool {
        self.order.contains(&source)
    }
}

/// What a client certificate says of tenants. The chain has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proven {
    /// Nothing.
    Nobody,
    One(TenantId),
    /// These two, or more: it proves none.
    Several(TenantId, TenantId),
}

/// Whose request it is. Takes out of the request what named it and means nothing to the application: the path's prefix,
/// and a header that is not looked at.
pub(crate) async fn identify(
    rules: &IdentityRules,
    verifier: Option<&Verifier>,
    certified: &Proven,
    parts: &mut Parts,
) -> Result<TenantId, Refusal> {
    let from_token = match verifier {
        Some(verifier) => verifier.tenant_of(&parts.headers).await?,
        None => None,
    };
    let tenant = agreed(rules, parts, certified, from_token.as_ref())?;
    if rules.reads(Source::Path) {
        take_prefix(parts, &rules.path_prefix);
    }
    if !rules.reads(Source::Header) {
        parts.headers.remove(&TENANT_HEADER);
    }
    Ok(tenant)
}

/// The tenant that everything names that is looked at.
fn agreed(
    rules: &IdentityRules,
    parts: &Parts,
    certified: &Proven,
    from_token: Option<&TenantId>,
) -> Result<TenantId, Refusal> {
    let mut first: Option<(Source, TenantId)> = None;
    for source in &rules.order {
        let named = match source {
            Source::Host => from_host(parts, &rules.domains)?,
            Source::Path => from_path(parts, &rules.path_prefix)?,
            Source::Header => from_header(parts)?,
            Source::Certificate => match certified {
                Proven::Nobody => None,
                Proven::One(tenant) => Some(tenant.clone()),
                Proven::Several(one, other) => {
                    let detail =
                        format!("the client's certificate names tenants {one} and {other}, and proves neither");
                    return Err(Refusal::new(Code::TenantMismatch, detail));
                }
            },
            Source::Token => from_token.cloned(),
        };
        let Some(named) = named else { continue };
        match &first {
            None => first = Some((*source, named)),
            Some((_, tenant)) if *tenant == named => {}
            Some((other, tenant)) => return Err(disagreement((*other, tenant), (*source, &named))),
        }
    }
    first.map(|(_, tenant)| tenant).ok_or_else(|| {
        let looked = rules.order.iter().map(|source| source.shown()).collect::<Vec<_>>().join(", ");
        Refusal::new(
            Code::TenantMissing,
            format!("nothing says which tenant the request is for (looked at: {looked})"),
        )
    })
}

/// Two parts of a request that are written by its sender only make no sense together; a proof of being another tenant is
/// an attempt.
fn disagreement(one: (Source, &TenantId), other: (Source, &TenantId)) -> Refusal {
    let proven = |source| matches!(source, Source::Certificate | Source::Token);
    let code = if proven(one.0) || proven(other.0) { Code::TenantMismatch } else { Code::TenantAmbiguous };
    let detail = format!("{} names tenant {}, {} names tenant {}", one.0.shown(), one.1, other.0.shown(), other.1);
    Refusal::new(code, detail)
}

impl Source {
    const fn shown(self) -> &'static str {
        match self {
            Self::Host => "the host",
            Self::Path => "the path",
            Self::Header => "the header X-Tenant-ID",
            Self::Certificate => "the client's certificate",
            Self::Token => "the token",
        }
    }
}

/// `/t/<tenant>` at the end or before a slash. A path that another reader could shorten names nobody for sure.
fn from_path(parts: &Parts, prefix: &str) -> Result<Option<TenantId>, Refusal> {
    let path = parts.uri.path();
    let Some(rest) = path.strip_prefix(prefix) else { return Ok(None) };
    let dots = |segment: &str| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    };
    if path.split('/').any(dots) {
        return Err(Refusal::new(Code::MessageAmbiguous, "the path names a tenant and has dot segments"));
    }
    let name = rest.split('/').next().unwrap_or_default();
    TenantId::new(name)
        .map(Some)
        .map_err(|invalid| Refusal::new(Code::TenantInvalid, format!("the path: {invalid}")))
}

/// Takes `/t/<tenant>` off.
fn take_prefix(parts: &mut Parts, prefix: &str) {
    let Some(rest) = parts.uri.path().strip_prefix(prefix) else { return };
    let path = rest.find('/').map_or("/", |at| &rest[at..]);
    // `//x` would be read as an authority.
    let path = format!("/{}", path.trim_start_matches('/'));
    let target = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    if let Ok(target) = target.parse() {
        uri.path_and_query = Some(target);
    }
    // What was an address before is one with another path.
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
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
    let is_plain = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    let tenant = if is_plain { TenantId::new(name) } else { TenantId::new(name.to_ascii_lowercase()) };
    tenant.map(Some).map_err(|invalid| Refusal::new(Code::TenantInvalid, format!("the host: {invalid}")))
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
    use futures::FutureExt as _;
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn domains() -> Domains {
        Domains::new(&["example.com".into(), ".Cells.Example.COM".into()]).unwrap()
    }

    fn found(host: &str, headers: &[&str]) -> Result<String, Code> {
        let mut request = Request::builder().uri("/").header("host", host);
        for value in headers {
            request = request.header("X-Tenant-ID", *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        agreed(&rules(&[]), &parts, &Proven::Nobody, None)
            .map(|tenant| tenant.to_string())
            .map_err(|refusal| refusal.code)
    }

    /// Host and header, and what is added.
    fn rules(more: &[Source]) -> IdentityRules {
        let mut options = IdentityOptions::default();
        options.order.extend(more);
        IdentityRules { order: options.order, domains: domains(), path_prefix: options.path_prefix }
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    #[test]
    fn a_proof_of_being_another_tenant_is_refused_as_such() {
        let rules = rules(&[Source::Certificate, Source::Token]);
        let request = Request::get("/").header("host", "b.example.com");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let (a, b) = (tenant("a"), tenant("b"));
        let code = |certified: Option<&TenantId>, token| {
            let certified = certified.cloned().map_or(Proven::Nobody, Proven::One);
            agreed(&rules, &parts, &certified, token).map_err(|refusal| refusal.code)
        };
        assert_eq!(code(None, Some(&a)), Err(Code::TenantMismatch), "tenant A's token, tenant B's host");
        assert_eq!(code(Some(&a), None), Err(Code::TenantMismatch));
        assert_eq!(code(Some(&b), Some(&a)), Err(Code::TenantMismatch));
        assert_eq!(code(Some(&b), Some(&b)), Ok(b.clone()));
        let several = agreed(&rules, &parts, &Proven::Several(a, b.clone()), Some(&b));
        assert_eq!(
            several.map_err(|refusal| refusal.code),
            Err(Code::TenantMismatch),
            "also beside a token of one of them"
        );
    }

    #[test]
    fn a_path_names_a_tenant_and_loses_it_on_the_way() {
        let rules = rules(&[Source::Path]);
        let through = |path: &str, host: &str| {
            let (mut parts, ()) = Request::get(path).header("host", host).body(()).unwrap().into_parts();
            let identified = identify(&rules, None, &Proven::Nobody, &mut parts).now_or_never().unwrap();
            identified.map(|tenant| (tenant.to_string(), parts.uri.to_string())).map_err(|refusal| refusal.code)
        };
        assert_eq!(through("/t/a/x/y?z=1", "other"), Ok(("a".into(), "/x/y?z=1".into())));
        assert_eq!(through("/t/a", "other"), Ok(("a".into(), "/".into())));
        assert_eq!(through("/t/a//evil.com", "other"), Ok(("a".into(), "/evil.com".into())));
        assert_eq!(through("http://other/t/a/x", "other"), Ok(("a".into(), "http://other/x".into())));
        assert_eq!(through("/t/a/x", "a.example.com"), Ok(("a".into(), "/x".into())));
        assert_eq!(through("/t/a/x", "b.example.com"), Err(Code::TenantAmbiguous));
        assert_eq!(through("/t/a/../b/x", "other"), Err(Code::MessageAmbiguous));
        assert_eq!(through("/t/a/%2E%2e/b", "other"), Err(Code::MessageAmbiguous));
        assert_eq!(through("/t//x", "other"), Err(Code::TenantInvalid));
        assert_eq!(through("/t/A_1/x", "other"), Err(Code::TenantInvalid));
        assert_eq!(through("/other", "other"), Err(Code::TenantMissing));
    }

    #[test]
    fn a_header_that_is_not_looked_at_does_not_reach_the_application() {
        let rules = IdentityRules { order: vec![Source::Host], domains: domains(), path_prefix: "/t/".into() };
        let request = Request::get("/").header("host", "a.example.com").header("x-tenant-id", "b");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let identified = identify(&rules, None, &Proven::Nobody, &mut parts).now_or_never().unwrap().unwrap();
        assert_eq!((identified.as_str(), parts.headers.len()), ("a", 1));
    }

    #[test]
    fn a_tenant_is_found_in_the_host_or_in_the_header() {
        assert_eq!(found("t-1.example.com", &[]), Ok("t-1".into()));
        assert_eq!(found("T-1.EXAMPLE.com:8443", &[]), Ok("t-1".into()));
        assert_eq!(found("t-1.example.com.", &[]), Ok("t-1".into()));
        assert_eq!(found("t-1.cells.example.com", &[]), Ok("t-1".into()), "the longest domain counts");
        assert_eq!(found("10.0.0.1:8080", &["t-2"]), Ok("t-2".into()));
        assert_eq!(found("[::1]:8080", &["t-2"]), Ok("t-2".into()));
        assert_eq!(found("example.com", &["t-2"]), Ok("t-2".into()));
        assert_eq!(found("t-2.example.com", &["t-2"]), Ok("t-2".into()));
    }

    #[test]
    fn a_request_that_names_two_tenants_is_refused() {
        assert_eq!(found("t-1.example.com", &["t-2"]), Err(Code::TenantAmbiguous));
        assert_eq!(found("other.org", &["t-1", "t-1"]), Err(Code::TenantAmbiguous));
        assert_eq!(found("other.org", &["t-1, t-2"]), Err(Code::TenantAmbiguous));
    }

    #[test]
    fn a_request_that_names_none_or_something_else_is_refused() {
        assert_eq!(found("other.org", &[]), Err(Code::TenantMissing));
        assert_eq!(found("example.com", &[]), Err(Code::TenantMissing));
        assert_eq!(found("notexample.com", &[]), Err(Code::TenantMissing));
        assert_eq!(found("a.b.example.com", &[]), Err(Code::TenantInvalid));
        assert_eq!(found(".example.com", &[]), Err(Code::TenantInvalid));
        assert_eq!(found("other.org", &["T-1"]), Err(Code::TenantInvalid));
        assert_eq!(found("other.org", &["a/b"]), Err(Code::TenantInvalid));
        assert_eq!(found("other.org", &[""]), Err(Code::TenantInvalid));
        assert_eq!(found("a_b.example.com", &["a-b"]), Err(Code::TenantInvalid));
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
                if let Ok(tenant) = agreed(&rules(&[]), &parts, &Proven::Nobody, None) {
                    let in_host = host.to_ascii_lowercase().starts_with(&format!("{tenant}."));
                    prop_assert!(in_host || header.as_deref() == Some(tenant.as_str()));
                }
            }
        }

        #[test]
        fn every_tenant_is_found_under_every_domain(name in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", port in proptest::option::of(1..u16::MAX)) {
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            prop_assert_eq!(found(&format!("{name}.example.com{port}"), &[]), Ok(name.clone()));
            prop_assert_eq!(found("example.com", &[&name]), Ok(name));
        }
    }
}
