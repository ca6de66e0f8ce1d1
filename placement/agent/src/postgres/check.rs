//! What stands in the way of a move, with the statement that mends it. Pure.

use cell_protos::v1 as wire;

use super::catalogue::{Catalogue, Table};
use super::sql::ident;

/// What the server allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) wal_level: String,
    pub(crate) slots_free: i64,
    pub(crate) senders_free: i64,
    /// The agent's slot is there already.
    pub(crate) has_slot: bool,
    pub(crate) may_replicate: bool,
    pub(crate) sees_all_rows: bool,
    pub(crate) may_silence_triggers: bool,
    pub(crate) role: String,
    /// Log that a slot may keep, in bytes; none: as much as there is room for.
    pub(crate) slot_wal_max: Option<u64>,
}

fn finding(code: &str, reason: String) -> wire::Finding {
    wire::Finding { code: code.into(), reason }
}

/// What the tables lack.
pub(crate) fn tables(catalogue: &Catalogue) -> Vec<wire::Finding> {
    if catalogue.tables.is_empty() {
        let (schema, column) = (&catalogue.schema, &catalogue.tenant_column);
        let reason = format!("no table of schema {schema} has a column {column}: nothing there belongs to tenants");
        return vec![finding("NO_TENANT_TABLES", reason)];
    }
    catalogue.tables.iter().flat_map(|table| of_table(catalogue, table)).collect()
}

fn of_table(catalogue: &Catalogue, table: &Table) -> Vec<wire::Finding> {
    let (name, tenant) = (catalogue.qualified(table), &catalogue.tenant_column);
    let quoted = ident(tenant);
    let mut found = Vec::new();
    let mut find = |code: &str, reason: String| found.push(finding(code, reason));
    if table.key.is_empty() {
        let mend = format!("ALTER TABLE {name} ADD PRIMARY KEY ({quoted}, …)");
        find("NO_PRIMARY_KEY", format!("table {name} has no primary key, so its rows cannot be followed: {mend}"));
    } else if !table.key.contains(tenant) {
        let mend = format!(
            "ALTER TABLE {name} DROP CONSTRAINT {}, ADD PRIMARY KEY ({quoted}, {})",
            table.uniques.first().map_or_else(|| "…".into(), |unique| ident(&unique.name)),
            table.key_list()
        );
        let reason = format!("the primary key of {name} lacks {tenant}: keys of two cells may collide: {mend}");
        find("TENANT_NOT_IN_KEY", reason);
    }
    for unique in table.uniques.iter().filter(|unique| !unique.columns.contains(tenant)) {
        if unique.columns != table.key {
            let index = ident(&unique.name);
            let reason = format!(
                "unique index {index} of {name} lacks {tenant}: its values may collide with those of tenants of the \
                 other cell: make it unique by ({quoted}, {})",
                unique.columns.join(", ")
            );
            find("UNIQUE_WITHOUT_TENANT", reason);
        }
    }
    for key in &table.foreign_keys {
        let to = catalogue.tables.iter().any(|other| other.name == key.to);
        let key_name = ident(&key.name);
        if !to {
            let reason = format!(
                "foreign key {key_name} of {name} leads to {}, which has no {tenant} and is not moved: give it the \
                 column, or drop the key and keep that table alike in all cells",
                key.to
            );
            find("KEY_LEADS_OUT", reason);
        } else if !key.pairs.iter().any(|(own, other)| own == tenant && other == tenant) {
            let reason = format!(
                "foreign key {key_name} of {name} may lead from one tenant to another: make {quoted} part of it: \
                 FOREIGN KEY ({quoted}, …) REFERENCES {} ({quoted}, …)",
                ident(&key.to)
            );
            find("CROSS_TENANT_KEY", reason);
        }
    }
    if !matches!(table.replica_identity, 'd' | 'f') {
        let mend = format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT");
        find("REPLICA_IDENTITY", format!("changes of {name} are logged without its primary key: {mend}"));
    }
    if table.unlogged {
        find("UNLOGGED_TABLE", format!("changes of {name} are not logged: ALTER TABLE {name} SET LOGGED"));
    }
    if table.inherits {
        find(
            "TABLE_INHERITS",
            format!("{name} inherits or is inherited from: use partitions, or a table of its own"),
        );
    }
    for column in &table.columns {
        if let Some(why) = &column.unmovable {
            let reason = format!("column {} of {name} ({}) cannot be moved: {why}", column.name, column.type_name);
            find("COLUMN_UNSUPPORTED", reason);
        }
    }
    found
}

