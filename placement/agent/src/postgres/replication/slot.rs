//! The slot: written down before it is made, and made only where nothing that it was to keep is taken for whole.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;

use super::Replication;
use crate::postgres::fault::Fault;
use crate::postgres::records::to_db;
use crate::refusal::Refusal;

/// How long whoever makes a slot waits for it to be written down what was given up. It is tried again.
const NOTED_MAX: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Replication {
    async fn has_slot(&self, client: &Client) -> Result<bool, Fault> {
        let sql = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()";
        Ok(client.query_opt(sql, &[&self.slot]).await?.is_some())
    }

    /// Whether the slot is there, and the log that it kept is not.
    pub(crate) async fn is_lost(&self) -> Result<bool, Fault> {
        let sql = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1";
        let row = self.database.client().await?.query_opt(sql, &[&self.slot]).await?;
        Ok(row.is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true)))
    }

    /// The slot, made if it is not there. Its making waits for every transaction that is open in the server.
    pub(super) async fn make_slot(&self, stop: &CancellationToken) -> Result<(), Fault> {
        let client = self.database.connect().await?;
        if self.has_slot(&client).await? {
            return Ok(());
        }
        let gone = Refusal::new("CAPTURE_GAP", "the replication slot is gone, and with it changes that it kept");
        self.captures().fail_all(&gone);
        self.given_up_is_noted().await?;
        let by = to_db(self.by.get());
        let write = "INSERT INTO cellway.made (kind, name) \
                     SELECT 'slot', $1 WHERE EXISTS (SELECT 1 FROM cellway.incarnation WHERE generation = $2 FOR SHARE) \
                     ON CONFLICT DO NOTHING";
        client.execute(write, &[&self.slot, &by]).await?;
        // Without a lock on the generation: a transaction that has written makes no slot.
        let make = "SELECT pg_create_logical_replication_slot($1, 'pgoutput') \
                     WHERE EXISTS (SELECT 1 FROM cellway.incarnation WHERE generation = $2)";
        let values: [&(dyn ToSql + Sync); 2] = [&self.slot, &by];
        // Also while nobody wants it for a moment, since a step that has waited too long is tried again: whoever begins anew has newer
        // transactions to wait for, each time.
        tokio::select! {
            made = client.execute(make, &values) => match made? {
                0 => Err(Fault::new("AGENT_RUNNING", "no slot is made: another agent runs on this database")),
                _ => Ok(()),
            },
            () = stop.cancelled() => {
                self.database.cancel(&client).await;
                Err(Fault::new("DATABASE_FAILED", "the agent was stopped before its slot was made"))
            }
        }
    }

    /// Returns when it is written down of every capture that has failed. A crash behind a slot that is made before that would leave what
    /// looks as if it had kept everything.
    async fn given_up_is_noted(&self) -> Result<(), Fault> {
        self.arrived.send_modify(|arrived| *arrived += 1);
        let deadline = Instant::now() + NOTED_MAX;
        while !self.captures().unnoted().is_empty() {
            if Instant::now() >= deadline {
                let reason = "no slot is made before it is written down what was given up with the last one";
                return Err(Fault::new("DATABASE_FAILED", reason));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Whether everybody who wants the log has given up what he had captured: nothing is lost with the slot.
    pub(super) fn is_given_up(&self) -> bool {
        let wanted = self.wanted.borrow();
        let captures = self.captures();
        !wanted.is_empty() && wanted.keys().all(|tenant| captures.is_given_up(tenant))
    }

    /// No slot stays without a move: it would keep the log for ever.
    pub(crate) async fn drop_slot(&self) -> Result<(), Fault> {
        let client = self.database.client().await?;
        if self.has_slot(&client).await? {
            // The server may still be ending the stream that used it.
            let sql = "SELECT pg_drop_replication_slot($1) FROM pg_replication_slots \
                       WHERE slot_name = $1 AND database = current_database() AND active_pid IS NULL \
                         AND EXISTS (SELECT 1 FROM cellway.agent WHERE generation = $2)";
            if client.execute(sql, &[&self.slot, &to_db(self.by.get())]).await? == 0 {
                return Err(Fault::new("DATABASE_FAILED", "the slot is still in use and is dropped later"));
            }
        }
        client.execute("DELETE FROM cellway.made WHERE kind = 'slot' AND name = $1", &[&self.slot]).await?;
        Ok(())
    }
}
