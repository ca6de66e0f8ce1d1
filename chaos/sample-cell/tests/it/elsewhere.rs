//! A cell before an application of somebody's own, on PostgreSQL. The application is a server here, with sessions of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cell_trust::{SigningKey, TrustedKeys};
use http::{HeaderMap, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::sync::Mutex;

use super::moving::{Following, copy, cut_over};
use super::*;
use crate::tables::server;

const TABLES: &str = "CREATE TABLE notes (tenant_id text, id text, PRIMARY KEY (tenant_id, id))";

/// Notes of many tenants; it knows of Cellway one statement and what its refusals look like.
async fn application(url: &str) -> SocketAddr {
    let client = server::session(url).await;
    client.batch_execute(TABLES).await.unwrap();
    let client = Arc::new(Mutex::new(client));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let client = Arc::clone(&client);
            let service = service_fn(move |request| answer(Arc::clone(&client), request));
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    address
}

async fn answer(
    client: Arc<Mutex<tokio_postgres::Client>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let id = request.uri().path().trim_start_matches('/').to_owned();
    let mut response = Response::new(Full::default());
    match write(&mut *client.lock().await, request.headers(), &id).await {
        Ok(()) => *response.status_mut() = StatusCode::CREATED,
        Err(error) => {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            if let Some(refused) = error.as_db_error().filter(|refused| refused.code().code().starts_with("CW")) {
                let code = refused.message().split(':').next().unwrap();
                response.headers_mut().insert("cell-not-executed", "1".parse().unwrap());
                response.headers_mut().insert("cell-code", code.parse().unwrap());
            }
        }
    }
    Ok(response)
}

async fn write(
    client: &mut tokio_postgres::Client,
    headers: &HeaderMap,
    id: &str,
) -> Result<(), tokio_postgres::Error> {
    let tenant = headers["cell-tenant"].to_str().unwrap();
    let number = |name: &str| headers[name].to_str().unwrap().parse::<i64>().unwrap();
    let transaction = client.transaction().await?;
    let enter = "SELECT cellway.enter($1, $2, $3)";
    transaction.execute(enter, &[&tenant, &number("cell-uid"), &number("cell-epoch")]).await?;
    transaction.execute("INSERT INTO notes VALUES ($1, $2)", &[&tenant, &id]).await?;
    transaction.commit().await
}

async fn cell(name: &str, key: &SigningKey) -> (Running, String) {
    let url = server::database().await;
    let mut options = Options::new(CellId::new(name).unwrap(), "");
    options.insecure_plaintext = true;
    options.application = vec![format!("http://{}", application(&url).await)];
    options.database = Some(url.clone());
    options.trusted_keys = vec![key.public().to_string()];
    (Running::start(options).await, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_of_an_application_in_a_process_of_its_own_moves_under_its_writers() {
    let key = SigningKey::generate();
    let ((source, from), (target, to)) = (cell("c1", &key).await, cell("c2", &key).await);
    source.grant("t").await;
    let trusted = TrustedKeys::new([key.public()]);
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..4usize)
        .map(|writer| {
            let (gate, trusted) = (source.gates[writer % 2], trusted.clone());
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut router = Following::from(gate, trusted).await;
                let mut written = 0usize;
                while !stop.load(Ordering::SeqCst) {
                    let posted = router.ask(Method::POST, &format!("/w{writer}-{written}"), "", None).await;
                    assert_eq!(posted.status, StatusCode::CREATED, "{posted:?}");
                    written += 1;
                    done.fetch_add(1, Ordering::SeqCst);
                }
                (written, router.redirected)
            })
        })
        .collect();
    let more = async |wanted: usize| {
        let before = done.load(Ordering::SeqCst);
        eventually("writes go on", || done.load(Ordering::SeqCst) >= before + wanted).await;
    };
    more(30).await;
    copy(&source, &target, &CellId::new("c1").unwrap()).await;
    more(30).await;
    cut_over(&source, &target, &key).await;
    more(30).await;
    stop.store(true, Ordering::SeqCst);
    let mut total = 0;
    for writer in writers {
        let (written, redirected) = writer.await.unwrap();
        assert_eq!(redirected, 1, "every writer is told once of the new owner");
        total += i64::try_from(written).unwrap();
    }
    // Each has a name of its own, so what was done twice would have been refused.
    let notes = "SELECT count(*) FROM notes WHERE tenant_id = 't'";
    let there: i64 = server::session(&to).await.query_one(notes, &[]).await.unwrap().get(0);
    assert_eq!(there, total, "what was answered is there");
    let made = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'documents'";
    let sample: i64 = server::session(&from).await.query_one(made, &[]).await.unwrap().get(0);
    assert_eq!(sample, 0, "the sample application has no tables there");
    source.stop().await;
    target.stop().await;
}
