//! Names in certificates: which one answers for a host, and which tenant a client's is for.

use std::collections::HashMap;
use std::sync::Arc;

use cell_model::TenantId;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use super::files::{self, TlsError};
use crate::options::CertificateFiles;

/// The server's certificates.
#[derive(Debug)]
pub(super) struct Certificates {
    /// In the order of the options: the first one answers where no name fits.
    pairs: Vec<Pair>,
    /// By name in small letters; a wildcard by what follows its star, with the dot.
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

/// A certificate with its key, and the names that it is for.
#[derive(Debug, Clone)]
struct Pair {
    names: Vec<String>,
    certified: Arc<CertifiedKey>,
}

impl Pair {
    fn load(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let chain = files::certificates(&files.certificate_file)?;
        let key = files::key(&files.key_file)?;
        let refused = |reason: String| TlsError::Pair {
            certificate: files.certificate_file.clone(),
            key: files.key_file.clone(),
            reason,
        };
        let names = dns_names(&chain[0]).map_err(|error| refused(error.to_string()))?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| refused(error.to_string()))?;
        Ok(Self { names, certified: Arc::new(certified) })
    }
}

impl Certificates {
    pub(super) fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let pairs = files.iter().map(|files| Pair::load(files, provider)).collect::<Result<Vec<_>, _>>()?;
        if pairs.is_empty() { Err(TlsError::None) } else { Ok(Self::of(pairs)) }
    }

    /// The same files as they are now. Each that cannot be used stays as it was, and takes no other along.
    pub(super) fn again(&self, files: &[CertificateFiles], provider: &CryptoProvider) -> (Self, Vec<TlsError>) {
        let mut errors = Vec::new();
        let pairs = files.iter().zip(&self.pairs).map(|(files, before)| {
            Pair::load(files, provider).unwrap_or_else(|error| {
                errors.push(error);
                before.clone()
            })
        });
        let pairs = pairs.collect();
        (Self::of(pairs), errors)
    }

    fn of(pairs: Vec<Pair>) -> Self {
        let mut by_name = HashMap::new();
        for Pair { names, certified } in &pairs {
            for name in names {
                // Of two for one name the first counts.
                by_name.entry(name.clone()).or_insert_with(|| Arc::clone(certified));
            }
        }
        Self { pairs, by_name }
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        self.by_name.get(&name).or_else(|| self.by_name.get(&name[name.find('.')?..]))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|name| self.find(name));
        asked.or_else(|| self.pairs.first().map(|pair| &pair.certified)).cloned()
    }
}

fn dns_names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, webpki::Error> {
    let parsed = EndEntityCert::try_from(certificate)?;
    let name = |name: &str| name.strip_prefix('*').unwrap_or(name).to_ascii_lowercase();
    Ok(parsed.valid_dns_names().map(name).collect())
}

/// The tenant in the first URI name that ends in `/tenant/<tenant>`. The chain has been verified.
pub(super) fn tenant_of(certificate: &CertificateDer<'_>) -> Option<TenantId> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    parsed.valid_uri_names().find_map(tenant_in)
}

fn tenant_in(uri: &str) -> Option<TenantId> {
    let (_, tenant) = uri.rsplit_once("/tenant/")?;
    TenantId::new(tenant).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_stands_at_the_end_of_a_uri_name() {
        let found = |uri| tenant_in(uri).map(|tenant| tenant.to_string());
        assert_eq!(found("spiffe://example.com/tenant/t-1"), Some("t-1".into()));
        assert_eq!(found("spiffe://example.com/tenant/t-1/x"), None);
        assert_eq!(found("spiffe://example.com/tenants/t-1"), None);
        assert_eq!(found("spiffe://example.com/tenant/T_1"), None);
    }
}
