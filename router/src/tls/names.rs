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
use crate::identify::Proven;
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

/// The tenant in URI names that end in `/tenant/<tenant>`.
pub(super) fn tenant_of(certificate: &CertificateDer<'_>) -> Proven {
    let Ok(parsed) = EndEntityCert::try_from(certificate) else { return Proven::Nobody };
    let mut tenants = parsed.valid_uri_names().filter_map(tenant_in);
    let Some(first) = tenants.next() else { return Proven::Nobody };
    match tenants.find(|other| *other != first) {
        None => Proven::One(first),
        Some(other) => Proven::Several(first, other),
    }
}

fn tenant_in(uri: &str) -> Option<TenantId> {
    let (_, tenant) = uri.rsplit_once("/tenant/")?;
    TenantId::new(tenant).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_names_two_tenants_proves_neither() {
        let of = |names: &[&str]| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            let uri = |name: &&str| rcgen::SanType::URI((*name).try_into().unwrap());
            params.subject_alt_names = names.iter().map(uri).collect();
            tenant_of(params.self_signed(&key).unwrap().der())
        };
        let (acme, globex) = (TenantId::new("acme").unwrap(), TenantId::new("globex").unwrap());
        assert_eq!(
            of(&["spiffe://x/tenant/acme", "spiffe://x/tenant/globex"]),
            Proven::Several(acme.clone(), globex)
        );
        assert_eq!(of(&["spiffe://x/tenant/acme", "spiffe://y/tenant/acme"]), Proven::One(acme));
        assert_eq!(of(&["spiffe://x/router/acme"]), Proven::Nobody);
    }

    #[test]
    fn a_tenant_stands_at_the_end_of_a_uri_name() {
        let found = |uri| tenant_in(uri).map(|tenant| tenant.to_string());
        assert_eq!(found("spiffe://example.com/tenant/t-1"), Some("t-1".into()));
        assert_eq!(found("spiffe://example.com/tenant/t-1/x"), None);
        assert_eq!(found("spiffe://example.com/tenants/t-1"), None);
        assert_eq!(found("spiffe://example.com/tenant/T_1"), None);
    }
}
