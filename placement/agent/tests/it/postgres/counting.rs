//! What is said of rows and bytes where they cannot be counted.

use super::ground::*;
use cell_client::wire::DescribeResponse;
use cell_protos::v1::TenantStorage;

fn storage(described: DescribeResponse) -> TenantStorage {
    described.storage.into_iter().next().expect("the cell knows the tenant")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_counted_in_time_is_told_as_it_was_counted_last_and_that_it_is_so() {
    let ground = Ground::new();
    let a = ground.open("a").await;
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let client = a.session().await;
    accounts(&client, 100).await;
    let counted = || async { storage(ground.pool.describe(&a.agent, None).await.unwrap()) };
    let first = counted().await;
    assert!(first.rows == 100 && first.bytes > 10_000 && !first.not_counted, "{first:?}");
    // As slow as a table that is too large to be read in a moment.
    client.batch_execute("INSERT INTO accounts (tenant_id, name) VALUES ('t-1', 'one more')").await.unwrap();
    client.batch_execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let second = counted().await;
    assert_eq!((second.not_counted, second.rows, second.bytes), (true, first.rows, first.bytes));
    let uncounted = storage(ground.pool.describe_uncounted(&a.agent, None).await.unwrap());
    assert_eq!((uncounted.not_counted, uncounted.rows), (false, first.rows), "nobody has asked for it");
    client.batch_execute("ROLLBACK").await.unwrap();
    let third = counted().await;
    assert_eq!((third.not_counted, third.rows), (false, 101));
    a.close().await;
}
