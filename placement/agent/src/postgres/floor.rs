//! The least that a cell's database has to know: what was last answered of each tenant, kept outside of that database, in the agent's
//! data directory.
//!
//! ```text
//! step ─► commit in the database ─► noted here, on disk ─► answer
//! start, or a lost session ─► what the database has, beside what is noted ─► at least that: go on
//!                                                                       └──► less: raised first (see `judge`, `failover`)
//! ```
//! A failover to a standby that was behind, and a restore, take back commits that were answered for: the fence of a tenant that
//! another cell owns by now, say. Whoever asks only the database would own it a second time.

mod judge;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cell_model::{CellId, Seq, TenantId};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

pub(crate) use judge::{NOBODY, Raised, RowsAfter, Verdict};

use super::fault::Fault;
use super::records::{Known, from_db};
use crate::engine::{Applied, Batch, Engine, EngineError, SledEngine};
use crate::error::AgentError;
use crate::record::{AgentRecord, Control, Record};
use crate::refusal::Refusal;

/// Of the agent's data directory.
const FOLDER: &str = "floor";
const AGENT: &[u8] = b"a";
const PLACE: &[u8] = b"p";
const TENANTS: &[u8] = b"t/";
const TENANTS_END: &[u8] = b"t0";
/// How many are read at once.
const PAGE: usize = 1_000;
/// All of it is in memory besides.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// What was last answered of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Least {
    pub(crate) control: Control,
    /// How often the control had changed.
    pub(crate) number: u64,
    /// Rows of the tenant were here, whole or in part.
    pub(crate) has_rows: bool,
}

impl Record for Least {
    const KIND: &'static str = "floor";
}

/// Which server it was, and how far its log went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// `initdb` has chosen it; a standby has that of its primary.
    pub(crate) system: i64,
    /// One more with every promotion.
    pub(crate) timeline: i64,
    /// As far as it is on disk.
    pub(crate) log_end: Seq,
}

impl Record for Place {
    const KIND: &'static str = "place";
}

impl Place {
    /// Of the server at the other end, which has to be one that takes writes.
    pub(crate) async fn read(client: &Client) -> Result<Self, Fault> {
        const STANDBY: &str = "SELECT pg_is_in_recovery()";
        const PLACE: &str = "SELECT (SELECT system_identifier FROM pg_control_system()), \
                             ('x' || left(pg_walfile_name(o.log_end), 8))::bit(32)::bigint, \
                             (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint \
                        FROM (SELECT pg_current_wal_insert_lsn() AS log_end OFFSET 0) AS o";
        if client.query_one(STANDBY, &[]).await?.get(0) {
            let reason = "the server at this address is a standby, which takes no writes: it is tried again; promote it, or \
                          correct the address";
            return Err(Fault::new("DATABASE_STANDBY", reason));
        }
        let row = client.query_one(PLACE, &[]).await?;
        Ok(Self { system: row.get(0), timeline: row.get(1), log_end: Seq(from_db(row.get(2))) })
    }

    /// What has become of the server since it was at `before`, if it is not that one any more, or has less than that.
    pub(crate) fn change_since(&self, before: &Self) -> Option<String> {
        if self.system != before.system {
            return Some(format!(
                "it is another server than before (system {}, was {})",
                self.system, before.system
            ));
        }
        if self.timeline != before.timeline {
            let (now, was) = (self.timeline, before.timeline);
            return Some(format!("it was promoted, or restored, since (timeline {now}, was {was})"));
        }
        let (now, was) = (self.log_end, before.log_end);
        (now < was)
            .then(|| format!("its log ends at {now}, and was at {was}: an earlier state was put in its place"))
    }
}

#[derive(Default)]
struct Kept {
    agent: Option<AgentRecord>,
    place: Option<Place>,
    tenants: BTreeMap<TenantId, Least>,
}

/// See the module. Without a directory it lasts as long as the agent.
#[derive(Default)]
pub(crate) struct Floor {
    engine: Option<Arc<dyn Engine>>,
    kept: Mutex<Kept>,
}

