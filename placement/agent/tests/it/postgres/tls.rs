//! A database that is spoken to over TLS: by every session of an agent, the one that reads the log among them; and what is
//! said where it cannot be.

use std::os::unix::fs::PermissionsExt as _;

use cell_agent::{DatabaseOptions, inspect_database};
use cell_model::{CellId, Leg};

use super::ground::*;
use super::server::Own;
use crate::authority::{Authority, Pair};

/// Lets clients in with a certificate, and the tests without.
const ACCESS: &str = "\
local all all trust
hostnossl all plain 127.0.0.1/32 trust
hostssl all postgres 127.0.0.1/32 cert
hostssl all uncertified 127.0.0.1/32 trust
";

/// A server that speaks TLS, with a certificate for these names.
async fn server(authority: &Authority, names: &[&str]) -> Own {
    let server = Own::start("").await;
    let (certificate, key) = authority.server(names).texts();
    let client = session(&server.database().await).await;
    for statement in [
        "CREATE ROLE plain SUPERUSER LOGIN",
        "CREATE ROLE uncertified SUPERUSER LOGIN",
        "ALTER SYSTEM SET ssl = on",
        "ALTER SYSTEM SET ssl_ca_file = 'root.crt'",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let files = [
        ("server.crt", certificate),
        ("server.key", key),
        ("root.crt", authority.text()),
        ("pg_hba.conf", ACCESS.into()),
    ];
    server.restart_with(files).await;
    server
}

fn with(url: &str, mode: &str, authority: &Authority, own: Option<&Pair>) -> String {
    let mut url = format!("{url}?sslmode={mode}&sslrootcert={}", authority.file().display());
    if let Some(own) = own {
        url = format!("{url}&sslcert={}&sslkey={}", own.certificate.display(), own.key.display());
    }
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_between_databases_that_take_certificates_only_and_nothing_is_said_in_plain_text() {
    let (ground, authority) = (Ground::new(), Authority::new());
    let server = server(&authority, &["localhost", "127.0.0.1"]).await;
    let own = authority.client("postgres");
    let mut cells = Vec::new();
    for name in ["a", "b"] {
        let url = server.database_as("plain").await;
        session(&url).await.batch_execute(TABLES).await.unwrap();
        let by_tls = with(&url.replace("plain@", "postgres@"), "verify-full", &authority, Some(&own));
        let mut cell = ground.try_open(name, &by_tls, "127.0.0.1:0").await.unwrap();
        cell.url = url;
        cells.push(cell);
    }
    let (b, a) = (cells.pop().unwrap(), cells.pop().unwrap());
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let client = a.session().await;
    accounts(&client, 3_000).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    account(&client, "later").await.unwrap();
    ground.verify(&a, &b, &step).await;
    ground.pool.engage_sync(&a.agent, &step, true).await.unwrap();
    ground.reverse(&b.agent, &step).await;
    let agents = "FROM pg_stat_activity LEFT JOIN pg_stat_ssl USING (pid) WHERE application_name LIKE 'cellway%'";
    let plain = format!("SELECT count(*) {agents} AND (ssl IS NOT TRUE OR client_dn <> '/CN=postgres')");
    assert_eq!(client.query_one(&plain, &[]).await.unwrap().get::<_, i64>(0), 0);
    let readers = format!("SELECT count(*) = 2 {agents} AND application_name = 'cellway capture' AND ssl");
    until_true(&client, &readers).await;
    ground.cut_over(&a, &b, 1, 1, Leg::Forward).await;
    assert_eq!(b.rows().await["accounts"].len(), 3_001);
    a.close().await;
    b.close().await;
}

async fn why(url: &str) -> (&'static str, String) {
    let looked = inspect_database(&CellId::new("a").unwrap(), DatabaseOptions::new(url)).await;
    let error = looked.map(|_| ()).unwrap_err();
    (error.code(), error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_believed_is_not_spoken_to_and_the_sentence_says_why_and_what_to_do() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = server(&authority, &["db.test"]).await;
    let url = server.database_as("plain").await.replace("plain@", "uncertified@");
    let here = CellId::new("a").unwrap();
    for mode in ["require", "verify-ca"] {
        let by_tls = with(&url, mode, &authority, None);
        let looked = inspect_database(&here, DatabaseOptions::new(by_tls)).await;
        assert!(looked.is_ok(), "{mode}: the authority is believed, whatever the name: {looked:?}");
    }
    let anybody = inspect_database(&here, DatabaseOptions::new(format!("{url}?sslmode=require"))).await;
    assert!(anybody.is_ok(), "{anybody:?}");

    let (own, other) = (authority.client("postgres"), authority.client("other"));
    let with_certificate = url.replace("uncertified@", "postgres@");
    let speechless = database().await;
    for (url, code, words) in [
        (with(&url, "verify-full", &authority, None), "DATABASE_TLS", "connect by a name that is in"),
        (with(&url, "verify-ca", &stranger, None), "DATABASE_TLS", "sslrootcert names another authority"),
        (with(&url, "require", &stranger, None), "DATABASE_TLS", "sslrootcert names another authority"),
        (with(&speechless, "require", &authority, None), "DATABASE_TLS", "ssl = on"),
        (with(&with_certificate, "verify-ca", &authority, None), "DATABASE_LOGIN", "certificate"),
        (with(&with_certificate, "verify-ca", &authority, Some(&other)), "DATABASE_LOGIN", "correct user"),
        (
            with(&with_certificate, "verify-ca", &authority, Some(&stranger.client("postgres"))),
            "DATABASE_TLS",
            "sslcert",
        ),
        (url.clone(), "DATABASE_LOGIN", "sslmode=verify-full"),
    ] {
        let (found, said) = why(&url).await;
        assert!(found == code && said.contains(words), "{found}: {said} ({url})");
    }

    let swapped = Pair { certificate: own.certificate.clone(), key: other.key.clone() };
    let (code, said) = why(&with(&url, "verify-ca", &authority, Some(&swapped))).await;
    assert!(code == "DATABASE_TLS_FILE" && said.contains("other.key"), "{code}: {said}");
    let no_key = Pair { certificate: own.certificate.clone(), key: own.certificate.clone() };
    let (code, said) = why(&with(&url, "verify-ca", &authority, Some(&no_key))).await;
    assert!(code == "DATABASE_KEY_EXPOSED" && said.contains("chmod 600"), "{code}: {said}");
    std::fs::set_permissions(&own.certificate, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (code, said) = why(&with(&url, "verify-ca", &authority, Some(&no_key))).await;
    assert!(code == "DATABASE_TLS_FILE" && said.contains("no private key"), "{code}: {said}");
}

/// With another password, or other TLS, it is the same database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_address_says_something_else_by_now_goes_on_with_the_slot_that_it_has() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 200).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    let url = a.url.clone();
    let listen = a.kill();
    session(&url).await.batch_execute("UPDATE accounts SET name = 'while away' WHERE id <= 50").await.unwrap();
    let mut a = ground.try_open("a", &format!("{url}?sslmode=disable"), &listen).await.unwrap();
    a.url = url;
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    assert_eq!(a.slots().await, 2, "one slot, and its record");
    a.close().await;
    b.close().await;
}
