//! A copy that is not the original: which rows is found out, and these are copied anew, whatever is written meanwhile.

use cell_client::{StepContext, StepError};
use cell_model::{Difference, Differing, Seq};

use super::ground::*;
use super::writers::Writers;

/// Damage that no trigger, no key and no log of the copying cell knows of.
async fn damage(cell: &Cell, sql: &str) {
    let client = cell.session().await;
    // Whatever is applied meanwhile may have locked the same rows in another order.
    while let Err(error) = client.batch_execute(&format!("SET session_replication_role = replica; {sql}")).await {
        assert_eq!(error.code().unwrap().code(), "40P01", "{error:?}");
    }
}

async fn when_it_may<T>(step: impl AsyncFn() -> Result<T, StepError>) -> T {
    let done = async {
        loop {
            match step().await {
                Ok(done) => return done,
                Err(StepError::Refused { code, .. }) if ["BUSY", "NOT_APPLIED"].contains(&code.as_str()) => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, done).await.expect("in time")
}

impl Ground {
    async fn examine(&self, to: &Cell) -> Difference {
        when_it_may(async || self.pool.examine(&to.agent, &context(1, 1)).await).await
    }

    async fn recopy(&self, to: &Cell, at: Seq) -> Seq {
        when_it_may(async || self.pool.recopy(&to.agent, &context(1, 1), at).await).await
    }
}

/// Two cells, and a copy of so many accounts that was found to be alike.
async fn copied(ground: &Ground, count: i32) -> (Cell, Cell, StepContext) {
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, count).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    (a, b, step)
}

fn told(found: &Difference) -> Vec<String> {
    found.rows.iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_missing_extra_or_changed_are_named_and_mended() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    let client = a.session().await;
    accounts(&client, 500).await;
    client.batch_execute("INSERT INTO \"Odd \"\" name\" VALUES ('a, ''key', 't-1', 'v')").await.unwrap();
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    assert_eq!(ground.examine(&b).await.count(), 0, "nothing differs");
    damage(
        &b,
        "DELETE FROM accounts WHERE id = 7; UPDATE accounts SET ratio = 1 WHERE id IN (8, 499);
         INSERT INTO accounts (tenant_id, id, name) OVERRIDING SYSTEM VALUE VALUES ('t-1', 9000, 'secret');
         UPDATE \"Odd \"\" name\" SET value = 'secret';
         INSERT INTO entries (tenant_id, account, n, amount) VALUES ('t-1', 7, 12, 1)",
    )
    .await;
    let found = ground.examine(&b).await;
    assert_eq!((found.missing, found.extra, found.changed, found.more), (1, 2, 3, false));
    let rows = [
        "Odd \" name(a, 'key) changed",
        "accounts(499) changed",
        "accounts(7) missing",
        "accounts(8) changed",
        "accounts(9000) extra",
        "entries(7, 12) extra",
    ];
    assert_eq!(told(&found), rows);
    assert!(!found.to_string().contains("secret"), "values are the tenant's: {found}");
    assert_eq!((found.owner.rows, found.copy.rows), (501, 502));
    ground.recopy(&b, found.seq).await;
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    // Once more is no more.
    ground.recopy(&b, found.seq).await;
    ground.verify(&a, &b, &step).await;
    let other = ground.pool.recopy(&b.agent, &step, Seq(found.seq.get() + 1)).await;
    assert_eq!(refused(other), "NOT_EXAMINED");
    b.close().await;
    a.close().await;
}

/// As `move tenant --exact` asks for: one by one, over more than a page of them, while writers go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_compared_with_its_original_where_that_is_asked_for() {
    let ground = Ground::new();
    let (a, b, step) = copied(&ground, 2_500).await;
    let updates =
        |turn| format!("UPDATE accounts SET name = 'u{turn}' WHERE tenant_id = 't-1' AND id = 2000 + {turn} % 100");
    let writers = Writers::start(&a, 2, updates).await;
    let compare = async || when_it_may(async || ground.pool.compare_rows(&b.agent, &context(1, 1)).await).await;
    let found = compare().await;
    assert_eq!((found.count(), found.owner.rows, found.owner == found.copy), (0, 2_500, true), "{found}");
    damage(
        &b,
        "DELETE FROM accounts WHERE id = 7; UPDATE accounts SET ratio = 1 WHERE id = 1500;
         INSERT INTO accounts (tenant_id, id, name) OVERRIDING SYSTEM VALUE VALUES ('t-1', 9000, 'secret')",
    )
    .await;
    let found = compare().await;
    assert_eq!((found.missing, found.extra, found.changed, found.more), (1, 1, 1, false), "{found}");
    assert_eq!(told(&found), ["accounts(7) missing", "accounts(1500) changed", "accounts(9000) extra"]);
    ground.recopy(&b, found.seq).await;
    assert_eq!(compare().await.count(), 0);
    writers.stop().await;
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    b.close().await;
    a.close().await;
}

