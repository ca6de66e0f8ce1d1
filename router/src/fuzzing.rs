//! What must hold of any bytes that come from outside: the entries for a fuzzer (feature `fuzzing`), and for the seeded
//! mutations of the corpus that the tests run. Each takes bytes and panics where something does not hold.
//!
//! | entry | the bytes are | what must hold |
//! |---|---|---|
//! | [`strict`] | all that a client sends on an HTTP/1 connection | what passes is the beginning of it, in whatever pieces it comes; another parser finds the same messages in it |
//! | [`identify`] | a request's head | whoever it is from is named in it; nothing that cells trust is taken over from it |
//! | [`answer`] | two bytes by which it is asked and cut, and all that a cell answers | the same is heard of it with and without the library |
//! | [`context`] | a `cell-context` header, and what a router could sign | only what a trusted router has signed is believed |
//! | [`redirect`] | the mapping in a gate's 421, and what the control plane could sign | only what the control plane has signed is believed, and no owner goes back to an older epoch |

#[path = "../tests/corpus/reader.rs"]
#[expect(dead_code, reason = "what is said of each message is for the test that sends it")]
mod reader;

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use cell_gate::wire;
use cell_model::{
    CellId, ClusterId, Epoch, Hold, Lineage, Mapping, MappingState, Rev, Revision, TenantId, Tier, Uid,
};
use cell_trust::{RoutedMapping, SignedMapping, SigningKey, TenantContext, TrustedKeys};
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Version};

use crate::conn::{Came, Conn};
use crate::directory::Directory;
use crate::headers;
use crate::identify::{Domains, IdentityRules, Proven, TENANT_HEADER, host_of};
use crate::options::{IdentityOptions, Source};
use crate::pool::heard;
use crate::strict::{Fields, HeadLimits, check};
use crate::waiting::Waiters;

pub use crate::strict::fuzzing::strict;

/// An entry.
pub type Target = fn(&[u8]);

/// Every entry by its name, with what its mutations begin from.
///
/// # Panics
/// Where the corpus of the sources is not there.
#[must_use]
pub fn targets() -> Vec<(&'static str, Target, Vec<Vec<u8>>)> {
    let messages: Vec<Vec<u8>> = reader::corpus(|_| true).into_iter().map(|message| message.bytes).collect();
    let named = b"GET /t/t-1/x HTTP/1.1\r\nHost: t-1.example.com\r\nX-Tenant-ID: t-1\r\ncell-epoch: 9\r\nTE: trailers\r\n\r\n";
    let heads = messages.iter().cloned().chain([named.to_vec()]).collect();
    let contexts = vec![CONTEXT.to_header(&KEY).into_bytes(), encoded(&*CONTEXT)];
    let signed = SignedMapping::sign(&KEY, &MAPPING);
    let mappings = vec![signed.to_header().into_bytes(), signed.payload];
    vec![
        ("strict", strict, messages),
        ("identify", identify, heads),
        ("answer", answer, ANSWERS.iter().map(|answer| answer.to_vec()).collect()),
        ("context", context, contexts),
        ("redirect", redirect, mappings),
    ]
}

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[7; 32]));
static TRUSTED: LazyLock<TrustedKeys> = LazyLock::new(|| TrustedKeys::new([KEY.public()]));

fn tenant() -> TenantId {
    TenantId::new("t-1").expect("it is a label")
}

fn encoded(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data")
}

static RULES: LazyLock<IdentityRules> = LazyLock::new(|| {
    let order = vec![Source::Host, Source::Path, Source::Header];
    let domains = Domains::new(&["example.com".into(), "cells.example.com".into()]).expect("both are domains");
    let options = IdentityOptions { order, ..IdentityOptions::default() };
    IdentityRules::new(&options, domains).expect("what is asked for fits together")
});

