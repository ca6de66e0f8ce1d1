//! What is there at the end: every tenant's content through the routers, the same at the owner's gate, and what each
//! cell's agent says that it holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cell_client::net::Network;
use cell_client::{AgentOptions, AgentPool, ControlClient, wire};
use cell_model::TenantId;
use futures::{StreamExt, TryStreamExt};
use http::Request;
use http::header::HOST;
use http_body_util::Full;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::check::FinalTenant;
use crate::fleet::{CellNode, Fleet};
use crate::http_client::{Connection, code_of};
use crate::load::documents::recognise;

/// Tenants that are read at the same time.
const AT_ONCE: usize = 4;
const PAGE: u32 = 100;
const READ_WITHIN: Duration = Duration::from_secs(10);
const COUNTERS: u64 = 3;

/// Everything that is there.
#[derive(Debug, Default)]
pub struct End {
    /// As clients see it.
    pub tenants: BTreeMap<Arc<str>, FinalTenant>,
    /// Where cells, routers and control plane do not agree.
    pub mismatches: Vec<String>,
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Places {
    /// `host:port` of each router.
    pub routers: Vec<String>,
    /// The cells.
    pub cells: Vec<CellNode>,
    /// Their agents.
    pub agents: AgentPool,
    /// Where connections come from.
    pub network: Network,
}

impl Places {
    /// All of a fleet.
    #[must_use]
    pub fn of(fleet: &Fleet) -> Self {
        Self {
            routers: fleet.routers.iter().map(|router| router.listen.clone()).collect(),
            cells: fleet.cells.clone(),
            agents: fleet.agents(AgentOptions { step: READ_WITHIN, ..AgentOptions::default() }),
            network: Network::Kernel,
        }
    }

