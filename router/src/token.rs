//! The tenant of a bearer token (RFC 7519, as RFC 8725 wants it verified): algorithms are pinned by the options, never by
//! the token; issuer, audience and expiry have to be there; a verified token is remembered until it expires or its key
//! is withdrawn.
//!
//! ```text
//! Authorization: Bearer … ─► remembered? ─► yes: its tenant
//!                              │ no
//!                              ▼
//!                            key known? ─► no: the keys are fetched once for all who wait (keys)
//!                              │ yes
//!                              ▼
//!                            signature, claims ─► tenant, remembered
//! ```

mod fetch;
mod keys;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cell_model::TenantId;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use tokio::time::Instant;

use crate::options::TokenOptions;
use crate::refusal::{Code, Refusal};

use keys::Key;
pub(crate) use keys::{Fetcher, Keys, check, check_origin};

/// Longer ones are not looked at.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// How long a request waits for keys.
const KEYS_WAIT_MAX: Duration = Duration::from_secs(2);

/// What is verified, checked once when the router starts.
#[derive(Debug, Clone)]
pub(crate) struct TokenRules {
    algorithms: Vec<Algorithm>,
    validation: Validation,
    claim: String,
    pub(crate) required: bool,
    cached_max: usize,
}

impl TokenRules {
    /// The rule that an option breaks, where one does.
    pub(crate) fn new(options: &TokenOptions) -> Result<Self, (&'static str, String)> {
        let mut algorithms = Vec::new();
        for name in &options.algorithms {
            let algorithm: Algorithm =
                name.parse().map_err(|_| ("tenant.token.algorithms", format!("{name:?} is not an algorithm")))?;
            if matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
                let rule = format!("{name} signs with a secret that every verifier would have to know");
                return Err(("tenant.token.algorithms", rule));
            }
            algorithms.push(algorithm);
        }
        let Some(first) = algorithms.first() else {
            return Err(("tenant.token.algorithms", "at least one is needed".into()));
        };
        for (option, value) in [
            ("tenant.token.jwks", &options.jwks),
            ("tenant.token.issuer", &options.issuer),
            ("tenant.token.audience", &options.audience),
            ("tenant.token.claim", &options.claim),
        ] {
            if value.is_empty() {
                return Err((option, "must not be empty".into()));
            }
        }
        if options.jwks.starts_with("https://") && options.jwks_ca_file.is_none() {
            return Err(("tenant.token.jwks-ca-file", "is needed for an https:// address".into()));
        }
        let mut validation = Validation::new(*first);
        validation.set_issuer(&[&options.issuer]);
        validation.set_audience(&[&options.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = options.leeway.as_secs();
        Ok(Self {
            algorithms,
            validation,
            claim: options.claim.clone(),
            required: options.required,
            cached_max: options.cached_max,
        })
    }
}

/// A thread's verifier.
pub(crate) struct Verifier {
    rules: TokenRules,
    keys: Arc<Keys>,
    remembered: RefCell<Remembered>,
}

/// Verified tokens in two generations: when the young one is full, it becomes the old one, and the old one is forgotten.
#[derive(Default)]
struct Remembered {
    young: HashMap<[u8; 32], Verified>,
    old: HashMap<[u8; 32], Verified>,
}

#[derive(Clone)]
struct Verified {
    tenant: TenantId,
    until: u64,
    key_id: String,
    key: Arc<Key>,
}

impl Verifier {
    pub(crate) fn new(rules: TokenRules, keys: Arc<Keys>) -> Self {
        Self { rules, keys, remembered: RefCell::default() }
    }

    /// The tenant that the request's token names. None: there is no token, and none is needed.
    pub(crate) async fn tenant_of(&self, headers: &HeaderMap) -> Result<Option<TenantId>, Refusal> {
        let Some(token) = bearer(headers)? else {
            if self.rules.required {
                let detail = "the request carries no `Authorization: Bearer` token";
                return Err(Refusal::new(Code::TokenMissing, detail));
            }
            return Ok(None);
        };
        let digest = *blake3::hash(token.as_bytes()).as_bytes();
        if let Some(tenant) = self.recall(&digest, now()) {
            return Ok(Some(tenant));
        }
        let verified = Box::pin(self.verify(token)).await?;
        let tenant = verified.tenant.clone();
        self.remember(digest, verified);
        Ok(Some(tenant))
    }

