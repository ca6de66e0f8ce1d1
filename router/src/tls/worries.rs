//! What is wrong with certificates and keys that can be read all the same: they have run out, or anybody may read the key.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use super::files::{self, TlsError};
use crate::options::{CertificateFiles, TlsOptions, UpstreamTlsOptions};
use crate::private;

/// The first of the options' keys that anybody may read. Its group may: certificate managers often have one of their own.
pub(crate) fn exposed(front: Option<&TlsOptions>, back: Option<&UpstreamTlsOptions>) -> Result<(), TlsError> {
    own(front, back).try_for_each(|files| {
        let path = &files.key_file;
        let mode = private::mode(path).map_err(|source| TlsError::Read { path: path.clone(), source })?;
        if mode & 0o007 == 0 { Ok(()) } else { Err(TlsError::Exposed { path: path.clone(), mode }) }
    })
}

/// Everything that the options name and that is not good now.
pub(crate) fn all(front: Option<&TlsOptions>, back: Option<&UpstreamTlsOptions>) -> Vec<TlsError> {
    let now = SystemTime::now();
    let mut found: Vec<TlsError> = exposed(front, back).err().into_iter().collect();
    for files in own(front, back) {
        found.extend(each(&files.certificate_file, now).into_iter().flatten());
    }
    let authorities = front.and_then(|front| front.client_ca_file.as_ref()).into_iter();
    for path in authorities.chain(back.map(|back| &back.ca_file)) {
        // While an authority is exchanged, the old one stands beside the new one, and may have run out.
        let of_each = each(path, now);
        if of_each.iter().all(Option::is_some) {
            found.extend(of_each.into_iter().flatten());
        }
    }
    found
}

fn own<'o>(
    front: Option<&'o TlsOptions>,
    back: Option<&'o UpstreamTlsOptions>,
) -> impl Iterator<Item = &'o CertificateFiles> {
    let front = front.into_iter().flat_map(|front| &front.certificates);
    front.chain(back.and_then(|back| back.certificate.as_ref()))
}

/// What is wrong with each certificate of a file. One that cannot be read is complained of by whoever uses it.
fn each(path: &Path, now: SystemTime) -> Vec<Option<TlsError>> {
    let found = files::certificates(path).unwrap_or_default();
    let lines = files::beginnings(path);
    let judge = |(at, certificate): (usize, &CertificateDer<'_>)| {
        let (_, parsed) = parse_x509_certificate(certificate).ok()?;
        let [from, to] = [parsed.validity().not_before, parsed.validity().not_after]
            .map(|at| UNIX_EPOCH + Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or_default()));
        let line = lines.get(at).copied().unwrap_or(1);
        (now < from || now > to).then(|| TlsError::NotValidNow { path: path.to_owned(), line, from, to })
    };
    found.iter().enumerate().map(judge).collect()
}