/// What the server or the agent's role lacks.
pub(crate) fn server(server: &Server) -> Vec<wire::Finding> {
    let mut found = Vec::new();
    let role = ident(&server.role);
    if server.wal_level != "logical" {
        let reason = format!(
            "wal_level is {}: ALTER SYSTEM SET wal_level = logical, and restart the server",
            server.wal_level
        );
        found.push(finding("WAL_LEVEL", reason));
    }
    if !server.has_slot && server.slots_free < 1 {
        let reason = "no replication slot is left: ALTER SYSTEM SET max_replication_slots = …, and restart, or \
                      SELECT pg_drop_replication_slot(…) for one that nobody uses";
        found.push(finding("NO_SLOT_LEFT", reason.into()));
    }
    if !server.has_slot && server.senders_free < 1 {
        let reason = "no WAL sender is left: ALTER SYSTEM SET max_wal_senders = …, and restart";
        found.push(finding("NO_SENDER_LEFT", reason.into()));
    }
    if !server.may_replicate {
        let reason = format!("role {role} may not replicate: ALTER ROLE {role} REPLICATION");
        found.push(finding("ROLE_CANNOT_REPLICATE", reason));
    }
    if !server.sees_all_rows {
        let reason = format!("row-level security hides rows from role {role}: ALTER ROLE {role} BYPASSRLS");
        found.push(finding("ROLE_SEES_TOO_LITTLE", reason));
    }
    if !server.may_silence_triggers {
        let reason = format!(
            "role {role} cannot write as a replica does: GRANT SET ON PARAMETER session_replication_role TO {role}"
        );
        found.push(finding("ROLE_CANNOT_APPLY", reason));
    }
    found
}