fn tenant_key(tenant: &TenantId) -> Vec<u8> {
    [TENANTS, tenant.as_str().as_bytes()].concat()
}

impl Floor {
    /// What is noted in this directory of the agent; an empty path is none.
    pub(crate) async fn open(directory: &Path, here: &CellId) -> Result<Self, AgentError> {
        if directory.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let folder: PathBuf = directory.join(FOLDER);
        let path = folder.display().to_string();
        let opened = tokio::task::spawn_blocking(move || {
            let engine: Arc<dyn Engine> = Arc::new(SledEngine::open(&folder, CACHE_BYTES)?);
            Self::on(engine)
        });
        let floor = opened.await.map_err(|error| EngineError::Open { path, reason: error.to_string() })??;
        match floor.agent().filter(|agent| agent.cell != *here) {
            Some(agent) => Err(AgentError::OtherCell { found: agent.cell, here: here.clone() }),
            None => Ok(floor),
        }
    }

    fn on(engine: Arc<dyn Engine>) -> Result<Self, AgentError> {
        let mut kept = Kept {
            agent: engine.get(AGENT)?.map(|bytes| AgentRecord::decode(&bytes)).transpose()?,
            place: engine.get(PLACE)?.map(|bytes| Place::decode(&bytes)).transpose()?,
            ..Kept::default()
        };
        let mut from = TENANTS.to_vec();
        loop {
            let page = engine.scan(&from, TENANTS_END, PAGE)?;
            for (key, bytes) in &page {
                let name = std::str::from_utf8(&key[TENANTS.len()..]).unwrap_or_default();
                kept.tenants.insert(TenantId::new(name)?, Least::decode(bytes)?);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), &[0]].concat(),
                _ => return Ok(Self { engine: Some(engine), kept: Mutex::new(kept) }),
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it outlives the agent.
    pub(crate) const fn is_durable(&self) -> bool {
        self.engine.is_some()
    }

    pub(crate) fn agent(&self) -> Option<AgentRecord> {
        self.kept().agent.clone()
    }

    pub(crate) fn place(&self) -> Option<Place> {
        self.kept().place.clone()
    }

    /// Those of whom something is noted.
    pub(crate) fn tenants(&self) -> Vec<TenantId> {
        self.kept().tenants.keys().cloned().collect()
    }

    pub(crate) fn tenant(&self, tenant: &TenantId) -> Option<Least> {
        self.kept().tenants.get(tenant).cloned()
    }

    /// What is to be made of what the database has of a tenant.
    pub(crate) fn judge(&self, tenant: &TenantId, found: Option<&Known>) -> Verdict {
        self.kept().tenants.get(tenant).map_or(Verdict::Stands, |least| judge::judge(least, found))
    }

    /// Notes the agent's own record, durably.
    pub(crate) async fn note_agent(&self, agent: &AgentRecord) -> Result<(), Refusal> {
        self.put(AGENT.to_vec(), agent.encode())?;
        self.kept().agent = Some(agent.clone());
        self.sync().await
    }

    /// Notes where the database is; on disk with whatever is noted next.
    pub(crate) fn note_place(&self, place: &Place) -> Result<(), Refusal> {
        self.put(PLACE.to_vec(), place.encode())?;
        self.kept().place = Some(place.clone());
        Ok(())
    }

    /// Notes what the database has of a tenant, before anybody hears of it. What gives or takes the tenant is on disk then, all else
    /// soon.
    pub(crate) async fn note(&self, tenant: &TenantId, least: Least) -> Result<(), Refusal> {
        let gives_or_takes = {
            let kept = self.kept();
            let grant =
                |least: &Least| (least.control.uid, least.control.epoch, least.control.role, least.has_rows);
            kept.tenants.get(tenant).map(grant) != Some(grant(&least))
        };
        self.note_soon(tenant, least)?;
        if gives_or_takes {
            return self.sync().await;
        }
        if let Some(engine) = self.engine.clone() {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = engine.sync() {
                    tracing::warn!(%error, "the agent's data directory could not be synced");
                }
            });
        }
        Ok(())
    }

    /// The same, on disk with whatever is noted next. It never sinks: a registry, too, may have been put back.
    pub(crate) fn note_soon(&self, tenant: &TenantId, least: Least) -> Result<(), Refusal> {
        let mut kept = self.kept();
        let order = |least: &Least| (least.control.uid, least.control.epoch, least.number);
        let known = kept.tenants.get(tenant);
        if known.is_some_and(|known| *known == least || order(known) > order(&least)) {
            return Ok(());
        }
        self.put(tenant_key(tenant), least.encode())?;
        kept.tenants.insert(tenant.clone(), least);
        Ok(())
    }

    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> Result<(), Refusal> {
        let Some(engine) = &self.engine else { return Ok(()) };
        let mut batch = Batch::default();
        batch.put(key, value);
        match engine.apply(&batch) {
            Ok(Applied::Yes | Applied::No) => Ok(()),
            Err(error) => Err(not_noted(&error)),
        }
    }

    /// Returns when everything that was noted is on disk.
    pub(crate) async fn sync(&self) -> Result<(), Refusal> {
        let Some(engine) = self.engine.clone() else { return Ok(()) };
        let synced = tokio::task::spawn_blocking(move || engine.sync()).await;
        synced.map_err(Refusal::internal)?.map_err(|error| not_noted(&error))
    }
}

