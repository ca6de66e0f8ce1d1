//! Sequences that no column owns: a default names them, and so they go along with its table.

use cell_agent::DatabaseOptions;

use super::ground::*;
use super::moving::forth;

const TICKETS: &str = "
CREATE SEQUENCE order_no;
CREATE TABLE tickets (tenant_id text, id bigint DEFAULT nextval('order_no'), PRIMARY KEY (tenant_id, id));
CREATE TABLE \"Odd. tickets\" (tenant_id text, id bigint DEFAULT nextval('order_no'), PRIMARY KEY (tenant_id, id))";

async fn with_tickets(ground: &Ground, name: &str) -> Cell {
    let cell = ground.open(name).await;
    cell.session().await.batch_execute(TICKETS).await.unwrap();
    cell
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_a_default_names_is_set_ahead_with_the_tables_that_draw_from_it() {
    let ground = Ground::new();
    let (a, b) = (with_tickets(&ground, "a").await, with_tickets(&ground, "b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let sell = "INSERT INTO tickets (tenant_id) SELECT 't-1' FROM generate_series(1, 50)";
    a.session().await.batch_execute(sell).await.unwrap();
    forth(&ground, &a, &b).await;
    ground.cut_over(&a, &b, 1, 1, cell_model::Leg::Forward).await;
    b.session().await.batch_execute(sell).await.unwrap();
    assert_eq!(b.contents("tickets").await.len(), 100);
    // Many draw from it, and it is told once: its ids can be told apart as those of any other.
    let told = ground.pool.existing(&b.agent).await.unwrap().unwrap();
    let names: Vec<&str> = told.sequences.iter().map(|sequence| sequence.name.as_str()).collect();
    assert_eq!(names, ["public.accounts_id_seq", "public.entries_n_seq", "public.order_no"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_draws_from_a_sequence_in_one_cell_alone_is_found() {
    let ground = Ground::new();
    let (a, b) = (with_tickets(&ground, "a").await, with_tickets(&ground, "b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    b.session().await.batch_execute("ALTER TABLE tickets ALTER id DROP DEFAULT").await.unwrap();
    let look =
        async |cell: &Cell, as_target| ground.pool.preflight(&cell.agent, &context(1, 1), as_target).await.unwrap();
    let found = look(&a, false).await.unlike(&look(&b, true).await).unwrap();
    assert!(found.reason.contains("tickets: id bigint not null from a sequence"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_own_tables_that_draw_from_everybodys_sequence_are_found_with_what_mends_them() {
    let url = database().await;
    let tables = "CREATE SEQUENCE public.everybodys; CREATE SCHEMA cellway_template;
                  CREATE SEQUENCE cellway_template.own;
                  CREATE TABLE cellway_template.tickets (id bigint PRIMARY KEY DEFAULT nextval('public.everybodys'),
                                                         n bigint DEFAULT nextval('cellway_template.own'))";
    session(&url).await.batch_execute(tables).await.unwrap();
    let options = DatabaseOptions { tenant_schema: Some("tenant_{id}".into()), ..DatabaseOptions::new(&url) };
    let here = cell_model::CellId::new("a").unwrap();
    let looked = cell_agent::inspect_database(&here, options).await.unwrap();
    let [found] = looked.findings.as_slice() else { panic!("{:?}", looked.findings) };
    assert_eq!(found.code, "SEQUENCE_LEADS_OUT");
    let mend = "ALTER SEQUENCE \"cellway_template\".… OWNED BY \"cellway_template\".\"tickets\".\"id\"";
    assert!(found.reason.contains("column tickets.id") && found.reason.contains(mend), "{found:?}");
}
