//! Writers that no gate has let in, in the way of a hold.

use std::time::Duration;

use cell_client::{StepContext, StepError};
use cell_model::Attempt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::ground::*;
use super::moving::forth;
use super::server::Own;

fn attempt(number: u32) -> StepContext {
    StepContext { attempt: Attempt(number), ..context(1, 1) }
}

/// In which attempt a hold comes about that ends whoever is in its way, and how many such there were. On a slow machine it may lapse.
async fn held(ground: &Ground, cell: &Cell, first: u32) -> (u32, u32) {
    for number in first..first + 20 {
        match ground.pool.hold_writes_of(&cell.agent, &attempt(number), HOLD, true).await {
            Ok((_, ended)) => return (number, ended),
            Err(StepError::Refused { code, .. }) if code == "NOT_QUIESCED" => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no hold came about")
}

/// What the agent says to Prometheus.
async fn scraped(cell: &Cell, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(cell.metrics.unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: cell\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_ends_writers_that_no_gate_has_let_in_only_where_that_was_asked_for_and_counts_them() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    forth(&ground, &a, &b).await;
    let hold = async |number: u32, budget: Duration, terminates: bool| {
        let held = ground.pool.hold_writes_of(&a.agent, &attempt(number), budget, terminates).await;
        ground.pool.release_hold(&a.agent, &attempt(number)).await.unwrap();
        held
    };
    let insert = |name: &str| format!("INSERT INTO accounts (tenant_id, name) VALUES ('t-1', '{name}')");
    let (psql, cron, request) = (a.session().await, a.session().await, a.session().await);
    psql.batch_execute(&format!("BEGIN; {}", insert("by hand"))).await.unwrap();
    cron.batch_execute(&format!("BEGIN; SELECT cellway.enter('t-1'); {}", insert("of a job"))).await.unwrap();
    enter(&request, 1).await.unwrap();
    request.batch_execute(&insert("of a request")).await.unwrap();
    let short = Duration::from_millis(300);
    let missed = hold(2, short, false).await.unwrap_err().to_string();
    assert!(missed.contains("NOT_QUIESCED"), "{missed}");
    for open in [&psql, &cron, &request] {
        open.batch_execute("SELECT 1").await.unwrap();
    }
    // A request that a gate has let in is waited for, whatever was asked for.
    let missed = hold(3, HOLD, true).await.unwrap_err().to_string();
    assert!(missed.contains("NOT_QUIESCED"), "{missed}");
    for ended in [&psql, &cron] {
        ended.batch_execute("SELECT 1").await.unwrap_err();
    }
    let told = async |number: u32| {
        ground.pool.sync_status_with_writes(&a.agent, &attempt(number)).await.unwrap().ended_writers
    };
    assert_eq!(told(3).await, 2);
    request.batch_execute("COMMIT").await.unwrap();
    let (number, ended) = held(&ground, &a, 4).await;
    assert_eq!((ended, told(number).await), (2, 2), "they are counted once");
    let said = scraped(&a, "/metrics").await;
    assert!(said.contains("\ncell_agent_ended_writers_total 2\n"), "{said}");
    assert!(said.contains("\ncell_agent_tenants{role=\"holding\"} 1\n"), "{said}");
    assert!(scraped(&b, "/metrics").await.contains("\ncell_agent_ended_writers_total 0\n"));
    assert!(scraped(&a, "/").await.starts_with("HTTP/1.1 404"));
    let names = a.contents("accounts").await;
    let has = |name: &str| names.iter().any(|row| row.contains(name));
    assert!(has("of a request") && !has("by hand") && !has("of a job"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_whom_the_agents_role_may_not_end_is_named_with_what_that_takes() {
    let (own, ground) = (Own::start("").await, Ground::new());
    let url = own.database().await;
    let (admin, name) = (session(&url).await, url.rsplit_once('/').unwrap().1);
    let roles = format!(
        "CREATE ROLE mover LOGIN REPLICATION BYPASSRLS; CREATE ROLE clerk LOGIN;
         GRANT SET ON PARAMETER session_replication_role TO mover;
         ALTER DATABASE {name} OWNER TO mover; GRANT CREATE ON SCHEMA public TO mover"
    );
    admin.batch_execute(&roles).await.unwrap();
    let as_mover = url.replace("postgres@", "mover@");
    session(&as_mover).await.batch_execute(TABLES).await.unwrap();
    let works = "GRANT INSERT ON ALL TABLES IN SCHEMA public TO clerk; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO clerk";
    admin.batch_execute(works).await.unwrap();
    let a = ground.try_open("a", &as_mover, "127.0.0.1:0").await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let b = ground.open("b").await;
    forth(&ground, &a, &b).await;
    let clerk = session(&url.replace("postgres@", "clerk@")).await;
    clerk.batch_execute("BEGIN; INSERT INTO accounts (tenant_id, name) VALUES ('t-1', 'by hand')").await.unwrap();
    let missed = ground.pool.hold_writes_of(&a.agent, &attempt(2), HOLD, true).await.unwrap_err().to_string();
    let named = missed.contains("NOT_QUIESCED") && missed.contains("clerk") && missed.contains("pg_signal_backend");
    assert!(named, "{missed}");
    clerk.batch_execute("SELECT 1").await.unwrap();
    admin.batch_execute("GRANT clerk TO mover").await.unwrap();
    assert_eq!(held(&ground, &a, 3).await.1, 1);
    clerk.batch_execute("SELECT 1").await.unwrap_err();
}