/// Behind the byte that says how it is asked, and the one that says where it is cut.
const ANSWERS: [&[u8]; 7] = [
    b"\0\xffHTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
    b"\0\xffHTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello",
    b"\x01\xffHTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
    b"\0\x20HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
    b"\x04\x40HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
    b"\x06\xffHTTP/1.0 200 Fine\r\n\r\nuntil the end",
    b"\x0a\x10HTTP/1.1 204 No Content\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\n",
];

/// What a cell answers, with the library and without it.
///
/// # Panics
/// Where the two do not hear the same.
pub fn answer(bytes: &[u8]) {
    let [how, cut, said @ ..] = bytes else { return };
    let method = [Method::GET, Method::HEAD, Method::PUT, Method::GET][usize::from(how & 3)].clone();
    let (closes, carried) = (how & 4 != 0, if how & 8 == 0 { 4_096 } else { 30 });
    let (first, rest) = said.split_at(usize::from(*cut).min(said.len()));
    let [with, without] = [false, true].map(|plainly| heard(plainly, &method, &[first, rest], carried, closes));
    assert_eq!(with, without);
}

/// Whose request a head is, and what goes to the gate of it.
///
/// # Panics
/// Where a tenant is found that the head does not name, or where something passes that cells trust.
pub fn identify(bytes: &[u8]) {
    let Some(mut parts) = parsed(bytes) else { return };
    let fields = Fields::of(&parts.headers);
    let (host, path) = (host_of(&parts).unwrap_or_default().to_ascii_lowercase(), parts.uri.path().to_owned());
    let header = parts.headers.get(&TENANT_HEADER).cloned();
    let limits = HeadLimits { bytes_max: usize::MAX, headers_max: usize::MAX };
    if check(&parts, fields, limits).is_err() {
        return;
    }
    let found = crate::identify::identify(&RULES, None, &Proven::Nobody, &mut parts).now_or_never();
    let Ok(tenant) = found.expect("nothing is waited for without tokens") else { return };
    let in_host = host.starts_with(&format!("{tenant}."));
    let in_path = path.strip_prefix("/t/").is_some_and(|rest| rest.split('/').next() == Some(tenant.as_str()));
    let in_header = header.is_some_and(|header| header.as_bytes() == tenant.as_str().as_bytes());
    assert!(in_host || in_path || in_header, "{tenant} is named nowhere");
    assert!(!parts.uri.path().starts_with("//"), "the path would be read as an authority");

    let came = Came { peer: IpAddr::from([10, 0, 0, 9]), secure: true, place: None };
    headers::to_gate(&mut parts, fields);
    for name in parts.headers.keys() {
        assert!(!name.as_str().starts_with(wire::RESERVED_PREFIX), "{name} comes from outside");
    }
    let (conn, fields) = (Conn::new(came, Proven::Nobody, None), &mut parts.headers);
    headers::added(&conn, &HeaderValue::from_static("r-1"), &mut |name, value| {
        fields.append(name, value.clone());
    });
    let one = |name: &str, wanted: &str| {
        let values: Vec<_> = parts.headers.get_all(name).iter().collect();
        assert!(values == [wanted], "{name}: {values:?}");
    };
    one("x-forwarded-for", "10.0.0.9");
    one("x-forwarded-proto", "https");
    one("x-request-id", "r-1");
    one("cell-request-id", "r-1");
    assert!(!parts.headers.contains_key("transfer-encoding") && !parts.headers.contains_key("connection"));
}

/// A head as another parser reads it, as far as it is one.
fn parsed(bytes: &[u8]) -> Option<Parts> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut head = httparse::Request::new(&mut fields);
    let complete = head.parse(bytes).is_ok_and(|read| read.is_complete());
    let (method, path, version) = (head.method?, head.path?, head.version?);
    let version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut request = Request::builder().method(method).uri(path).version(version);
    for field in head.headers.iter() {
        request = request.header(field.name, field.value);
    }
    let (parts, ()) = request.body(()).ok().filter(|_| complete)?.into_parts();
    Some(parts)
}