fn not_noted(error: &EngineError) -> Refusal {
    let reason = format!(
        "what was done could not be noted in the agent's data directory ({error}): make room there, or mend its disk, and \
         start the agent again: it takes nothing more until then, and the step is tried again"
    );
    Refusal::new("FLOOR_NOT_KEPT", reason)
}

#[cfg(test)]
mod tests {
    use cell_model::{Epoch, Generation, Lineage, Term, Uid};

    use super::*;
    use crate::engine::MemoryEngine;
    use crate::record::Role;

    fn place(system: i64, timeline: i64, log_end: u64) -> Place {
        Place { system, timeline, log_end: Seq(log_end) }
    }

    #[test]
    fn another_server_another_timeline_and_a_shorter_log_are_told_from_the_same_server() {
        let before = place(7, 1, 1_000);
        assert_eq!(place(7, 1, 1_000).change_since(&before), None);
        assert_eq!(place(7, 1, 2_000).change_since(&before), None);
        for (now, what) in [
            (place(8, 1, 2_000), "another server"),
            (place(7, 2, 2_000), "promoted"),
            (place(7, 1, 999), "earlier state"),
        ] {
            assert!(now.change_since(&before).unwrap().contains(what), "{now:?}");
        }
    }

    #[tokio::test]
    async fn what_was_noted_is_there_when_the_agent_is_started_again() {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
        let floor = Floor::on(Arc::clone(&engine)).unwrap();
        let agent = AgentRecord {
            cell: CellId::new("a").unwrap(),
            generation: Generation(4),
            lineage: Lineage(1),
            term: Term(9),
        };
        let control = Control { uid: Uid(7), epoch: Epoch(2), role: Role::Owner, ..Control::default() };
        let least = Least { control, number: 5, has_rows: true };
        // More than are read at once.
        let names: Vec<TenantId> =
            (0..PAGE + 3).map(|number| TenantId::new(format!("t-{number}")).unwrap()).collect();
        floor.note_agent(&agent).await.unwrap();
        floor.note_place(&place(7, 3, 90)).unwrap();
        for name in &names {
            floor.note(name, least.clone()).await.unwrap();
        }
        let again = Floor::on(engine).unwrap();
        assert_eq!((again.agent(), again.place()), (Some(agent), Some(place(7, 3, 90))));
        assert_eq!(again.tenants().len(), names.len());
        assert!(names.iter().all(|name| again.tenant(name).as_ref() == Some(&least)));
    }
}
