//! The database that tenants' own are copies of, as preflight and `cell enroll` look at it. Nothing is changed.

use cell_model::TenantId;
use cell_protos::v1 as wire;

use super::inside;
use super::looking::present;
use crate::postgres::catalogue::Catalogue;
use crate::postgres::check;
use crate::postgres::connect::Database;
use crate::postgres::fault::Fault;
use crate::postgres::layout::Layout;
use crate::postgres::sql::ident;
use crate::refusal::Refusal;

/// What is looked at may be held by somebody, as a table of the template by a migration: nobody who would wait for this session to
/// end is kept from making a database.
pub(super) const PATIENCE: &str = "SET statement_timeout = '5s'";

/// What was found: the tables that a tenant's would be like, and what is in the way of making a database of them.
pub(crate) async fn look(
    home: &Database,
    tenant: Option<&TenantId>,
) -> Result<(Catalogue, Vec<wire::Finding>), Refusal> {
    let mut findings = Vec::new();
    let mut find = |code: &str, reason: String| findings.push(wire::Finding { code: code.into(), reason });
    let client = home.client().await?;
    let sql = "SELECT r.rolcreatedb OR r.rolsuper, r.rolname::text FROM pg_roles r WHERE r.rolname = current_user";
    let role = client.query_one(sql, &[]).await?;
    let (may_create, role): (bool, String) = (role.get(0), role.get(1));
    if !may_create {
        let role = ident(&role);
        find("ROLE_CANNOT_CREATE", format!("role {role} may not make databases: ALTER ROLE {role} CREATEDB"));
    }
    if let Some(tenant) = tenant {
        match home.layout.database_of(tenant, &home.name) {
            Err(Refusal { code, reason }) => find(code, reason),
            Ok(name) if inside::found(&**client, &name).await?.is_some() => {
                let Refusal { code, reason } = present(&name, "the cell's agent has not made it");
                find(code, reason);
            }
            Ok(_) => {}
        }
    }
    let Layout::Databases { template, schema, .. } = &home.layout else {
        return Err(Refusal::internal("no tenant has a database of its own here"));
    };
    let Some(found) = inside::found(&**client, template).await? else {
        let Refusal { code, reason } = missing(template);
        find(code, reason);
        return Ok((Catalogue::default(), findings));
    };
    drop(client);
    if !found.is_ours && !found.is_template {
        let reason = format!(
            "template database {template} is owned by {}: ALTER DATABASE {} IS_TEMPLATE true, so that others may copy it",
            found.owner,
            ident(template)
        );
        find("TEMPLATE_NOT_OWNED", reason);
    }
    // As long as it takes to look: a copy can only be made while nobody is connected.
    let client = home.beside(template, home.layout.clone()).map_err(super::opening::refused)?.connect().await?;
    client.batch_execute(PATIENCE).await?;
    let catalogue = Catalogue::read(&client, &home.layout.pattern()).await?;
    findings.extend(check::tables(&catalogue));
    findings.extend(inside::outside(&client, schema).await?);
    if let Some(Refusal { code, reason }) = not_empty(&client, template).await? {
        findings.push(wire::Finding { code: code.into(), reason });
    }
    Ok((catalogue, findings))
}

/// Whatever is in the template would be in every tenant's database.
pub(super) async fn not_empty(client: &tokio_postgres::Client, template: &str) -> Result<Option<Refusal>, Fault> {
    if inside::has_agent(client).await? {
        let reason = format!(
            "template database {template} has the schema cellway of an agent, as if it were a cell's or a tenant's: DROP SCHEMA \
             cellway CASCADE there, if it is neither, or name another template_database"
        );
        return Ok(Some(Refusal::new("TEMPLATE_NOT_EMPTY", reason)));
    }
    rows_in(client, template).await
}

pub(super) async fn rows_in(client: &tokio_postgres::Client, template: &str) -> Result<Option<Refusal>, Fault> {
    Ok(inside::with_rows(client).await?.map(|table| {
        let reason = format!(
            "table {table} of template database {template} has rows, which every tenant would get: delete them there, and keep \
             what all tenants are to have in your migrations"
        );
        Refusal::new("TEMPLATE_NOT_EMPTY", reason)
    }))
}

pub(super) fn missing(template: &str) -> Refusal {
    let reason = format!(
        "there is no database {template} that tenants' could be copies of: CREATE DATABASE {}, with empty tables, or name \
         another template_database",
        ident(template)
    );
    Refusal::new("TEMPLATE_MISSING", reason)
}
