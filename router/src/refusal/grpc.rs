//! A refusal as gRPC says it: a status, in the head of an answer that has nothing else or in the trailers of one that has.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};

use super::Refusal;

impl Refusal {
    /// The answer to a gRPC client: a status without a message (the answer has only trailers, and these in its head).
    pub(crate) fn into_grpc(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let status = self.code.grpc_status();
        headers.insert("grpc-status", HeaderValue::from(status));
        // Percent-encoded (gRPC over HTTP/2, Status-Message); whatever is left over is a header value.
        if let Ok(message) = HeaderValue::from_str(&percent_encoded(&self.detail)) {
            headers.insert("grpc-message", message);
        }
        headers.insert("cellway-code", HeaderValue::from_static(self.code.as_str()));
        if let Ok(hint) = HeaderValue::from_str(&percent_encoded(self.next_step())) {
            headers.insert("cellway-hint", hint);
        }
        if let Some(after) = self.again_after() {
            // The first is for the library that tries again by itself and shows it to nobody, the second for the application.
            headers.insert("grpc-retry-pushback-ms", HeaderValue::from(after.as_secs() * 1_000));
            let details = STANDARD_NO_PAD.encode(retry_status(status, &self.detail, after));
            if let Ok(details) = HeaderValue::try_from(details) {
                headers.insert("grpc-status-details-bin", details);
            }
        }
        response
    }
}

/// The end of a stream of gRPC that was begun well.
pub(crate) fn grpc_trailers(status: u16, code: &'static str, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message)) {
        trailers.insert("grpc-message", message);
    }
    trailers.insert("cellway-code", HeaderValue::from_static(code));
    trailers
}

/// `google.rpc.Status` with one detail, `google.rpc.RetryInfo`, in the wire format of protobuf.
fn retry_status(code: u16, message: &str, after: Duration) -> Vec<u8> {
    // Duration { seconds = 1 }, RetryInfo { retry_delay = 1 }, Any { type_url = 1, value = 2 }.
    let seconds = number(1, after.as_secs());
    let any = [bytes(1, b"type.googleapis.com/google.rpc.RetryInfo"), bytes(2, &bytes(1, &seconds))].concat();
    [number(1, code.into()), bytes(2, message.as_bytes()), bytes(3, &any)].concat()
}

fn number(field: u8, value: u64) -> Vec<u8> {
    let mut written = vec![field << 3];
    varint(&mut written, value);
    written
}

fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut written = vec![field << 3 | 2];
    varint(&mut written, value.len() as u64);
    written.extend_from_slice(value);
    written
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..0x7f).contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Code;

    #[test]
    fn who_may_try_again_is_told_when_in_both_ways_and_others_in_none() {
        for code in Code::ALL {
            let answer = Refusal::new(code, "x").after(Duration::from_secs(300)).into_grpc();
            let headers = answer.headers();
            assert_eq!(headers["grpc-retry-pushback-ms"], "300000");
            let details = STANDARD_NO_PAD.decode(headers["grpc-status-details-bin"].as_bytes()).unwrap();
            let mut expected =
                vec![0x08, u8::try_from(code.grpc_status()).unwrap(), 0x12, 1, b'x', 0x1a, 49, 0x0a, 40];
            expected.extend_from_slice(b"type.googleapis.com/google.rpc.RetryInfo");
            // retry_delay of 300 seconds: 300 is 0xac 0x02.
            expected.extend_from_slice(&[0x12, 5, 0x0a, 3, 0x08, 0xac, 0x02]);
            assert_eq!(details, expected, "{}", code.as_str());
            let answer = Refusal::new(code, "x").into_grpc();
            let (pushback, details) = ("grpc-retry-pushback-ms", "grpc-status-details-bin");
            for name in [pushback, details] {
                assert_eq!(answer.headers().contains_key(name), code.retry_after().is_some(), "{}", code.as_str());
            }
        }
    }
}
