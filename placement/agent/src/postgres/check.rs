//! What stands in the way of a move, with the statement that mends it. Pure.

use cell_protos::v1 as wire;

use super::catalogue::{Catalogue, Sequence, Table};
use super::sql::ident;

/// What the server allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// As `server_version_num` has it.
    pub(crate) version: i32,
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

/// PostgreSQL 15, from which on the number of a database can be chosen, and a database that is half dropped is known for what it is.
const VERSION_MIN: i32 = 150_000;

pub(crate) fn version(found: i32) -> Option<wire::Finding> {
    let major = found / 10_000;
    let reason = format!(
        "the server is PostgreSQL {major}, and has to be 15 or newer: pg_upgrade it, or take another server"
    );
    (found < VERSION_MIN).then(|| finding("SERVER_TOO_OLD", reason))
}

/// What the tables lack.
pub(crate) fn tables(catalogue: &Catalogue) -> Vec<wire::Finding> {
    if catalogue.tables.is_empty() {
        let schema = &catalogue.place.schema;
        let reason = match &catalogue.place.column {
            Some(column) => {
                format!("no table of schema {schema} has a column {column}: nothing there belongs to tenants")
            }
            None => format!(
                "schema {schema} has no tables, or is not there: CREATE SCHEMA {}, with them",
                ident(schema)
            ),
        };
        return vec![finding("NO_TENANT_TABLES", reason)];
    }
    let of_table = |table| match &catalogue.place.column {
        Some(tenant) => of_shared(catalogue, table, tenant),
        None => of_own(catalogue, table),
    };
    let of_tables = catalogue.tables.iter().flat_map(|table| [of_table(table), of_any(catalogue, table)].concat());
    of_tables.chain(sequences(catalogue)).collect()
}

/// A tenant's own tables may draw from what is the tenant's: of a sequence that others draw from as well, in the other cell too,
/// nobody could say where it stands.
fn sequences(catalogue: &Catalogue) -> Vec<wire::Finding> {
    if catalogue.place.column.is_some() {
        return Vec::new();
    }
    let schema = ident(&catalogue.place.schema);
    let leads_out = |sequence: &Sequence| {
        let Sequence { of, name, .. } = sequence;
        let (table, column) = of.rsplit_once('.').unwrap_or((of.as_str(), ""));
        let (table, column) = (ident(table), ident(column));
        let reason = format!(
            "column {of} draws from the sequence {name}, outside of the tenant's schema, which is not moved: make it one of its \
             own: CREATE SEQUENCE {schema}.…; ALTER SEQUENCE {schema}.… OWNED BY {schema}.{table}.{column}; ALTER TABLE \
             {schema}.{table} ALTER {column} SET DEFAULT nextval('{schema}.…')"
        );
        finding("SEQUENCE_LEADS_OUT", reason)
    };
    catalogue.sequences.iter().filter(|sequence| sequence.is_outside).map(leads_out).collect()
}

/// Of a table that is the tenant's alone.
fn of_own(catalogue: &Catalogue, table: &Table) -> Vec<wire::Finding> {
    let name = catalogue.qualified(table);
    let mut found = Vec::new();
    let mut find = |code: &str, reason: String| found.push(finding(code, reason));
    let one_row = format!("CREATE UNIQUE INDEX ON {name} ((true)); ALTER TABLE {name} REPLICA IDENTITY FULL");
    if !table.is_keyed() {
        let reason = format!(
            "table {name} has no primary key, so its rows cannot be followed: ALTER TABLE {name} ADD PRIMARY KEY (…), or, \
             where it has one row at the most, {one_row}"
        );
        find("NO_PRIMARY_KEY", reason);
    } else if table.primary.is_empty() && table.replica_identity != 'f' {
        let reason = format!("changes of {name}, which has one row and no primary key, are not logged: {one_row}");
        find("REPLICA_IDENTITY", reason);
    }
    for key in &table.foreign_keys {
        if !catalogue.tables.iter().any(|other| other.name == key.to) {
            let reason = format!(
                "foreign key {} of {name} leads to {}, outside of the tenant's schema, which is not moved: drop the key \
                 and keep that table alike in all cells, or bring it into the schema",
                ident(&key.name),
                key.to
            );
            find("KEY_LEADS_OUT", reason);
        }
    }
    found
}

