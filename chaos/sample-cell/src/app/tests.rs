mod fixture;

use std::collections::BTreeSet;

use futures::future::join_all;
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION};
use http::{HeaderName, Method};
use http_body_util::{Full, Limited};

use super::*;
use fixture::Fixture;

struct Answered {
    status: StatusCode,
    headers: http::HeaderMap,
    text: String,
    not_executed: Option<cell_gate::NotExecuted>,
}

impl Answered {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    fn etag(&self) -> String {
        self.headers[ETAG].to_str().unwrap().to_owned()
    }
}

async fn ask_with(
    app: &Documents,
    stamp: &RequestStamp,
    method: Method,
    uri: &str,
    body: impl Into<Bytes>,
    headers: &[(HeaderName, &str)],
) -> Answered {
    let body = Limited::new(Full::new(body.into()), 1024 * 1024).boxed_unsync();
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri.parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request.extensions_mut().insert(stamp.clone());
    let mut response = app.call(request).await;
    let not_executed = response.extensions_mut().remove::<cell_gate::NotExecuted>();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    Answered { status: parts.status, headers: parts.headers, text, not_executed }
}

async fn ask(app: &Documents, stamp: &RequestStamp, method: Method, uri: &str, body: impl Into<Bytes>) -> Answered {
    ask_with(app, stamp, method, uri, body, &[]).await
}

fn key(name: &'static str) -> (HeaderName, &'static str) {
    (HeaderName::from_static(idempotency::HEADER), name)
}

