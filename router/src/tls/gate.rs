//! Why TLS with a gate does not come about: each reason with a code, and with what to do about it.

use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError};

/// Why TLS with a gate has not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({code})")]
pub(crate) struct GateTls {
    /// With a row in `docs/errors`.
    pub(crate) code: &'static str,
    reason: String,
}

impl GateTls {
    fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// What a handshake has failed of. `ca_file`: by what the gate's certificate is judged.
    pub(super) fn of(error: &io::Error, ca_file: &Path) -> Self {
        use rustls::Error as E;
        match tls_error(error) {
            Some(E::InvalidCertificate(wrong)) => Self::of_certificate(wrong, ca_file),
            Some(E::AlertReceived(alert)) if is_of_our_certificate(*alert) => Self::ours_refused(*alert),
            Some(E::AlertReceived(AlertDescription::ProtocolVersion) | E::PeerIncompatible(_)) => {
                Self::new("GATE_TLS_FAILED", "it does not speak TLS 1.3")
            }
            Some(E::InvalidMessage(_)) => Self::new(
                "GATE_NOT_TLS",
                "what it says is not TLS: give it a certificate, or take `upstream.tls` away",
            ),
            Some(other) => Self::new("GATE_TLS_FAILED", other.to_string()),
            None if has_closed(error) => Self::new(
                "GATE_NOT_TLS",
                "it closes the connection at the beginning of TLS, as one that does not speak TLS does",
            ),
            None => Self::new("GATE_TLS_FAILED", error.to_string()),
        }
    }

    /// It would not be spoken to as this router wants to.
    pub(super) fn other(reason: impl Into<String>) -> Self {
        Self::new("GATE_TLS_FAILED", reason)
    }

    fn of_certificate(wrong: &CertificateError, ca_file: &Path) -> Self {
        use CertificateError as C;
        match wrong {
            C::UnknownIssuer | C::BadSignature => Self::new(
                "GATE_CERTIFICATE_UNTRUSTED",
                format!("its certificate is not signed by an authority in {}", ca_file.display()),
            ),
            C::ExpiredContext { not_after, .. } => Self::new(
                "GATE_CERTIFICATE_NOT_VALID",
                format!("its certificate has expired at {}", shown(*not_after)),
            ),
            C::Expired => Self::new("GATE_CERTIFICATE_NOT_VALID", "its certificate has expired"),
            C::NotValidYetContext { not_before, .. } => Self::new(
                "GATE_CERTIFICATE_NOT_VALID",
                format!("its certificate is valid from {} on, which is not yet", shown(*not_before)),
            ),
            C::NotValidYet => Self::new("GATE_CERTIFICATE_NOT_VALID", "its certificate is not valid yet"),
            C::NotValidForNameContext { expected, presented } => Self::new(
                "GATE_CERTIFICATE_NAME",
                format!(
                    "its certificate is for {}, and not for {}: `upstream.tls.server-name` says for what",
                    names(presented),
                    expected.to_str()
                ),
            ),
            C::NotValidForName => Self::new("GATE_CERTIFICATE_NAME", "its certificate is for another name"),
            other => Self::new("GATE_TLS_FAILED", format!("its certificate is not accepted: {other}")),
        }
    }

    fn ours_refused(alert: AlertDescription) -> Self {
        let reason = match alert {
            AlertDescription::CertificateRequired => {
                "it wants a certificate of this router: give one as `upstream.tls.certificate`".to_owned()
            }
            other => {
                format!("it does not accept this router's certificate, `upstream.tls.certificate` ({other:?})")
            }
        };
        Self::new("ROUTER_CERTIFICATE_REFUSED", reason)
    }

    /// Whether reading has failed because the gate does not take this router's certificate. With TLS 1.3 that is heard of after
    /// the handshake.
    pub(crate) fn refused(error: &io::Error) -> Option<Self> {
        match tls_error(error) {
            Some(rustls::Error::AlertReceived(alert)) if is_of_our_certificate(*alert) => {
                Some(Self::ours_refused(*alert))
            }
            _ => None,
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn has_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

fn is_of_our_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::CertificateRequired
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            // A signature of it does not fit, as under another authority of the same name.
            | A::DecryptError
    )
}

fn shown(time: UnixTime) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs())).to_string()
}

/// As the library shows them: `DnsName("a.example.com")`.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| {
        let within = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        within.trim_matches('"').to_owned()
    };
    let names: Vec<String> = presented.iter().map(plain).collect();
    if names.is_empty() { "no name".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use rustls::InvalidMessage;
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn each_reason_has_its_code_and_names_what_is_wrong() {
        let expected = ServerName::try_from("gate.internal").unwrap();
        let presented = vec!["DnsName(\"other.internal\")".into(), "IpAddress(127.0.0.1)".into()];
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let cases: [(rustls::Error, &str, &str); 7] = [
            (CertificateError::UnknownIssuer.into(), "GATE_CERTIFICATE_UNTRUSTED", "an authority in /etc/ca.pem"),
            (
                CertificateError::ExpiredContext { time: at(9), not_after: at(8) }.into(),
                "GATE_CERTIFICATE_NOT_VALID",
                "expired at 1970-01-01T00:00:08Z",
            ),
            (
                CertificateError::NotValidYetContext { time: at(9), not_before: at(10) }.into(),
                "GATE_CERTIFICATE_NOT_VALID",
                "from 1970-01-01T00:00:10Z",
            ),
            (
                CertificateError::NotValidForNameContext { expected, presented }.into(),
                "GATE_CERTIFICATE_NAME",
                "is for other.internal, 127.0.0.1, and not for gate.internal",
            ),
            (InvalidMessage::InvalidContentType.into(), "GATE_NOT_TLS", "is not TLS"),
            (
                rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
                "ROUTER_CERTIFICATE_REFUSED",
                "upstream.tls.certificate",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::ProtocolVersion),
                "GATE_TLS_FAILED",
                "does not speak TLS 1.3",
            ),
        ];
        for (error, code, text) in cases {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            let found = GateTls::of(&error, Path::new("/etc/ca.pem"));
            assert_eq!(found.code, code, "{found}");
            assert!(found.to_string().contains(text), "{found}");
        }
        let closed = GateTls::of(&io::ErrorKind::UnexpectedEof.into(), Path::new("ca"));
        assert_eq!(closed.code, "GATE_NOT_TLS");
    }
}
