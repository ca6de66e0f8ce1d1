//! Options of the edge itself: TLS, who a request is from, how cells are spoken to.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// TLS towards clients (TLS 1.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TlsOptions {
    /// Certificates, chosen by the name that the client asks for; the first one where no name fits.
    pub certificates: Vec<CertificateFiles>,
    /// Whose certificates clients may show (PEM). None: clients are not asked for one.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client has to show one.
    #[serde(default)]
    pub client_certificate_required: bool,
    /// How often the files are looked at for a change.
    #[serde(default = "reload_interval", with = "duration")]
    pub reload_interval: Duration,
}

fn reload_interval() -> Duration {
    Duration::from_secs(10)
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub certificate_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// Who a request is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct IdentityOptions {
    /// What may name the tenant. The first that does, names it; any other that does, has to agree. What is not listed
    /// is not looked at, and a header `X-Tenant-ID` that is not looked at is not passed on.
    pub order: Vec<Source>,
    /// What stands before the tenant's name in a path. It is taken off together with the name.
    pub path_prefix: String,
    /// How tokens are verified. Needed where `order` lists `token`.
    pub token: Option<TokenOptions>,
}

/// A part of a request that may name its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `<tenant>.<domain>`.
    Host,
    /// `/t/<tenant>/…`.
    Path,
    /// `X-Tenant-ID: <tenant>`.
    Header,
    /// The client's certificate: a URI name that ends in `/tenant/<tenant>`.
    Certificate,
    /// A claim of a bearer token.
    Token,
}

impl Default for IdentityOptions {
    fn default() -> Self {
        Self { order: vec![Source::Host, Source::Header], path_prefix: "/t/".into(), token: None }
    }
}

/// How tokens are verified (RFC 7519, RFC 8725).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TokenOptions {
    /// The issuer's keys (RFC 7517): a file, or an `http://` or `https://` address.
    pub jwks: String,
    /// Whose certificates the server of an `https://` address may have (PEM).
    #[serde(default)]
    pub jwks_ca_file: Option<PathBuf>,
    /// `iss` has to be this.
    pub issuer: String,
    /// `aud` has to be, or to contain, this.
    pub audience: String,
    /// Signature algorithms that are accepted, such as `EdDSA` or `ES256`. No others, whatever a token says.
    pub algorithms: Vec<String>,
    /// The claim that names the tenant.
    #[serde(default = "claim")]
    pub claim: String,
    /// Whether a request without a token is refused.
    #[serde(default = "yes")]
    pub required: bool,
    /// How far the issuer's clock may be from ours.
    #[serde(default = "leeway", with = "duration")]
    pub leeway: Duration,
    /// How often the keys are fetched.
    #[serde(default = "refresh_interval", with = "duration")]
    pub refresh_interval: Duration,
    /// At most so often they are fetched because a token names a key that is not known.
    #[serde(default = "refresh_min_interval", with = "duration")]
    pub refresh_min_interval: Duration,
    /// Verified tokens that one thread remembers until they expire.
    #[serde(default = "cached_max")]
    pub cached_max: usize,
}

fn claim() -> String {
    "tenant".into()
}

fn yes() -> bool {
    true
}

fn leeway() -> Duration {
    Duration::from_secs(30)
}

fn refresh_interval() -> Duration {
    Duration::from_secs(300)
}

fn refresh_min_interval() -> Duration {
    Duration::from_secs(10)
}

fn cached_max() -> usize {
    20_000
}

/// The signed context that gates and applications verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ContextOptions {
    /// The router's secret key: 64 hexadecimal digits.
    pub key_file: PathBuf,
    /// For how long a context is good.
    #[serde(default = "validity", with = "duration")]
    pub validity: Duration,
}

fn validity() -> Duration {
    Duration::from_secs(30)
}

/// How cells are spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct UpstreamOptions {
    /// The protocol.
    pub protocol: UpstreamProtocol,
    /// TLS to the gates, with a certificate of this router. None: in the clear.
    pub tls: Option<UpstreamTlsOptions>,
}

/// The protocol that requests take to a cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamProtocol {
    /// HTTP/2 for gRPC, HTTP/1.1 for everything else.
    #[default]
    Auto,
    /// HTTP/1.1 for everything, also for gRPC.
    Http1,
    /// HTTP/2 for everything but upgrades.
    Http2,
}

/// TLS to the gates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UpstreamTlsOptions {
    /// Whose certificates gates have (PEM).
    pub ca_file: PathBuf,
    /// The router's own certificate and key, where gates ask for them.
    #[serde(default)]
    pub certificate: Option<CertificateFiles>,
    /// The name in the gates' certificates. None: the host of their address.
    #[serde(default)]
    pub server_name: Option<String>,
}
