//! The head of a request as it is written, and the head of an answer that can be told from its end by its length alone.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};

use super::COPIED_MAX;

/// Fields of an answer that is read here.
const FIELDS_MAX: usize = 48;
/// Room for what is added to an answer on its way.
const ADDED_FIELDS: usize = 2;

/// A request as it is written.
pub(crate) struct Message(pub(super) Vec<u8>);

impl Message {
    /// Its first line, on an empty sheet.
    pub(super) fn new(mut sheet: Vec<u8>, method: &Method, target: &Uri) -> Self {
        let target = target.path_and_query().map_or("/", |target| target.as_str());
        sheet.extend_from_slice(method.as_str().as_bytes());
        sheet.push(b' ');
        if !target.starts_with(['/', '*']) {
            sheet.push(b'/');
        }
        sheet.extend_from_slice(target.as_bytes());
        sheet.extend_from_slice(b" HTTP/1.1\r\n");
        Self(sheet)
    }

    /// One field more of its head.
    pub(crate) fn field(&mut self, name: &HeaderName, value: &HeaderValue) {
        let Self(sheet) = self;
        sheet.extend_from_slice(name.as_str().as_bytes());
        sheet.extend_from_slice(b": ");
        sheet.extend_from_slice(value.as_bytes());
        sheet.extend_from_slice(b"\r\n");
    }

    /// Its head has ended: its body, as long as the head has said.
    pub(crate) fn body(&mut self, pieces: &[Bytes]) {
        let Self(sheet) = self;
        sheet.extend_from_slice(b"\r\n");
        for piece in pieces {
            sheet.extend_from_slice(piece);
        }
    }
}

/// The head at the beginning of `came`, how many bytes it has, and how many follow it that are its body's. None: it is not
/// here whole, or it is anything that the library understands better (RFC 9112, 6.3: chunks, an end that is the
/// connection's, an interim answer, another version), or nothing that is HTTP.
pub(crate) fn read(came: &Bytes, method: &Method) -> Option<(Response<()>, usize, u64)> {
    let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_MAX];
    let mut said = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut said, came, &mut fields);
    let Ok(httparse::Status::Complete(bytes)) = parsed else { return None };
    let status = StatusCode::from_u16(said.code?).ok()?;
    if said.version != Some(1) || status.is_informational() || said.reason != status.canonical_reason() {
        return None;
    }
    let mut length = None;
    let mut headers = HeaderMap::with_capacity(said.headers.len() + ADDED_FIELDS);
    for field in said.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if name == CONTENT_LENGTH {
            let told = length_of(field.value)?;
            if length.replace(told).is_some() {
                return None;
            }
        } else if name == TRANSFER_ENCODING
            || (name == CONNECTION && !field.value.eq_ignore_ascii_case(b"keep-alive"))
        {
            return None;
        }
        // A field may be kept for long (the table of HPACK): it must not keep a page.
        let value = match came.len() {
            ..=COPIED_MAX => HeaderValue::from_maybe_shared(came.slice_ref(field.value)),
            _ => HeaderValue::from_maybe_shared(Bytes::copy_from_slice(field.value)),
        };
        let value = value.ok()?;
        headers.append(name, value);
    }
    let has_none = *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = if has_none { 0 } else { length? };
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    Some((head, bytes, length))
}

/// Digits alone (RFC 9110, 8.6), and fewer of them than would not fit.
fn length_of(value: &[u8]) -> Option<u64> {
    const DIGITS_MAX: usize = 19;
    let digits = (1..=DIGITS_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}
