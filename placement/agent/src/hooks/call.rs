//! One call of a hook: POST, and what its answer means.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::options::HookInvalid;
use crate::pem::{self, PemError};

/// What is read of an answer,
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// and told of it.
const REASON_MAX: usize = 200;

/// Where a hook listens.
pub(super) struct Place {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// What is sent: the body, and the headers that name and sign it.
#[derive(Clone)]
pub(super) struct Letter {
    pub(super) id: String,
    pub(super) at: u64,
    pub(super) signature: String,
    pub(super) body: Bytes,
}

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Done,
    /// The hook says no: asked again it would say the same.
    Refused(String),
    /// Nobody knows; it may be tried again.
    Failed(String),
}

/// An option as it may be told.
pub(super) fn shown(url: &str) -> String {
    url.parse().map_or_else(|_| "a hook".to_owned(), |uri| without_secrets(&uri))
}

/// Neither a password nor a query: they may be secrets, and this is logged.
fn without_secrets(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let scheme = uri.scheme_str().map_or_else(String::new, |scheme| format!("{scheme}://"));
    format!("{scheme}{place}{}", uri.path())
}

impl Place {
    pub(super) fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, HookInvalid> {
        let invalid = |rule: &str| HookInvalid::Value { url: shown(url), rule: rule.into() };
        let uri: Uri = url.parse().map_err(|_| invalid("its url is none"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(invalid("it begins with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| invalid("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("a URL with a password would be logged; calls are signed instead"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = match (secure, ca_file) {
            (true, Some(path)) => {
                let name = ServerName::try_from(host.clone()).map_err(|_| invalid("its host is no name"))?;
                Some((TlsConnector::from(Arc::new(client(path)?)), name))
            }
            (true, None) => {
                return Err(invalid("https needs ca-file: whose signature on its certificate is believed"));
            }
            (false, Some(_)) => return Err(invalid("ca-file is of no use without https")),
            (false, None) => None,
        };
        Ok(Self { uri, host, port, tls })
    }

    /// Without a query: it may hold secrets.
    pub(super) fn name(&self) -> String {
        without_secrets(&self.uri)
    }

    pub(super) async fn call(&self, letter: &Letter, patience: Duration) -> Said {
        let called = tokio::time::timeout(patience, self.exchange(letter));
        called.await.unwrap_or_else(|_| Said::Failed(format!("no answer within {} ms", patience.as_millis())))
    }

    async fn exchange(&self, letter: &Letter) -> Said {
        let failed = |what: &str, error: &dyn std::fmt::Display| Said::Failed(format!("{what}: {error}"));
        let stream = match TcpStream::connect((self.host.as_str(), self.port)).await {
            Ok(stream) => stream,
            Err(error) => return failed("cannot connect", &error),
        };
        // Small and at once; without it, it is slower and nothing else.
        let _set = stream.set_nodelay(true);
        match &self.tls {
            None => self.post(stream, letter).await,
            Some((connector, name)) => match connector.connect(name.clone(), stream).await {
                Ok(stream) => self.post(stream, letter).await,
                Err(error) => Ok(failed("no TLS", &error)),
            },
        }
        .unwrap_or_else(|error| failed("no answer", &error))
    }

    async fn post(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        letter: &Letter,
    ) -> Result<Said, hyper::Error> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let path = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let request = Request::post(path)
            .header(http::header::HOST, self.uri.authority().map_or("", http::uri::Authority::as_str))
            .header(http::header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &letter.id)
            .header("webhook-timestamp", letter.at)
            .header("webhook-signature", &letter.signature)
            .body(Full::new(letter.body.clone()))
            .expect("names, numbers and base64 are header values");
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Said::Done);
        }
        let text = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        drop(connection);
        let said = text.map(|text| reason(status, &text.to_bytes())).unwrap_or_else(|_| status.to_string());
        Ok(meaning(status, said))
    }
}

/// A client's fault would be the same again; anything else may pass.
fn meaning(status: StatusCode, said: String) -> Said {
    const MAY_PASS: [StatusCode; 3] =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    if status.is_client_error() && !MAY_PASS.contains(&status) { Said::Refused(said) } else { Said::Failed(said) }
}

/// `reason`, or `detail` (RFC 9457), of an answer in JSON; its text otherwise. On one line, and short.
fn reason(status: StatusCode, body: &[u8]) -> String {
    let json = serde_json::from_slice::<serde_json::Value>(body).ok();
    let member = |name: &str| json.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let text =
        member("reason").or_else(|| member("detail")).unwrap_or_else(|| String::from_utf8_lossy(body).into());
    let clean = |letter: char| if letter.is_control() { ' ' } else { letter };
    let text: String = text.trim().chars().map(clean).take(REASON_MAX).collect();
    if text.is_empty() { status.to_string() } else { format!("{}: {text}", status.as_u16()) }
}

fn client(ca_file: &Path) -> Result<ClientConfig, HookInvalid> {
    let roots = pem::roots(ca_file)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| PemError::Content { path: ca_file.to_owned(), reason: error.to_string() })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_the_same_again_is_a_refusal() {
        for (status, refused) in [
            (400, true),
            (404, true),
            (409, true),
            (408, false),
            (429, false),
            (500, false),
            (503, false),
            (301, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(matches!(meaning(status, String::new()), Said::Refused(_)), refused, "{status}");
        }
    }

    #[test]
    fn a_reason_is_taken_from_json_or_text_on_one_line() {
        let conflict = StatusCode::CONFLICT;
        assert_eq!(reason(conflict, br#"{"reason":"a reindex runs"}"#), "409: a reindex runs");
        assert_eq!(reason(conflict, br#"{"detail":"not now"}"#), "409: not now");
        assert_eq!(reason(conflict, b"not\nnow\x1b[31m"), "409: not now [31m");
        assert_eq!(reason(conflict, b""), "409 Conflict");
        assert_eq!(reason(conflict, "é".repeat(500).as_bytes()).chars().count(), REASON_MAX + 5);
    }

    #[test]
    fn a_place_that_makes_no_sense_is_named_with_the_rule() {
        let said = |url: &str| Place::new(url, None).map(|_| ()).unwrap_err().to_string();
        assert!(said("not a url").contains("its url is none"));
        let secret = said("ftp://me:secret@files.test/hook?token=secret");
        assert!(secret.contains("ftp://files.test/hook:") && !secret.contains("secret"), "{secret}");
        assert!(said("ftp://files").contains("http://"));
        assert!(said("/only/a/path").contains("http://"));
        assert!(said("https://files.test/hook").contains("ca-file"));
        assert!(said("http://me:secret@files.test/").contains("password"));
        let place = Place::new("http://[::1]:8080/hooks/move?token=x", None).unwrap();
        assert_eq!((place.host.as_str(), place.port), ("::1", 8080));
        assert_eq!(place.name(), "http://[::1]:8080/hooks/move");
    }
}