/// What is not in the way, and may be one day.
pub(crate) fn notes(server: &Server, wal_bytes_max: u64) -> Vec<wire::Finding> {
    let reason = match server.slot_wal_max {
        // The agent gives slow copies up itself, but it must be running for that.
        None => {
            "while this cell's agent is down during a move, its slot keeps log without a limit: ALTER SYSTEM SET \
                 max_slot_wal_keep_size = '16GB', and SELECT pg_reload_conf()"
                .to_owned()
        }
        Some(most) if most < wal_bytes_max => format!(
            "max_slot_wal_keep_size is {most} bytes, less than the {wal_bytes_max} that the agent lets a slow copy \
             keep: the server would end such a copy first"
        ),
        Some(_) => return Vec::new(),
    };
    vec![finding("SLOT_WAL_LIMIT", reason)]
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::{Column, ForeignKey, Unique};
    use super::*;

    fn table(name: &str) -> Table {
        let column = |name: &str| Column {
            name: name.into(),
            type_name: "text".into(),
            generated: false,
            always: false,
            unmovable: None,
            collation: None,
            like: "text".into(),
        };
        let key = vec!["tenant_id".to_owned(), "id".to_owned()];
        Table {
            name: name.into(),
            columns: vec![column("id"), column("other"), column("tenant_id")],
            uniques: vec![Unique { name: format!("{name}_pkey"), columns: key.clone() }],
            key,
            foreign_keys: Vec::new(),
            replica_identity: 'd',
            unlogged: false,
            inherits: false,
        }
    }

    fn codes(change: impl FnOnce(&mut Table)) -> Vec<String> {
        let mut first = table("first");
        change(&mut first);
        let tables_ = vec![first, table("second")];
        let catalogue = Catalogue {
            schema: "public".into(),
            tenant_column: "tenant_id".into(),
            tables: tables_,
            sequences: Vec::new(),
        };
        tables(&catalogue).into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn tables_with_the_tenant_in_every_key_pass() {
        assert_eq!(codes(|_| {}), Vec::<String>::new());
        let inside = |table: &mut Table| {
            let pairs = vec![("tenant_id".into(), "tenant_id".into()), ("other".into(), "id".into())];
            table.foreign_keys.push(ForeignKey { name: "f".into(), to: "second".into(), pairs });
        };
        assert_eq!(codes(inside), Vec::<String>::new());
    }

    #[test]
    fn each_thing_in_the_way_is_named() {
        let no_key = |table: &mut Table| {
            table.key.clear();
            table.uniques.clear();
        };
        assert_eq!(codes(no_key), ["NO_PRIMARY_KEY"]);
        let id_only = |table: &mut Table| {
            table.key = vec!["id".into()];
            table.uniques[0].columns = vec!["id".into()];
        };
        assert_eq!(codes(id_only), ["TENANT_NOT_IN_KEY"]);
        let unique = |table: &mut Table| {
            table.uniques.push(Unique { name: "u".into(), columns: vec!["other".into()] });
        };
        assert_eq!(codes(unique), ["UNIQUE_WITHOUT_TENANT"]);
        let crossing = |table: &mut Table| {
            let pairs = vec![("other".into(), "id".into())];
            table.foreign_keys.push(ForeignKey { name: "f".into(), to: "second".into(), pairs });
        };
        assert_eq!(codes(crossing), ["CROSS_TENANT_KEY"]);
        let out = |table: &mut Table| {
            let pairs = vec![("other".into(), "id".into())];
            table.foreign_keys.push(ForeignKey { name: "f".into(), to: "countries".into(), pairs });
        };
        assert_eq!(codes(out), ["KEY_LEADS_OUT"]);
        assert_eq!(codes(|table| table.unlogged = true), ["UNLOGGED_TABLE"]);
        assert_eq!(codes(|table| table.inherits = true), ["TABLE_INHERITS"]);
        assert_eq!(codes(|table| table.replica_identity = 'n'), ["REPLICA_IDENTITY"]);
        assert_eq!(codes(|table| table.columns[1].unmovable = Some("it is odd".into())), ["COLUMN_UNSUPPORTED"]);
    }

    #[test]
    fn a_server_that_cannot_capture_is_told_what_to_change() {
        let able = Server {
            wal_level: "logical".into(),
            slots_free: 1,
            senders_free: 1,
            has_slot: false,
            may_replicate: true,
            sees_all_rows: true,
            may_silence_triggers: true,
            role: "cell".into(),
            slot_wal_max: Some(1 << 34),
        };
        assert!(server(&able).is_empty());
        assert!(notes(&able, 1 << 32).is_empty());
        assert!(notes(&able, 1 << 35)[0].reason.contains("17179869184 bytes"));
        let unbounded = Server { slot_wal_max: None, ..able.clone() };
        assert!(notes(&unbounded, 1 << 32)[0].reason.contains("ALTER SYSTEM SET max_slot_wal_keep_size"));
        let unable = Server {
            wal_level: "replica".into(),
            slots_free: 0,
            senders_free: 0,
            may_replicate: false,
            sees_all_rows: false,
            may_silence_triggers: false,
            ..able.clone()
        };
        assert_eq!(server(&unable).len(), 6);
        assert!(server(&unable).iter().all(|finding| !finding.reason.is_empty()));
        assert!(server(&Server { slots_free: 0, senders_free: 0, has_slot: true, ..able }).is_empty());
    }
}
