//! What the log can say of a row decides whether its table is published: nobody's update fails because an agent has come.

use super::ground::*;

/// Of the first three the log cannot identify rows; of the third one it is a partition's.
const TABLES: &str = "
CREATE TABLE late (tenant_id text, id int, PRIMARY KEY (tenant_id, id) DEFERRABLE);
CREATE TABLE nothing (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE parted (tenant_id text, id int, PRIMARY KEY (tenant_id, id)) PARTITION BY HASH (id);
CREATE TABLE part PARTITION OF parted FOR VALUES WITH (MODULUS 1, REMAINDER 0);
ALTER TABLE part REPLICA IDENTITY NOTHING;
CREATE TABLE full_late (tenant_id text, id int, PRIMARY KEY (tenant_id, id) DEFERRABLE);
ALTER TABLE full_late REPLICA IDENTITY FULL;
CREATE TABLE indexed (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
CREATE UNIQUE INDEX indexed_again ON indexed (tenant_id, id);
ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_again;
CREATE TABLE plain (tenant_id text, id int, PRIMARY KEY (tenant_id, id))";
const NAMES: [&str; 6] = ["late", "nothing", "parted", "full_late", "indexed", "plain"];

async fn published(cell: &Cell) -> Vec<String> {
    let sql = "SELECT tablename::text FROM pg_publication_tables WHERE pubname = 'cellway' ORDER BY 1";
    cell.session().await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// What every application does.
async fn work(cell: &Cell) {
    let client = cell.session().await;
    for name in NAMES {
        let sql = format!(
            "INSERT INTO {name} VALUES ('t-1', 1); UPDATE {name} SET id = 2 WHERE tenant_id = 't-1'; \
             DELETE FROM {name} WHERE tenant_id = 't-1'"
        );
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_whose_rows_the_log_cannot_identify_go_on_as_before_and_are_found_with_what_mends_them() {
    let ground = Ground::new();
    let url = database().await;
    session(&url).await.batch_execute(TABLES).await.unwrap();
    let cell = ground.open_with("a", &url, "127.0.0.1:0", |database| database.observe = true).await.unwrap();
    work(&cell).await;
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
    assert_eq!(published(&cell).await, ["full_late", "indexed", "plain"]);
    work(&cell).await;
    let look = async || ground.pool.preflight(&cell.agent, &context(1, 1), false).await.unwrap().findings;
    let found = look().await;
    assert!(found.iter().all(|found| found.code == "REPLICA_IDENTITY"), "{found:?}");
    let mends: Vec<&str> =
        found.iter().filter_map(|found| found.reason.rsplit_once(": ")).map(|(_, mend)| mend).collect();
    let expected = [
        "ALTER TABLE \"public\".\"indexed\" REPLICA IDENTITY DEFAULT",
        "ALTER TABLE public.late REPLICA IDENTITY FULL",
        "ALTER TABLE public.nothing REPLICA IDENTITY DEFAULT",
        "ALTER TABLE public.part REPLICA IDENTITY DEFAULT",
    ];
    assert_eq!(mends, expected);
    for mend in mends {
        cell.session().await.batch_execute(mend).await.unwrap();
    }
    assert!(look().await.is_empty());
    let mut all = NAMES.map(str::to_owned);
    all.sort();
    assert_eq!(published(&cell).await, all);
    work(&cell).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_has_lost_its_identity_is_taken_out_of_the_publication_also_the_last_one() {
    let ground = Ground::new();
    let url = database().await;
    session(&url).await.batch_execute("CREATE TABLE plain (tenant_id text PRIMARY KEY)").await.unwrap();
    let cell = ground.try_open("a", &url, "127.0.0.1:0").await.unwrap();
    ground.pool.grant(&cell.agent, &outside(1)).await.unwrap();
    assert_eq!(published(&cell).await, ["plain"]);
    let client = cell.session().await;
    client
        .batch_execute("INSERT INTO plain VALUES ('t-1'); ALTER TABLE plain REPLICA IDENTITY NOTHING")
        .await
        .unwrap();
    cell.close().await;
    let cell = ground.try_open("a", &url, "127.0.0.1:0").await.unwrap();
    assert!(published(&cell).await.is_empty());
    client.batch_execute("DELETE FROM plain WHERE tenant_id = 't-1'").await.unwrap();
}