#[tokio::test]
async fn a_document_is_written_read_replaced_and_deleted() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let made = ask(&app, &stamp, Method::PUT, "/docs/a", r#"{"n": 1}"#).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let read = ask(&app, &stamp, Method::GET, "/docs/a", "").await;
    assert_eq!((read.status, read.text.as_str()), (StatusCode::OK, r#"{"n": 1}"#));
    assert_eq!(read.etag(), made.etag());
    let replaced = ask(&app, &stamp, Method::PUT, "/docs/a", "[2]").await;
    assert_eq!(replaced.status, StatusCode::OK);
    assert_ne!(replaced.etag(), made.etag());
    assert_eq!(ask(&app, &stamp, Method::DELETE, "/docs/a", "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(&app, &stamp, Method::GET, "/docs/a", "").await.code(), "DOCUMENT_UNKNOWN");
    assert_eq!(ask(&app, &stamp, Method::DELETE, "/docs/a", "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_etag_never_comes_again_even_for_a_document_made_anew() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        assert!(seen.insert(ask(&app, &stamp, Method::PUT, "/docs/a", "1").await.etag()));
        ask(&app, &stamp, Method::DELETE, "/docs/a", "").await;
    }
}

#[tokio::test]
async fn a_conditional_write_holds_its_condition() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let create_only = [(IF_NONE_MATCH, "*")];
    let put = |body: &'static str, headers: Vec<(HeaderName, String)>| {
        let (app, stamp) = (&app, &stamp);
        async move {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (name.clone(), value.as_str())).collect();
            ask_with(app, stamp, Method::PUT, "/docs/a", body, &headers).await
        }
    };
    let absent = put("1", vec![(IF_MATCH, "*".into())]).await;
    assert_eq!(absent.code(), "ETAG_MISMATCH");
    let first = ask_with(&app, &stamp, Method::PUT, "/docs/a", "1", &create_only).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(ask_with(&app, &stamp, Method::PUT, "/docs/a", "2", &create_only).await.code(), "ETAG_MISMATCH");
    let second = put("2", vec![(IF_MATCH, first.etag())]).await;
    assert_eq!(second.status, StatusCode::OK);
    assert_eq!(put("3", vec![(IF_MATCH, first.etag())]).await.status, StatusCode::PRECONDITION_FAILED);
    let stale = ask_with(&app, &stamp, Method::DELETE, "/docs/a", "", &[(IF_MATCH, &first.etag())]).await;
    assert_eq!(stale.code(), "ETAG_MISMATCH");
    assert_eq!(ask(&app, &stamp, Method::GET, "/docs/a", "").await.text, "2");
}

#[tokio::test]
async fn a_posted_document_is_where_its_location_says() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let mut places = BTreeSet::new();
    for n in 0..5 {
        let made = ask(&app, &stamp, Method::POST, "/docs", n.to_string()).await;
        assert_eq!(made.status, StatusCode::CREATED);
        let place = made.headers[LOCATION].to_str().unwrap().to_owned();
        assert_eq!(ask(&app, &stamp, Method::GET, &place, "").await.text, n.to_string());
        assert!(places.insert(place));
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap_or_a_repetition() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let ids: BTreeSet<String> = (0..150).map(|n| format!("k{n:03}")).collect();
    for id in &ids {
        ask(&app, &stamp, Method::PUT, &format!("/docs/{id}"), format!("{{\"id\":\"{id}\"}}")).await;
    }
    // Neither counters nor kept answers are documents.
    ask_with(&app, &stamp, Method::POST, "/counters/n/increment", "", &[key("k")]).await;
    for (limit, pages) in [(7, 22), (75, 2), (150, 1), (1000, 1)] {
        let (mut found, mut after, mut asked) = (Vec::new(), String::new(), 0);
        loop {
            let uri = format!("/docs?limit={limit}&values=true{after}");
            let page = ask(&app, &stamp, Method::GET, &uri, "").await.json();
            asked += 1;
            for item in page["items"].as_array().unwrap() {
                assert_eq!(item["value"]["id"], item["id"]);
                found.push(item["id"].as_str().unwrap().to_owned());
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(found, ids.iter().cloned().collect::<Vec<_>>());
        assert_eq!(asked, pages, "limit {limit}");
    }
    let keys = ask(&app, &stamp, Method::GET, "/docs?limit=1", "").await.json();
    assert_eq!(keys["items"][0], serde_json::json!({ "id": "k000", "version": 1 }));
    assert_eq!(keys["next"], "k000");
}

#[tokio::test]
async fn a_page_of_long_documents_ends_early_and_goes_on() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let long = format!("\"{}\"", "x".repeat(50_000));
    for n in 10..40 {
        let made = ask(&app, &stamp, Method::PUT, &format!("/docs/{n}"), long.clone()).await;
        assert_eq!(made.status, StatusCode::CREATED);
    }
    let first = ask(&app, &stamp, Method::GET, "/docs?limit=1000&values=true", "").await;
    assert!(first.text.len() < 1_200_000, "{}", first.text.len());
    let next = first.json()["next"].as_str().unwrap().to_owned();
    let rest = ask(&app, &stamp, Method::GET, &format!("/docs?values=true&after={next}"), "").await.json();
    let count = |page: &serde_json::Value| page["items"].as_array().unwrap().len();
    assert_eq!(count(&first.json()) + count(&rest), 30);
    assert!(rest["next"].is_null());
}

#[tokio::test]
async fn a_counter_counts_each_of_many_at_once() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let increments = (0..60).map(|_| ask(&app, &stamp, Method::POST, "/counters/n/increment", r#"{"by":2}"#));
    let values: BTreeSet<i64> =
        join_all(increments).await.iter().map(|answer| answer.json()["value"].as_i64().unwrap()).collect();
    assert_eq!(values, (1..=60).map(|n| n * 2).collect());
    assert_eq!(ask(&app, &stamp, Method::GET, "/counters/n", "").await.json()["value"], 120);
    assert_eq!(ask(&app, &stamp, Method::POST, "/counters/n/increment", "").await.json()["value"], 121);
    assert_eq!(ask(&app, &stamp, Method::POST, "/counters/n/increment", r#"{"by":-1}"#).await.json()["value"], 120);
    assert_eq!(ask(&app, &stamp, Method::GET, "/counters/other", "").await.code(), "COUNTER_UNKNOWN");
    let most = format!("{{\"by\":{}}}", i64::MAX);
    assert_eq!(ask(&app, &stamp, Method::POST, "/counters/n/increment", most).await.code(), "COUNTER_OVERFLOW");
    for bad in ["{}", "{\"by\":1.5}", "{\"by\":\"1\"}", "{\"by\":1,\"x\":2}", "1"] {
        let refused = ask(&app, &stamp, Method::POST, "/counters/n/increment", bad).await;
        assert_eq!(refused.code(), "INCREMENT_INVALID", "{bad}");
    }
}

#[tokio::test]
async fn one_key_at_the_same_time_is_one_execution() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let twins = (0..30).map(|_| {
        let keyed = [key("once")];
        let (app, stamp) = (&app, &stamp);
        async move { ask_with(app, stamp, Method::POST, "/counters/n/increment", r#"{"by":5}"#, &keyed).await }
    });
    let answers = join_all(twins).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK && answer.json()["value"] == 5));
    let executed = answers.iter().filter(|answer| !answer.headers.contains_key("idempotent-replayed")).count();
    assert_eq!(executed, 1);
    assert_eq!(ask(&app, &stamp, Method::GET, "/counters/n", "").await.json()["value"], 5);
}

#[tokio::test]
async fn a_write_sent_again_under_its_key_gets_the_same_answer_and_another_one_is_refused() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let first = ask_with(&app, &stamp, Method::POST, "/docs", "1", &[key("k")]).await;
    let again = ask_with(&app, &stamp, Method::POST, "/docs", "1", &[key("k")]).await;
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(again.headers[LOCATION], first.headers[LOCATION]);
    assert_eq!(again.etag(), first.etag());
    let other = ask_with(&app, &stamp, Method::POST, "/docs", "2", &[key("k")]).await;
    assert_eq!((other.status, other.code().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED"));
    let listed = ask(&app, &stamp, Method::GET, "/docs", "").await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    // What was refused was not executed, so the key is still free.
    let refused = ask_with(&app, &stamp, Method::DELETE, "/docs/none", "", &[key("d")]).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    ask(&app, &stamp, Method::PUT, "/docs/none", "1").await;
    let deleted = ask_with(&app, &stamp, Method::DELETE, "/docs/none", "", &[key("d")]).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    assert_eq!(
        ask_with(&app, &stamp, Method::POST, "/docs", "1", &[key("a b")]).await.code(),
        "IDEMPOTENCY_KEY_INVALID"
    );
}

#[tokio::test]
async fn only_so_many_answers_are_kept_and_the_oldest_go_first() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let app = app.keeping_answers(3);
    let increment = |name: &'static str| {
        let (app, stamp) = (&app, &stamp);
        async move {
            let answer = ask_with(app, stamp, Method::POST, "/counters/n/increment", "", &[key(name)]).await;
            answer.json()["value"].as_i64().unwrap()
        }
    };
    for (name, value) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        assert_eq!(increment(name).await, value);
    }
    assert_eq!(increment("b").await, 2, "still kept");
    assert_eq!(increment("a").await, 5, "dropped, so executed again");
    assert_eq!(increment("d").await, 4, "still kept");
    assert_eq!(increment("b").await, 6, "dropped by now");
}

#[tokio::test]
async fn what_is_too_long_or_no_json_is_refused_and_changes_nothing() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let longest = format!("\"{}\"", "x".repeat(write::DOCUMENT_BYTES_MAX - 2));
    let too_long = format!("\"{}\"", "x".repeat(write::DOCUMENT_BYTES_MAX - 1));
    let huge = vec![b'1'; 1024 * 1024 + 1];
    let refused = ask(&app, &stamp, Method::PUT, "/docs/a", too_long).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "DOCUMENT_TOO_LARGE"));
    let refused = ask(&app, &stamp, Method::POST, "/docs", huge).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"));
    let deep = "[".repeat(100_000);
    for bad in ["", "{", "{\"a\":}", "1 2", "\u{feff}1", deep.as_str()] {
        let refused = ask(&app, &stamp, Method::PUT, "/docs/a", bad.to_owned()).await;
        assert!(matches!(refused.code().as_str(), "JSON_INVALID" | "DOCUMENT_TOO_LARGE"), "{bad:.20}");
    }
    assert_eq!(ask(&app, &stamp, Method::PUT, "/docs/a", vec![b'"', 0xff, b'"']).await.code(), "JSON_INVALID");
    assert_eq!(ask(&app, &stamp, Method::GET, "/docs/a", "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(ask(&app, &stamp, Method::PUT, "/docs/a", longest.clone()).await.status, StatusCode::CREATED);
    assert_eq!(ask(&app, &stamp, Method::GET, "/docs/a", "").await.text, longest);
}

#[tokio::test]
async fn a_refusal_of_the_data_layer_is_marked_as_not_executed() {
    let Fixture { app, stamp, running: _running } = fixture::cell().await;
    let stranger = RequestStamp { tenant: cell_model::TenantId::new("stranger").unwrap(), ..stamp.clone() };
    for (method, uri) in [(Method::GET, "/docs/a"), (Method::PUT, "/docs/a"), (Method::GET, "/docs")] {
        let refused = ask(&app, &stranger, method, uri, "1").await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.not_executed.is_some(), "{uri}");
    }
}

#[tokio::test]
async fn without_its_key_nothing_of_a_tenant_is_served_and_with_it_everything_is_again() {
    let Fixture { app: unkeyed, stamp, running: _running } = fixture::cell().await;
    let keys = tempfile::tempdir().unwrap();
    let (file, away) = (keys.path().join("t.key"), keys.path().join("t.disabled"));
    let app = unkeyed.clone().keyed(keys.path().into());
    assert_eq!(ask(&app, &stamp, Method::PUT, "/docs/a", "[1]").await.code(), "TENANT_KEY_DISABLED");
    std::fs::write(&file, [7; 32]).unwrap();
    assert_eq!(
        ask(&app, &stamp, Method::PUT, "/docs/a", "[1]").await.status,
        StatusCode::CREATED,
        "nothing had run"
    );
    assert_eq!(ask(&app, &stamp, Method::POST, "/counters/n/increment", "").await.json()["value"], 1);
    std::fs::rename(&file, &away).unwrap();
    for (method, path) in [
        (Method::GET, "/docs/a"),
        (Method::GET, "/docs"),
        (Method::PUT, "/docs/a"),
        (Method::DELETE, "/docs/a"),
        (Method::POST, "/docs"),
        (Method::GET, "/counters/n"),
        (Method::POST, "/counters/n/increment"),
    ] {
        let refused = ask(&app, &stamp, method.clone(), path, "").await;
        let (status, code) = (refused.status, refused.code());
        assert_eq!((status, code.as_str()), (StatusCode::FORBIDDEN, "TENANT_KEY_DISABLED"), "{method} {path}");
        assert!(refused.not_executed.is_none(), "the tenant is refused, not its owner");
    }
    assert_eq!(ask(&app, &stamp, Method::OPTIONS, "/docs", "").await.status, StatusCode::NO_CONTENT);
    std::fs::rename(&away, &file).unwrap();
    assert_eq!(ask(&app, &stamp, Method::GET, "/docs/a", "").await.text, "[1]");
    assert_eq!(ask(&app, &stamp, Method::GET, "/docs?values=true", "").await.json()["items"][0]["value"][0], 1);
    assert_eq!(ask(&app, &stamp, Method::GET, "/counters/n", "").await.json()["value"], 1);
    // What is stored does not say it.
    let stored = ask(&unkeyed, &stamp, Method::GET, "/docs?values=true", "").await;
    assert_eq!(stored.code(), "ROW_DAMAGED", "{}", stored.text);
}
