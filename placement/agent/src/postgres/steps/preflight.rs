//! Looks at the database before a move, and changes nothing of the tenant's.

use cell_protos::v1 as wire;
use cell_protos::v1::step_response::Result as Answer;

use tokio_postgres::Client;

use super::Work;
use crate::postgres::catalogue::Catalogue;
use crate::postgres::fault::Fault;
use crate::postgres::layout::Layout;
use crate::postgres::{check, databases, disk, inspect, schemas, standbys};
use crate::record::Role;
use crate::refusal::Refusal;

impl Work<'_> {
    pub(super) async fn preflight(&self, as_target: bool) -> Result<Answer, Refusal> {
        let mut findings = self.own_findings(as_target);
        let mut notes = Vec::new();
        let looked = match self.look(as_target, &mut findings, &mut notes).await {
            Ok(looked) => looked,
            Err(Refusal { code, reason }) => {
                findings.insert(0, wire::Finding { code: code.into(), reason });
                Looked::default()
            }
        };
        let Looked { tables, size: (rows, bytes), disk_bytes, free_bytes, log_bytes_max } = looked;
        let storage = Some(wire::Storage::Postgres.into());
        Ok(Answer::Preflight(wire::PreflightReport {
            findings,
            rows,
            bytes,
            notes,
            tables,
            storage,
            disk_bytes,
            free_bytes,
            log_bytes_max,
        }))
    }

    fn own_findings(&self, as_target: bool) -> Vec<wire::Finding> {
        let here = &self.cell.here;
        let core = self.tenant.lock();
        let control = core.control.as_ref().filter(|control| control.uid == self.context().uid);
        let owns =
            control.is_some_and(|control| control.role == Role::Owner && control.epoch == self.context().epoch);
        let mut findings = Vec::new();
        let mut find = |code: &str, reason: String| findings.push(wire::Finding { code: code.into(), reason });
        if as_target {
            if core.has_copy() {
                find("COPY_PRESENT", format!("cell {here} already has rows of the tenant"));
            }
            if self.cell.trusted.read().unwrap_or_else(std::sync::PoisonError::into_inner).is_empty() {
                find("NO_TRUSTED_KEYS", format!("cell {here} trusts no signatures yet"));
            }
        } else if !owns {
            let epoch = self.context().epoch;
            find("NOT_OWNER", format!("cell {here} does not own the tenant at epoch {epoch}"));
        }
        findings
    }

    async fn look(
        &self,
        as_target: bool,
        findings: &mut Vec<wire::Finding>,
        notes: &mut Vec<wire::Finding>,
    ) -> Result<Looked, Refusal> {
        let database = &self.cell.database;
        let client = database.session().await?;
        if matches!(database.layout, Layout::Databases { .. }) {
            // One that is not here yet: it would be made as the template is.
            return if as_target {
                self.look_at_template(&client, findings, notes).await
            } else {
                Ok(Looked::default())
            };
        }
        let place = database.layout.place(&self.tenant.id)?;
        let is_own = database.layout.has_schemas();
        // A schema that is to be made will be as its template is.
        let looked_at = if as_target { database.layout.pattern() } else { place.clone() };
        let catalogue = Catalogue::read(&client, &looked_at).await?;
        let server = inspect::server(&client, &self.cell.replication.slot).await?;
        findings.extend(check::server(&server));
        notes.extend(check::notes(&server, database.options.wal_bytes_max));
        notes.extend(inspect::open_for_long(&client).await?);
        notes.extend(self.of_failovers(&client).await?);
        findings.extend(check::tables(&catalogue));
        if is_own {
            findings.extend(schemas::strange(&client, &looked_at.schema).await?);
        }
        if database.layout.is_whole() {
            findings.extend(databases::of_whole(&client, database, &looked_at.schema).await?);
        }
        if is_own && as_target && schemas::exists(&client, &place.schema).await? && !self.tenant.lock().has_copy() {
            let Refusal { code, reason } = schemas::present(&place.schema);
            findings.push(wire::Finding { code: code.into(), reason });
        }
        let looked = self.look_at_disk(&client, as_target, catalogue.lines(), notes).await?;
        if !findings.is_empty() || (is_own && as_target) {
            return Ok(looked);
        }
        self.cell.look_at_tables(&self.tenant.id).await?;
        let (size, disk_bytes) = self.size(&client, &catalogue, findings).await?;
        if as_target && size.0 > 0 && findings.is_empty() {
            let reason = format!("the database of cell {} has {} rows of the tenant", self.cell.here, size.0);
            findings.push(wire::Finding { code: "COPY_PRESENT".into(), reason });
        }
        Ok(Looked { size, disk_bytes, ..looked })
    }

    /// What is free there for a tenant that comes; and whether it is less than the log of one that goes may take.
    async fn look_at_disk(
        &self,
        client: &Client,
        as_target: bool,
        tables: Vec<String>,
        notes: &mut Vec<wire::Finding>,
    ) -> Result<Looked, Refusal> {
        let options = &self.cell.database.options;
        let free = disk::free(client, options).await?;
        if !as_target {
            notes.extend(disk::log_budget(free, options.wal_bytes_max));
            return Ok(Looked { tables, ..Looked::default() });
        }
        let log_bytes_max = disk::log_bytes_max(client).await?;
        Ok(Looked { tables, free_bytes: free, log_bytes_max, ..Looked::default() })
    }

    async fn look_at_template(
        &self,
        client: &Client,
        findings: &mut Vec<wire::Finding>,
        notes: &mut Vec<wire::Finding>,
    ) -> Result<Looked, Refusal> {
        let database = &self.cell.database;
        let server = inspect::server(client, &self.cell.replication.slot).await?;
        findings.extend(check::server(&server));
        notes.extend(check::notes(&server, database.options.wal_bytes_max));
        notes.extend(inspect::open_for_long(client).await?);
        notes.extend(self.of_failovers(client).await?);
        let (catalogue, found) = databases::look_at_template(database, Some(&self.tenant.id)).await?;
        findings.extend(found);
        self.look_at_disk(client, true, catalogue.lines(), notes).await
    }

    /// What a failover of the database's server could take back.
    async fn of_failovers(&self, client: &Client) -> Result<Vec<wire::Finding>, Refusal> {
        let mut notes = standbys::notes(client, &self.cell.database).await?;
        if !self.cell.floor.is_durable() {
            let reason = format!(
                "the agent of cell {} has no data directory: when it is started again, it believes what its database says, also where that was put back to before a tenant had left: --data-dir, on another disk than the database's",
                self.cell.here
            );
            notes.push(wire::Finding { code: "NO_DATA_DIRECTORY".into(), reason });
        }
        Ok(notes)
    }

    /// Rows and bytes of the tenant, and what it takes of a disk.
    async fn size(
        &self,
        client: &Client,
        catalogue: &Catalogue,
        findings: &mut Vec<wire::Finding>,
    ) -> Result<((u64, u64), u64), Refusal> {
        let (mut size, mut disk_bytes) = ((0, 0), 0_u64);
        for table in &catalogue.tables {
            let of = catalogue.of_tenant(table, self.tenant.id.as_str());
            let name = catalogue.qualified(table);
            let sql =
                format!("SELECT count(*), coalesce(sum(pg_column_size(t.*)), 0)::bigint FROM {name} t WHERE {of}");
            match client.query_one(&sql, &[]).await {
                Ok(row) => {
                    let of = (row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned());
                    size = (size.0 + of.0, size.1 + of.1);
                    let sizes = disk::sizes(client, &name).await?;
                    disk_bytes = disk_bytes.saturating_add(disk::with_indexes(of, sizes));
                }
                Err(error) => {
                    let reason = format!("whose a row of {name} is cannot be asked: {}", Fault::from(error).reason);
                    findings.push(wire::Finding { code: "TENANT_KEY_TYPE".into(), reason });
                }
            }
        }
        Ok((size, disk_bytes))
    }
}

/// What was seen where nothing went wrong.
#[derive(Default)]
struct Looked {
    tables: Vec<String>,
    size: (u64, u64),
    disk_bytes: u64,
    free_bytes: Option<u64>,
    log_bytes_max: u64,
}