    fn recall(&self, digest: &[u8; 32], now: u64) -> Option<TenantId> {
        let remembered = self.remembered.borrow();
        let found = remembered.young.get(digest).or_else(|| remembered.old.get(digest))?;
        // A key that was withdrawn takes its tokens along.
        (now < found.until && self.keys.has(&found.key_id, &found.key)).then(|| found.tenant.clone())
    }

    fn remember(&self, digest: [u8; 32], verified: Verified) {
        let mut remembered = self.remembered.borrow_mut();
        if remembered.young.len() >= self.rules.cached_max.div_ceil(2) {
            remembered.old = std::mem::take(&mut remembered.young);
        }
        if self.rules.cached_max > 0 {
            remembered.young.insert(digest, verified);
        }
    }

    async fn verify(&self, token: &str) -> Result<Verified, Refusal> {
        let header = decode_header(token)
            .map_err(|_| invalid("its header is not JSON in base64url, or names an algorithm that nobody knows"))?;
        if !self.rules.algorithms.contains(&header.alg) {
            return Err(invalid(format!("algorithm {:?} is not accepted here", header.alg)));
        }
        let key_id = header.kid.unwrap_or_default();
        if key_id.len() > 256 {
            return Err(invalid("its key id is longer than 256 bytes"));
        }
        let key = self.key(&key_id).await?;
        if !key.fits(header.alg) {
            return Err(invalid(format!("key {key_id:?} is not for algorithm {:?}", header.alg)));
        }
        let mut validation = self.rules.validation.clone();
        validation.algorithms = vec![header.alg];
        let claims = decode::<serde_json::Map<String, serde_json::Value>>(token, key.decoding(), &validation)
            .map_err(|error| invalid(why(error.kind())))?
            .claims;
        let name = claims
            .get(&self.rules.claim)
            .and_then(serde_json::Value::as_str)
            .ok_or_else(|| invalid(format!("it has no claim {:?} that is a text", self.rules.claim)))?;
        let tenant = TenantId::new(name)
            .map_err(|rule| invalid(format!("its claim {:?} is not a tenant: {rule}", self.rules.claim)))?;
        let expires = claims.get("exp").and_then(serde_json::Value::as_u64).unwrap_or_default();
        let until = expires.saturating_add(self.rules.validation.leeway);
        Ok(Verified { tenant, until, key_id, key })
    }

    async fn key(&self, key_id: &str) -> Result<Arc<Key>, Refusal> {
        if let Some(key) = self.keys.find(key_id) {
            return Ok(key);
        }
        self.keys.fetched_since(Instant::now(), KEYS_WAIT_MAX).await;
        if let Some(key) = self.keys.find(key_id) {
            return Ok(key);
        }
        if self.keys.is_known() {
            Err(invalid(format!("its key {key_id:?} is not among the issuer's")))
        } else {
            Err(Refusal::new(Code::TokenKeysUnavailable, "the issuer's keys have not been fetched yet"))
        }
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| invalid("the header Authorization is not visible ASCII"))?;
    let Some((scheme, token)) = text.split_once(' ') else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    let token = token.trim_matches(' ');
    if token.len() > TOKEN_BYTES_MAX {
        return Err(invalid(format!("it is longer than {TOKEN_BYTES_MAX} bytes")));
    }
    Ok(Some(token))
}

/// What is wrong with a token, for whoever has sent it.
fn why(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "it has expired (claim \"exp\")".into(),
        ErrorKind::ImmatureSignature => "it is not valid yet (claim \"nbf\")".into(),
        ErrorKind::InvalidIssuer => {
            "it is of another issuer than the one that is believed here (claim \"iss\")".into()
        }
        ErrorKind::InvalidAudience => "it is for another audience (claim \"aud\")".into(),
        ErrorKind::MissingRequiredClaim(claim) => format!("it has no claim {claim:?}"),
        ErrorKind::InvalidClaimFormat(claim) => format!("its claim {claim:?} cannot be read"),
        ErrorKind::InvalidSignature => "its signature is not by the key that it names".into(),
        ErrorKind::InvalidToken => "it is not three parts with dots between them".into(),
        ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            "its claims are not JSON in base64url".into()
        }
        _ => "it cannot be verified".into(),
    }
}

fn invalid(reason: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::TokenInvalid, format!("the token is not accepted: {reason}"))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
