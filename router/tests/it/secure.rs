//! TLS on both sides, and who a request is from: certificates, tokens, the signed context.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cell_router::{
    CertificateFiles, ContextOptions, Options, Source, TlsOptions, TokenOptions, UpstreamTlsOptions,
};
use cell_trust::{SigningKey, TenantContext, TrustedKeys};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{Answer, get, read, send};
use crate::control::FakeControl;
use crate::fleet::Fleet;
use crate::gate::FakeGate;

/// An authority, with files for what it signs.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate for names; what looks like a URI becomes one.
    pub(crate) fn sign(&self, file: &str, names: &[&str]) -> CertificateFiles {
        self.sign_until(file, names, 4_000)
    }

    /// As [`Self::sign`], good until the first day of a year.
    pub(crate) fn sign_until(&self, file: &str, names: &[&str], year: i32) -> CertificateFiles {
        let dns =
            names.iter().filter(|name| !name.contains("://")).map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(dns).unwrap();
        for uri in names.iter().filter(|name| name.contains("://")) {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
        }
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = CertificateFiles {
            certificate_file: self.path(&format!("{file}.pem")),
            key_file: self.path(&format!("{file}.key")),
        };
        std::fs::write(&files.key_file, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files.key_file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        std::fs::write(&files.certificate_file, certificate.pem()).unwrap();
        files
    }

    fn client(&self, own: Option<&CertificateFiles>, alpn: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = vec![CertificateDer::from_pem_file(&own.certificate_file).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&own.key_file).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

fn tls(certificates: Vec<CertificateFiles>) -> TlsOptions {
    TlsOptions {
        certificates,
        client_ca_file: None,
        client_certificate_required: false,
        reload_interval: Duration::from_millis(20),
    }
}

async fn fleet(change: impl FnOnce(&mut Options)) -> (FakeGate, Fleet) {
    let gate = FakeGate::echo("a").await;
    let control = FakeControl::new(1);
    control.set_cell("a", std::slice::from_ref(&gate.address));
    control.set_tenant("t-1", "a", 7, |_| {});
    control.set_tenant("t-2", "a", 7, |_| {});
    let fleet = Fleet::start(control, change).await;
    (gate, fleet)
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

async fn shake_hands(fleet: &Fleet, connector: &TlsConnector, name: &str) -> std::io::Result<Stream> {
    let stream = TcpStream::connect(fleet.address()).await?;
    connector.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

/// One request over TLS, in the protocol that was agreed.
async fn ask(stream: Stream, tenant: &str) -> Answer {
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let request = Request::get(format!("https://{tenant}.example.com/"))
        .header("host", format!("{tenant}.example.com"))
        .body(Full::<Bytes>::default())
        .unwrap();
    let io = TokioIo::new(stream);
    if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        read(sender.send_request(request).await.unwrap()).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        read(sender.send_request(request).await.unwrap()).await
    }
}

fn leaf(stream: &Stream) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(path: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_go_over_tls_with_the_certificate_for_the_name() {
    let authority = Authority::new();
    let (wild, exact) = (authority.sign("wild", &["*.example.com"]), authority.sign("exact", &["t-2.example.com"]));
    let (gate, fleet) = fleet(|options| options.tls = Some(tls(vec![wild.clone(), exact.clone()]))).await;
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let connector = authority.client(None, alpn);
        let stream = shake_hands(&fleet, &connector, "t-1.example.com").await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(leaf(&stream), der(&wild.certificate_file));
        let answer = ask(stream, "t-1").await;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "a:"));
        let stream = shake_hands(&fleet, &connector, "t-2.example.com").await.unwrap();
        assert_eq!(leaf(&stream), der(&exact.certificate_file));
    }
    assert!(gate.seen().iter().all(|seen| seen.headers["x-forwarded-proto"] == "https"));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
    let authority = Authority::new();
    let files = authority.sign("a", &["*.example.com"]);
    let (_gate, fleet) = fleet(|options| options.tls = Some(tls(vec![files.clone()]))).await;
    let connector = authority.client(None, b"http/1.1");
    let shown = async || leaf(&shake_hands(&fleet, &connector, "t-1.example.com").await.unwrap());
    let first = shown().await;
    authority.sign("a", &["*.example.com", "renewed.example.com"]);
    let second = der(&files.certificate_file);
    assert_ne!(first, second);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while shown().await != second {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is not shown");
    }
    // A look between the two files of the renewal is a failure, too, which does not last.
    let failures = async || {
        let metrics = fleet.admin("/metrics").await.body;
        let line = metrics.lines().find(|line| line.contains("tls_reload_failures_total ")).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).expect("failures are counted")
    };
    let before = failures().await;
    std::fs::write(&files.certificate_file, "-----BEGIN CERTIFICATE-----\n!\n").unwrap();
    while failures().await == before {
        assert!(tokio::time::Instant::now() < deadline, "the broken certificate was not noticed");
    }
    assert_eq!(shown().await, second, "the last good one stays");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_certificate_keeps_no_other_from_being_renewed() {
    let authority = Authority::new();
    let (sick, well) = (authority.sign("sick", &["t-2.example.com"]), authority.sign("well", &["*.example.com"]));
    let files = vec![sick.clone(), well.clone()];
    let (_gate, fleet) = fleet(|options| options.tls = Some(tls(files))).await;
    let connector = authority.client(None, b"http/1.1");
    let shown = async |name: &str| leaf(&shake_hands(&fleet, &connector, name).await.unwrap());
    let before = der(&sick.certificate_file);
    std::fs::write(&sick.certificate_file, "-----BEGIN CERTIFICATE-----\n!\n").unwrap();
    authority.sign("well", &["*.example.com", "renewed.example.com"]);
    let renewed = der(&well.certificate_file);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while shown("t-1.example.com").await != renewed {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is not shown");
    }
    assert_eq!(shown("t-2.example.com").await, before, "the last good one stays");
    let repaired = authority.sign("sick", &["t-2.example.com"]);
    while shown("t-2.example.com").await != der(&repaired.certificate_file) {
        assert!(tokio::time::Instant::now() < deadline, "it is not taken once it is whole");
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_after_its_handshake_is_not_waited_for_as_one_that_rests() {
    let authority = Authority::new();
    let files = authority.sign("a", &["*.example.com"]);
    let (_gate, fleet) = fleet(|options| {
        options.tls = Some(tls(vec![files]));
        options.timeouts.header = Duration::from_millis(200);
        options.timeouts.idle = Duration::from_secs(600);
    })
    .await;
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let connector = authority.client(None, alpn);
        let mut silent = shake_hands(&fleet, &connector, "t-1.example.com").await.unwrap();
        let mut rest = Vec::new();
        let reading = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest);
        // With or without a farewell of TLS.
        let _ended = tokio::time::timeout(Duration::from_secs(10), reading).await.expect("the router closes");
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_names_a_tenant_and_no_other() {
    let authority = Authority::new();
    let server = authority.sign("server", &["*.example.com"]);
    let own = authority.sign("client", &["spiffe://example.com/tenant/t-1"]);
    let (_gate, fleet) = fleet(|options| {
        let required = TlsOptions {
            client_ca_file: Some(authority.path("ca.pem")),
            client_certificate_required: true,
            ..tls(vec![server])
        };
        options.tls = Some(required);
        options.tenant.order = vec![Source::Certificate, Source::Host];
    })
    .await;
    let connector = authority.client(Some(&own), b"h2");
    let answers =
        async |tenant: &str| ask(shake_hands(&fleet, &connector, "t-1.example.com").await.unwrap(), tenant).await;
    assert_eq!(answers("t-1").await.status, StatusCode::OK);
    let refused = answers("t-2").await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::FORBIDDEN, "TENANT_MISMATCH"));
    let without = authority.client(None, b"http/1.1");
    let refused = async {
        let mut stream = shake_hands(&fleet, &without, "t-1.example.com").await?;
        // With TLS 1.3 a client hears of the refusal when it reads.
        tokio::io::AsyncReadExt::read_u8(&mut stream).await
    };
    assert!(refused.await.is_err());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_are_spoken_to_over_tls_with_the_routers_own_certificate() {
    let authority = Authority::new();
    let (gate_files, own) =
        (authority.sign("gate", &["gate.internal"]), authority.sign("router", &["router.internal"]));
    let gate = FakeGate::echo("a").await;
    let front = crate::tls_gate::start(&gate.address, &gate_files, &authority.path("ca.pem")).await;
    let start = async |certificate: Option<CertificateFiles>| {
        let control = FakeControl::new(1);
        control.set_cell("a", std::slice::from_ref(&front));
        control.set_tenant("t-1", "a", 1, |_| {});
        Fleet::start(control, |options| {
            let ca_file = authority.path("ca.pem");
            let server_name = Some("gate.internal".into());
            options.upstream.tls = Some(UpstreamTlsOptions { ca_file, certificate, server_name });
        })
        .await
    };
    let fleet = start(Some(own)).await;
    assert_eq!(get(fleet.address(), "t-1", "/").await.body, "a:");
    fleet.stop().await;
    let fleet = start(None).await;
    let refused = get(fleet.address(), "t-1", "/").await;
    assert_ne!(refused.status, StatusCode::OK, "the gate wants to know who calls");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_get_a_context_that_they_can_verify() {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, "0b".repeat(32)).unwrap();
    std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (gate, fleet) = fleet(|options| {
        options.context = Some(ContextOptions { key_file, validity: Duration::from_secs(30) });
    })
    .await;
    for _ in 0..2 {
        let forged = Request::get("/")
            .header("host", "t-1.example.com")
            .header("cell-context", "forged")
            .body(Full::<Bytes>::default())
            .unwrap();
        assert_eq!(send(fleet.address(), forged).await.status, StatusCode::OK);
    }
    let trusted = TrustedKeys::new([SigningKey::from_bytes(&[0x0b; 32]).public()]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for seen in gate.seen() {
        let header = seen.headers["cell-context"].to_str().unwrap();
        let context = TenantContext::from_header(header, &trusted, now).unwrap();
        assert_eq!((context.tenant.as_str(), context.uid.get(), context.epoch.get()), ("t-1", 1, 7));
    }
    fleet.stop().await;
}

/// A token of an issuer with an Ed25519 key.
fn token(key: &jsonwebtoken::EncodingKey, id: &str, tenant: &str) -> String {
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    header.kid = Some(id.into());
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600;
    let claims = serde_json::json!({ "iss": "https://issuer", "aud": "cellway", "exp": expires, "tenant": tenant });
    jsonwebtoken::encode(&header, &claims, key).unwrap()
}

/// A key, and how the issuer publishes it.
fn issuer_key(id: &str) -> (jsonwebtoken::EncodingKey, serde_json::Value) {
    use base64::Engine as _;
    let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let public = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(pair.public_key_raw());
    let jwk =
        serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": id, "x": public });
    (jsonwebtoken::EncodingKey::from_ed_der(&pair.serialize_der()), jwk)
}

fn publish(path: &Path, keys: &[&serde_json::Value]) {
    std::fs::write(path, serde_json::json!({ "keys": keys }).to_string()).unwrap();
}

async fn with_token(fleet: &Fleet, tenant: &str, token: Option<&str>) -> Answer {
    let mut request = Request::get("/").header("host", format!("{tenant}.example.com"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    send(fleet.address(), request.body(Full::<Bytes>::default()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_verified_and_their_keys_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let jwks = dir.path().join("jwks.json");
    let (old, old_jwk) = issuer_key("old");
    let (new, new_jwk) = issuer_key("new");
    publish(&jwks, &[&old_jwk]);
    let (_gate, fleet) = fleet(|options| {
        options.tenant.order = vec![Source::Token, Source::Host];
        options.tenant.token = Some(TokenOptions {
            jwks: jwks.to_str().unwrap().into(),
            jwks_ca_file: None,
            issuer: "https://issuer".into(),
            audience: "cellway".into(),
            algorithms: vec!["EdDSA".into()],
            claim: "tenant".into(),
            required: true,
            leeway: Duration::from_secs(5),
            refresh_interval: Duration::from_millis(200),
            refresh_min_interval: Duration::from_millis(10),
            cached_max: 100,
        });
    })
    .await;
    let code = async |tenant: &str, token: Option<&str>| {
        let answer = with_token(&fleet, tenant, token).await;
        if answer.status == StatusCode::OK { "OK".to_owned() } else { answer.code() }
    };
    let (a, b) = (token(&old, "old", "t-1"), token(&old, "old", "t-2"));
    assert_eq!(code("t-1", Some(&a)).await, "OK");
    assert_eq!(code("t-1", Some(&a)).await, "OK", "remembered");
    assert_eq!(code("t-2", Some(&a)).await, "TENANT_MISMATCH", "tenant A's token, tenant B's host");
    assert_eq!(code("t-1", Some(&b)).await, "TENANT_MISMATCH");
    assert_eq!(code("t-1", None).await, "TOKEN_MISSING");
    let (body, _) = a.rsplit_once('.').unwrap();
    assert_eq!(code("t-1", Some(&format!("{body}.AAAA"))).await, "TOKEN_INVALID");
    // A key that nobody has heard of is asked for, once it is published.
    let fresh = token(&new, "new", "t-1");
    assert_eq!(code("t-1", Some(&fresh)).await, "TOKEN_INVALID");
    publish(&jwks, &[&old_jwk, &new_jwk]);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while code("t-1", Some(&fresh)).await != "OK" {
        assert!(tokio::time::Instant::now() < deadline, "the new key is not taken");
    }
    // Broken keys change nothing; a key that is withdrawn takes its tokens along.
    std::fs::write(&jwks, "{").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(code("t-1", Some(&a)).await, "OK", "the last good keys stay");
    publish(&jwks, &[&new_jwk]);
    while code("t-1", Some(&a)).await != "TOKEN_INVALID" {
        assert!(tokio::time::Instant::now() < deadline, "the old key is still believed");
    }
    assert_eq!(code("t-1", Some(&fresh)).await, "OK");
    fleet.stop().await;
}