/// Of a table whose rows are told apart by the column `tenant`.
fn of_shared(catalogue: &Catalogue, table: &Table, tenant: &String) -> Vec<wire::Finding> {
    let name = catalogue.qualified(table);
    let quoted = ident(tenant);
    let mut found = Vec::new();
    let mut find = |code: &str, reason: String| found.push(finding(code, reason));
    if let Some(column) = table.tenant.as_ref().filter(|column| column.type_name.starts_with("character(")) {
        let reason = format!(
            "column {tenant} of {name} is {}, which fills names up with blanks: make it text: ALTER TABLE {name} ALTER {quoted} \
             TYPE text",
            column.type_name
        );
        find("TENANT_KEY_TYPE", reason);
    }
    if table.primary.is_empty() {
        let mend = format!("ALTER TABLE {name} ADD PRIMARY KEY ({quoted}, …)");
        find("NO_PRIMARY_KEY", format!("table {name} has no primary key, so its rows cannot be followed: {mend}"));
    } else if !table.primary.contains(tenant) {
        let mend = format!(
            "ALTER TABLE {name} DROP CONSTRAINT {}, ADD PRIMARY KEY ({quoted}, {})",
            table.uniques.first().map_or_else(|| "…".into(), |unique| ident(&unique.name)),
            table.key_list()
        );
        let reason = format!("the primary key of {name} lacks {tenant}: keys of two cells may collide: {mend}");
        find("TENANT_NOT_IN_KEY", reason);
    }
    for unique in table.uniques.iter().filter(|unique| !unique.columns.contains(tenant)) {
        if unique.columns != table.primary {
            let (index, columns) = (ident(&unique.name), unique.columns.join(", "));
            let (what, mend) = if unique.excludes {
                (
                    "exclusion constraint",
                    format!("let it begin with {quoted} WITH =, as EXCLUDE USING gist ({quoted} WITH =, …)"),
                )
            } else {
                ("unique index", format!("make it unique by ({quoted}, {columns})"))
            };
            let reason = format!(
                "{what} {index} of {name} lacks {tenant}: its values may collide with those of tenants of the other cell: {mend}"
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
    found
}

/// Of a table in any layout.
fn of_any(catalogue: &Catalogue, table: &Table) -> Vec<wire::Finding> {
    let name = catalogue.qualified(table);
    let mut found = Vec::new();
    let mut find = |code: &str, reason: String| found.push(finding(code, reason));
    if let Some(mend) = table.unidentified.as_ref().filter(|_| !table.primary.is_empty()) {
        let reason = format!(
            "the log cannot say which row of {name} is updated or deleted: by its replica identity it does not try to, or its \
             primary key is DEFERRABLE: {mend}"
        );
        find("REPLICA_IDENTITY", reason);
    } else if !matches!(table.replica_identity, 'd' | 'f') {
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
    let mut found: Vec<wire::Finding> = version(server.version).into_iter().collect();
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
    use super::super::layout::Place;
    use super::*;

    fn unique(name: &str, columns: Vec<String>) -> Unique {
        Unique { name: name.into(), columns, constant: false, excludes: false }
    }

    fn leading(to: &str, pairs: &[(&str, &str)]) -> ForeignKey {
        let pairs = pairs.iter().map(|(own, other)| ((*own).to_owned(), (*other).to_owned())).collect();
        ForeignKey { name: "f".into(), to: to.into(), pairs, does: String::new() }
    }

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
        let primary = vec!["tenant_id".to_owned(), "id".to_owned()];
        Table {
            name: name.into(),
            tenant: Some(column("tenant_id")),
            columns: vec![column("id"), column("other")],
            uniques: vec![unique(&format!("{name}_pkey"), primary.clone())],
            primary,
            key: vec!["id".to_owned()],
            foreign_keys: Vec::new(),
            checks: Vec::new(),
            replica_identity: 'd',
            unidentified: None,
            unlogged: false,
            inherits: false,
        }
    }

    fn codes(change: impl FnOnce(&mut Table)) -> Vec<String> {
        let mut first = table("first");
        change(&mut first);
        let tables_ = vec![first, table("second")];
        let place = Place { schema: "public".into(), column: Some("tenant_id".into()) };
        let catalogue = Catalogue { place, tables: tables_, sequences: Vec::new() };
        tables(&catalogue).into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn tables_with_the_tenant_in_every_key_pass() {
        assert_eq!(codes(|_| {}), Vec::<String>::new());
        let inside = |table: &mut Table| {
            table.foreign_keys.push(leading("second", &[("tenant_id", "tenant_id"), ("other", "id")]));
        };
        assert_eq!(codes(inside), Vec::<String>::new());
    }

    #[test]
    fn each_thing_in_the_way_is_named() {
        let no_key = |table: &mut Table| {
            table.primary.clear();
            table.key.clear();
            table.uniques.clear();
        };
        assert_eq!(codes(no_key), ["NO_PRIMARY_KEY"]);
        let id_only = |table: &mut Table| {
            table.primary = vec!["id".into()];
            table.uniques[0].columns = vec!["id".into()];
        };
        assert_eq!(codes(id_only), ["TENANT_NOT_IN_KEY"]);
        let no_tenant = |table: &mut Table| {
            table.uniques.push(unique("u", vec!["other".into()]));
        };
        assert_eq!(codes(no_tenant), ["UNIQUE_WITHOUT_TENANT"]);
        let crossing = |table: &mut Table| table.foreign_keys.push(leading("second", &[("other", "id")]));
        assert_eq!(codes(crossing), ["CROSS_TENANT_KEY"]);
        let out = |table: &mut Table| table.foreign_keys.push(leading("countries", &[("other", "id")]));
        assert_eq!(codes(out), ["KEY_LEADS_OUT"]);
        let padded = |table: &mut Table| table.tenant.as_mut().unwrap().type_name = "character(12)".into();
        assert_eq!(codes(padded), ["TENANT_KEY_TYPE"]);
        assert_eq!(codes(|table| table.unlogged = true), ["UNLOGGED_TABLE"]);
        assert_eq!(codes(|table| table.inherits = true), ["TABLE_INHERITS"]);
        assert_eq!(codes(|table| table.replica_identity = 'i'), ["REPLICA_IDENTITY"]);
        let mend = "ALTER TABLE first REPLICA IDENTITY FULL".to_owned();
        assert_eq!(codes(|table| table.unidentified = Some(mend)), ["REPLICA_IDENTITY"]);
        assert_eq!(codes(|table| table.columns[1].unmovable = Some("it is odd".into())), ["COLUMN_UNSUPPORTED"]);
    }

    #[test]
    fn a_table_of_the_tenants_own_needs_no_column_but_a_way_to_follow_its_rows() {
        let own = |change: &dyn Fn(&mut Table)| -> Vec<String> {
            let mut first = Table { tenant: None, primary: vec!["id".into()], ..table("first") };
            first.uniques[0].columns = vec!["id".into()];
            change(&mut first);
            let catalogue =
                Catalogue { place: Place::of_one("tenant_a"), tables: vec![first], sequences: Vec::new() };
            tables(&catalogue).into_iter().map(|finding| finding.code).collect()
        };
        let no_key = |table: &mut Table| {
            table.primary.clear();
            table.key.clear();
            table.uniques.clear();
        };
        let one_row = |table: &mut Table| {
            no_key(table);
            let columns = vec!["(expression)".into()];
            table.uniques.push(Unique { constant: true, ..unique("one", columns) });
        };
        let leads = |table: &mut Table, to: &str| table.foreign_keys.push(leading(to, &[("other", "id")]));
        assert_eq!(own(&|_| {}), Vec::<String>::new());
        assert_eq!(own(&no_key), ["NO_PRIMARY_KEY"]);
        assert_eq!(own(&one_row), ["REPLICA_IDENTITY"], "an update of it would fail once it is published");
        let logged = |table: &mut Table| {
            one_row(table);
            table.replica_identity = 'f';
        };
        assert_eq!(own(&logged), Vec::<String>::new());
        assert_eq!(own(&|table| leads(table, "first")), Vec::<String>::new());
        assert_eq!(own(&|table| leads(table, "public.countries")), ["KEY_LEADS_OUT"]);
        let none = Catalogue { place: Place::of_one("tenant_a"), ..Catalogue::default() };
        assert_eq!(tables(&none)[0].code, "NO_TENANT_TABLES");
    }

    #[test]
    fn tables_of_both_layouts_are_alike_but_for_the_column() {
        let shared = table("orders");
        let mut own = Table { tenant: None, primary: vec!["id".into()], ..table("orders") };
        own.uniques[0].columns = vec!["id".into()];
        let lines = |table: Table| {
            let place =
                Place { schema: "s".into(), column: table.tenant.as_ref().map(|column| column.name.clone()) };
            Catalogue { place, tables: vec![table], sequences: Vec::new() }.lines()
        };
        assert_eq!(lines(shared.clone()), lines(own.clone()));
        let unlike = |change: &dyn Fn(&mut Table)| {
            let mut other = own.clone();
            change(&mut other);
            assert_ne!(lines(shared.clone()), lines(other));
        };
        unlike(&|table| table.uniques[0].columns = vec!["other".into()]);
        unlike(&|table| table.uniques[0].excludes = true);
        unlike(&|table| table.foreign_keys.push(leading("second", &[("other", "id")])));
        unlike(&|table| table.checks.push("(id > 0)".into()));
        let mut to_whose_it_is = shared.clone();
        to_whose_it_is.foreign_keys.push(leading("tenants", &[("tenant_id", "tenant_id")]));
        assert_eq!(lines(to_whose_it_is), lines(own.clone()));
        let (mut shared, leads) = (shared, leading("second", &[("other", "id")]));
        shared.foreign_keys.push(leading("second", &[("tenant_id", "tenant_id"), ("other", "id")]));
        own.foreign_keys.push(leads.clone());
        assert_eq!(lines(shared.clone()), lines(own.clone()));
        own.foreign_keys = vec![ForeignKey { does: "on delete cascade".into(), ..leads }];
        assert_ne!(lines(shared), lines(own));
    }

    #[test]
    fn a_sequence_that_others_draw_from_is_in_the_way_of_a_tenant_with_tables_of_its_own() {
        let sequence = |is_outside| Sequence { of: "first.id".into(), name: "public.all".into(), is_outside };
        let codes = |place: Place, sequence: Sequence| -> Vec<String> {
            let tenant = place.column.as_ref().and_then(|_| table("first").tenant);
            let first = Table { tenant, ..table("first") };
            let catalogue = Catalogue { place, tables: vec![first], sequences: vec![sequence] };
            tables(&catalogue).into_iter().map(|finding| finding.code).collect()
        };
        let shared = Place { schema: "public".into(), column: Some("tenant_id".into()) };
        assert_eq!(codes(shared, sequence(true)), Vec::<String>::new(), "it is set well ahead");
        assert_eq!(codes(Place::of_one("tenant_a"), sequence(false)), Vec::<String>::new());
        assert_eq!(codes(Place::of_one("tenant_a"), sequence(true)), ["SEQUENCE_LEADS_OUT"]);
    }

    #[test]
    fn a_server_that_cannot_capture_is_told_what_to_change() {
        let able = Server {
            version: 150_004,
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
            version: 140_011,
            may_replicate: false,
            sees_all_rows: false,
            may_silence_triggers: false,
            ..able.clone()
        };
        assert_eq!(server(&unable).len(), 7);
        assert!(server(&unable).iter().all(|finding| !finding.reason.is_empty()));
        assert!(server(&Server { slots_free: 0, senders_free: 0, has_slot: true, ..able }).is_empty());
    }
}