    fn view(&self, address: &str, headers: Vec<(&'static str, String)>) -> View {
        View { address: address.to_owned(), headers, network: self.network.clone() }
    }
}

/// How a request names its tenant, and to whom it goes.
#[derive(Clone)]
struct View {
    network: Network,
    address: String,
    headers: Vec<(&'static str, String)>,
}

/// Reads everything, twice, and compares.
pub async fn read_end(places: &Places, control: &ControlClient, names: &[Arc<str>]) -> Result<End, String> {
    let read = futures::stream::iter(names.iter().cloned().enumerate()).map(|(index, name)| {
        let router = &places.routers[index % places.routers.len()];
        async move {
            let of = |error: String| format!("tenant {name}: {error}");
            let seen = content(&places.view(router, vec![("x-tenant-id", name.to_string())])).await;
            let seen = seen.map_err(of)?;
            let mismatch = at_owner(control, places, &name, &seen).await.map_err(of)?;
            Ok::<_, String>((name.clone(), seen, mismatch))
        }
    });
    let read: Vec<_> = read.buffer_unordered(AT_ONCE).try_collect().await?;
    let mut end = End::default();
    for (name, seen, mismatch) in read {
        end.mismatches.extend(mismatch);
        end.tenants.insert(name, seen);
    }
    end.mismatches.extend(grants(control, places, names, &end.tenants).await?);
    Ok(end)
}

/// Reads a tenant at the gate of the cell that owns it and says what differs from what a client sees.
async fn at_owner(
    control: &ControlClient,
    places: &Places,
    name: &Arc<str>,
    seen: &FinalTenant,
) -> Result<Option<String>, String> {
    let mapping = mapping(control, name).await?;
    let Some(cell) = places.cells.iter().find(|cell| cell.id.as_str() == mapping.owner) else {
        return Ok(Some(format!("tenant {name} is mapped to cell {:?}, which there is not", mapping.owner)));
    };
    let stamp = [
        ("cell-tenant", name.to_string()),
        ("cell-uid", mapping.uid.to_string()),
        ("cell-epoch", mapping.epoch.to_string()),
    ];
    let gate = cell.gates.last().ok_or("its cell has no gate")?;
    let held = content(&places.view(gate, stamp.into())).await?;
    Ok((held != *seen).then(|| format!("tenant {name}: {} holds something else than a router shows", cell.id)))
}

async fn mapping(control: &ControlClient, name: &str) -> Result<wire::Mapping, String> {
    let id = TenantId::new(name).map_err(|error| error.to_string())?;
    let tenant = control.get_tenant(&id).await.map_err(|error| error.to_string())?;
    tenant.mapping.ok_or_else(|| "it has no mapping".to_owned())
}

/// What every agent says: exactly one owner of each tenant, the one that the control plane names, with every row that
/// clients see.
async fn grants(
    control: &ControlClient,
    places: &Places,
    names: &[Arc<str>],
    tenants: &BTreeMap<Arc<str>, FinalTenant>,
) -> Result<Vec<String>, String> {
    let mut owners: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    let mut rows: BTreeMap<(String, String), u64> = BTreeMap::new();
    for cell in &places.cells {
        let described = places.agents.describe(&cell.agent, None).await.map_err(|error| error.to_string())?;
        for grant in described.grants.into_iter().filter(|grant| grant.role == i32::from(wire::Role::Owner)) {
            owners.entry(grant.tenant).or_default().push((cell.id.to_string(), grant.epoch));
        }
        for storage in described.storage {
            rows.insert((storage.tenant, cell.id.to_string()), storage.rows);
        }
    }
    let mut mismatches = Vec::new();
    for name in names {
        let mapping = mapping(control, name).await?;
        let owned = owners.remove(&**name).unwrap_or_default();
        if owned != [(mapping.owner.clone(), mapping.epoch)] {
            let expected = format!("{} at epoch {}", mapping.owner, mapping.epoch);
            mismatches.push(format!("tenant {name} is owned by {owned:?}, and the control plane says {expected}"));
        }
        let seen = tenants.get(name).map_or(0, |tenant| tenant.docs.len() as u64);
        let held = rows.get(&(name.to_string(), mapping.owner)).copied().unwrap_or(0);
        // Counters and idempotency records are rows, too.
        if held < seen {
            mismatches.push(format!("tenant {name} has {seen} documents, and its owner counts {held} rows"));
        }
    }
    Ok(mismatches)
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Listed>,
    #[serde(default)]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    value: Box<RawValue>,
}

#[derive(Deserialize)]
struct Counter {
    value: u64,
}

/// Every document and every counter of a tenant.
async fn content(view: &View) -> Result<FinalTenant, String> {
    let mut connection = Connection::new(view.address.clone(), READ_WITHIN).over(&view.network);
    let mut tenant = FinalTenant::default();
    let mut after = String::new();
    loop {
        let path = format!("/docs?limit={PAGE}&values=true{after}");
        let body = get(&mut connection, view, &path).await?.ok_or("the list of its documents is not there")?;
        let page: Page = serde_json::from_slice(&body).map_err(|error| format!("{path}: {error}"))?;
        let docs = page.items.into_iter().map(|doc| (doc.id, recognise(doc.value.get().as_bytes())));
        tenant.docs.extend(docs);
        match page.next.filter(|next| !next.is_empty()) {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    for number in 0..COUNTERS {
        let name = format!("c-{number}");
        if let Some(body) = get(&mut connection, view, &format!("/counters/{name}")).await? {
            let counter: Counter = serde_json::from_slice(&body).map_err(|error| format!("{name}: {error}"))?;
            tenant.counters.insert(name, counter.value);
        }
    }
    Ok(tenant)
}

/// The body of an answer; none where there is no such thing.
async fn get(connection: &mut Connection, view: &View, path: &str) -> Result<Option<Bytes>, String> {
    let mut request = Request::get(path).header(HOST, &view.address);
    for (name, value) in &view.headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::<Bytes>::default()).map_err(|error| error.to_string())?;
    let answer = connection.call(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let code = code_of(status, answer.body());
    match status {
        status if status.is_success() => Ok(Some(answer.into_body())),
        http::StatusCode::NOT_FOUND if !code.starts_with("TENANT_") => Ok(None),
        status => Err(format!("GET {path} at {} was answered {status} ({code})", view.address)),
    }
}