/// The rows that are copied anew are also those that are written: a change is in what is read, or comes behind it, and never both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_mended_while_they_are_written() {
    let ground = Ground::new();
    let (a, b, step) = copied(&ground, 400).await;
    // Rows that are there in both cells, and only not alike: whoever updates one has one.
    let updates = |turn| {
        format!(
            "UPDATE accounts SET name = 'u{turn}' WHERE tenant_id = 't-1' AND id = 1 + {turn} % 100;
             UPDATE accounts SET price = {turn} WHERE tenant_id = 't-1' AND id = 200 + {turn} % 100"
        )
    };
    let writers = Writers::start(&a, 3, updates).await;
    for _ in 0..3 {
        // Columns that writers leave alone, in rows that they write.
        damage(&b, "UPDATE accounts SET ratio = 1 WHERE id % 3 = 0; DELETE FROM accounts WHERE id > 380").await;
        let found = ground.examine(&b).await;
        assert_eq!((found.missing, found.extra), (20, 0), "{found}");
        assert!(found.changed > 0 && found.rows.len() == Difference::ROWS_MAX, "{found}");
        assert!(found.rows.iter().all(|row| row.differing != Differing::Extra));
        ground.recopy(&b, found.seq).await;
        ground.verify(&a, &b, &step).await;
    }
    writers.stop().await;
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    b.close().await;
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_something_at_the_target_changes_each_time_stays_different_and_is_named() {
    let ground = Ground::new();
    let (a, b, _) = copied(&ground, 50).await;
    damage(
        &b,
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := 'spoilt'; RETURN NEW; END $$;
         CREATE TRIGGER spoil BEFORE INSERT OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION spoil();
         ALTER TABLE accounts ENABLE ALWAYS TRIGGER spoil; UPDATE accounts SET ratio = 1 WHERE id = 7",
    )
    .await;
    for _ in 0..2 {
        let found = ground.examine(&b).await;
        assert_eq!((told(&found), found.count()), (vec!["accounts(7) changed".to_owned()], 1));
        ground.recopy(&b, found.seq).await;
    }
    b.close().await;
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_another_layout_are_compared_and_mended_in_its_own_form() {
    let ground = Ground::new();
    let (a, b) = (ground.open("a").await, ground.open_own("b").await);
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    accounts(&a.session().await, 60).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    ground.verify(&a, &b, &step).await;
    damage(&b, "DELETE FROM accounts WHERE id = 7; UPDATE accounts SET name = '' WHERE id = 8").await;
    let found = ground.examine(&b).await;
    assert_eq!(told(&found), ["accounts(7) missing", "accounts(8) changed"]);
    ground.recopy(&b, found.seq).await;
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.contents("accounts").await, a.contents("accounts").await);
    b.close().await;
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_meets_no_row_names_it() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 20).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    damage(&b, "DELETE FROM accounts WHERE id = 7").await;
    a.session().await.batch_execute("UPDATE accounts SET name = 'x' WHERE id = 7").await.unwrap();
    let failure = ground.failure(&b, &step).await;
    assert_eq!(failure, "COPY_DIVERGED: a change of row (7) of accounts has met 0 rows in the copy");
    assert_eq!(refused(ground.pool.examine(&b.agent, &step).await), "COPY_DIVERGED");
    b.close().await;
    a.close().await;
}

/// The session with the snapshot is lost in between: what is found out is found out anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_examined_again_when_its_owner_has_been_started_again() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 20).await;
    let step = context(1, 1);
    ground.copy(&a, &b, &step).await;
    damage(&b, "DELETE FROM accounts WHERE id = 7").await;
    let url = a.url.clone();
    let listen = a.kill();
    let lost = ground.pool.examine(&b.agent, &step).await;
    assert_eq!(refused(lost), "BUSY");
    let a = ground.try_open("a", &url, &listen).await.unwrap();
    let found = ground.examine(&b).await;
    assert_eq!(told(&found), ["accounts(7) missing"]);
    ground.recopy(&b, found.seq).await;
    ground.verify(&a, &b, &step).await;
    b.close().await;
    a.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_soak_some_rows_of_the_old_copy_are_compared_with_the_new_owners() {
    let ground = Ground::new();
    let (a, b) = ground.pair().await;
    accounts(&a.session().await, 150).await;
    super::moving::forth(&ground, &a, &b).await;
    ground.cut_over(&a, &b, 1, 1, cell_model::Leg::Forward).await;
    let soaking = cell_client::StepContext { leg: Some(cell_model::Leg::Forward), ..context(2, 50) };
    b.session().await.batch_execute("UPDATE accounts SET name = 'by the new owner' WHERE id = 9").await.unwrap();
    let sample =
        async |seed| when_it_may(async || ground.pool.compare_sample(&a.agent, &soaking, seed).await).await;
    let mut rows = 0;
    for seed in 0..9 {
        let found = sample(seed).await;
        assert_eq!((found.count(), found.owner), (0, found.copy), "{found}");
        rows += found.owner.rows;
    }
    assert!(rows >= 150, "each table comes to be looked at: {rows}");
    damage(&a, "UPDATE accounts SET ratio = 1 WHERE id = 150; DELETE FROM accounts WHERE id = 149").await;
    let looked = async {
        for seed in 0.. {
            let found = sample(seed).await;
            if found.count() > 0 {
                return found;
            }
        }
        unreachable!("there is always another seed")
    };
    let found = tokio::time::timeout(PATIENCE, looked).await.expect("in time");
    assert_eq!(told(&found), ["accounts(149) missing", "accounts(150) changed"]);
    assert_eq!(found.phase, cell_model::Phase::Soak);
    b.close().await;
    a.close().await;
}