static CONTEXT: LazyLock<TenantContext> = LazyLock::new(|| TenantContext {
    tenant: tenant(),
    uid: Uid(7),
    epoch: Epoch(3),
    tier: Tier::Gold,
    expires_at: 1_000,
});

/// A context as a header, and as what is signed.
///
/// # Panics
/// Where something is believed that nobody has signed, or after its time.
pub fn context(bytes: &[u8]) {
    if let Ok(header) = std::str::from_utf8(bytes)
        && let Ok(believed) = TenantContext::from_header(header, &TRUSTED, 999)
    {
        assert_eq!(believed, *CONTEXT, "nothing else was ever signed");
        assert!(TenantContext::from_header(header, &TRUSTED, 1_000).is_err(), "it has expired");
    }
    // What a trusted router could sign.
    if let Ok(context) = postcard::from_bytes::<TenantContext>(bytes) {
        let believed = TenantContext::from_header(&context.to_header(&KEY), &TRUSTED, 5);
        assert_eq!(believed.is_ok(), context.expires_at > 5);
        assert!(believed.is_err() || believed == Ok(context));
    }
}

static MAPPING: LazyLock<RoutedMapping> = LazyLock::new(|| RoutedMapping {
    cluster: ClusterId(1),
    mapping: Mapping {
        lineage: Lineage(1),
        tenant: tenant(),
        uid: Uid(7),
        epoch: Epoch(3),
        rev: Rev(9),
        revision: Revision(20),
        state: MappingState::Active,
        owner: CellId::new("c-1").expect("it is a label"),
        peer: None,
        hold: Hold::None,
        tier: Tier::Gold,
    },
    owner_gates: vec!["10.0.0.1:80".into()],
    owner_agent: "10.0.0.1:90".into(),
});

/// What a gate says with a 421, as a header, and as what is signed.
///
/// # Panics
/// Where something is believed that nobody has signed, or where a tenant goes back to an older owner.
pub fn redirect(bytes: &[u8]) {
    if let Ok(header) = std::str::from_utf8(bytes)
        && let Ok(signed) = SignedMapping::from_header(header)
        && let Ok(believed) = signed.verify(&TRUSTED)
    {
        assert_eq!(believed, *MAPPING, "nothing else was ever signed");
    }
    // What the control plane could sign.
    let unsigned = SignedMapping { payload: bytes.to_vec(), key_id: String::new(), signature: Vec::new() };
    let Ok(routed) = unsigned.decode() else { return };
    let Ok(signed) = SignedMapping::from_header(&SignedMapping::sign(&KEY, &routed).to_header()) else { return };
    let learned =
        signed.verify(&TRUSTED).unwrap_or_else(|error| panic!("what was signed is not believed: {error}"));
    assert_eq!(learned, routed);
    let directory = Directory::new(Waiters::new(1, 1), Waiters::new(1, 1), Duration::from_secs(1));
    let held = directory.entry(MAPPING.clone()).unwrap_or_else(|_| unreachable!("it is the first one's cluster"));
    assert!(directory.install(held));
    let supersedes = learned.mapping.supersedes(&MAPPING.mapping) && learned.mapping.tenant == tenant();
    let (cluster, mapping) = (learned.cluster, learned.mapping.clone());
    match directory.entry(learned) {
        Err(_) => assert_ne!(cluster, MAPPING.cluster),
        Ok(entry) => {
            assert_eq!(cluster, MAPPING.cluster);
            let news = directory.install(entry);
            assert!(!news || supersedes || mapping.tenant != tenant(), "an older owner has come back");
        }
    }
    let now = directory.find(&tenant()).expect("a tenant is never taken out");
    assert!(now.mapping == MAPPING.mapping || (supersedes && now.mapping == mapping));
}

#[cfg(test)]
mod tests;
