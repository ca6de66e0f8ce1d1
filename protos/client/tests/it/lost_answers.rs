//! A write whose answer does not come: unknown, and named; a write that nobody took: surely not run.

use std::time::Duration;

use cell_client::{ClientError, ClientOptions, ControlClient, WriteOptions};
use cell_model::{Limits, RequestId, TenantId};

use crate::silent::{self, SHORT};

fn client(endpoint: String) -> ControlClient {
    let options = ClientOptions { deadline: SHORT, attempt: SHORT / 3, connect: SHORT, ..ClientOptions::default() };
    ControlClient::new(vec![endpoint], options)
}

#[tokio::test]
async fn a_write_without_an_answer_is_unknown_and_named() {
    let client = client(silent::server().await);
    let named = WriteOptions { request_id: Some(RequestId(77)), ..WriteOptions::default() };
    let unknown = client.set_limits(Limits::default(), named).await.unwrap_err();
    assert!(matches!(unknown, ClientError::Unknown { request_id: Some(RequestId(77)), .. }), "{unknown:?}");
    assert!(unknown.hint().contains(&RequestId(77).to_string()), "{}", unknown.hint());
    let unnamed = client.set_limits(Limits::default(), WriteOptions::default()).await.unwrap_err();
    assert!(matches!(unnamed, ClientError::Unknown { request_id: Some(_), .. }), "{unnamed:?}");
}

#[tokio::test]
async fn a_write_that_nobody_took_has_surely_not_run() {
    let client = client(silent::nobody().await);
    let refused = client.set_limits(Limits::default(), WriteOptions::default()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Unavailable { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_read_without_an_answer_is_unavailable() {
    let client = client(silent::server().await);
    let refused = client.get_tenant(&TenantId::new("t").unwrap()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Unavailable { .. }), "{refused:?}");
}

#[tokio::test]
async fn every_call_ends_at_its_deadline() {
    let client = client(silent::server().await);
    let begun = tokio::time::Instant::now();
    client.limits().await.unwrap_err();
    assert!(begun.elapsed() < SHORT + Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_tried() {
    let client = ControlClient::new(Vec::new(), ClientOptions::default());
    let refused = client.limits().await.unwrap_err();
    assert_eq!(refused, ClientError::Unavailable { reason: "no endpoint is given".into() });
}
