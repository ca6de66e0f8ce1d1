//! Lists, page by page. A page token says where to go on and for which list it was made; clients do not look into it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cell_model::{CellId, Fleet, FleetView, Life, MoveId, TenantId};
use cell_protos::{Malformed, v1};
use tonic::Status;

use crate::refusal::malformed;

const ITEMS_DEFAULT: u32 = 500;
const ITEMS_MAX: u32 = 1_000;
const TOKEN_LENGTH_MAX: usize = 1_024;
/// Records that one page looks at, so that a filter which fits few of them does not keep `apply` waiting.
const LOOKED_AT_MAX: usize = 20_000;

/// The page that is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    list: &'static str,
    filter: String,
    include_ended: bool,
    items: usize,
    /// The last item of the page before; empty for the first page.
    after: String,
}

impl Wanted {
    pub(super) fn read(list: &'static str, wire: &v1::ListRequest) -> Result<Self, Status> {
        let refuse = |field, reason: String| Err(malformed(&Malformed::new(field, reason)));
        let items = match wire.page_size {
            0 => ITEMS_DEFAULT,
            size if size <= ITEMS_MAX => size,
            size => return refuse("page_size", format!("{size} is above {ITEMS_MAX}")),
        };
        let items = usize::try_from(items).unwrap_or(usize::MAX);
        let (filter, include_ended) = (wire.filter.clone(), wire.include_ended);
        let mut wanted = Self { list, filter, include_ended, items, after: String::new() };
        if !wire.page_token.is_empty() {
            let Some(after) = wanted.after_of(&wire.page_token) else {
                return refuse("page_token", "it is not one of this list: begin again without one".into());
            };
            wanted.after = after;
        }
        Ok(wanted)
    }

    fn stem(&self) -> String {
        format!("1/{}/{}/{}/", self.list, self.filter, self.include_ended)
    }

    fn token(&self, last: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}{last}", self.stem()))
    }

    fn after_of(&self, token: &str) -> Option<String> {
        let bytes = Some(token).filter(|token| token.len() <= TOKEN_LENGTH_MAX)?;
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(bytes).ok()?).ok()?;
        text.strip_prefix(&self.stem()).map(str::to_owned)
    }

    fn after_id<T: std::str::FromStr>(&self, text: &str) -> Result<Option<T>, Status> {
        if text.is_empty() {
            return Ok(None);
        }
        let refuse =
            |_| malformed(&Malformed::new("page_token", "it is not one of this list: begin again without one"));
        text.parse().map(Some).map_err(refuse)
    }

    fn filter_id<T: std::str::FromStr<Err = cell_model::InvalidId>>(&self) -> Result<Option<T>, Status> {
        if self.filter.is_empty() {
            return Ok(None);
        }
        let parsed: Result<T, cell_model::InvalidId> = self.filter.parse();
        parsed.map(Some).map_err(|invalid| malformed(&Malformed::new("filter", invalid.to_string())))
    }
}

pub(super) fn cells(fleet: &Fleet, wanted: &Wanted) -> Result<v1::ListCellsResponse, Status> {
    let after: Option<CellId> = wanted.after_id(&wanted.after)?;
    let mut rest = fleet.cells().filter(|cell| after.as_ref().is_none_or(|after| cell.id > *after));
    let cells: Vec<v1::Cell> = rest.by_ref().take(wanted.items).map(v1::Cell::from).collect();
    let more = rest.next().is_some();
    let next_page_token = cells.last().filter(|_| more).map(|last| wanted.token(&last.id)).unwrap_or_default();
    Ok(v1::ListCellsResponse { cells, next_page_token, revision: fleet.head().revision.get() })
}

pub(super) fn tenants(fleet: &Fleet, wanted: &Wanted) -> Result<v1::ListTenantsResponse, Status> {
    let after: Option<TenantId> = wanted.after_id(&wanted.after)?;
    let cell: Option<CellId> = wanted.filter_id()?;
    let mut tenants = Vec::new();
    let mut next_page_token = String::new();
    for (looked_at, record) in fleet.tenants_after(after.as_ref()).enumerate() {
        if record.life != Life::Deleted && cell.as_ref().is_none_or(|cell| record.owner == *cell) {
            tenants.push(v1::Tenant::from(record.as_ref()));
        }
        if tenants.len() == wanted.items || looked_at + 1 == LOOKED_AT_MAX {
            let more = fleet.tenants_after(Some(&record.id)).any(|record| record.life != Life::Deleted);
            next_page_token = if more { wanted.token(record.id.as_str()) } else { String::new() };
            break;
        }
    }
    Ok(v1::ListTenantsResponse { tenants, next_page_token, revision: fleet.head().revision.get() })
}

/// Moves under way by age, then ended ones, the newest first. In a token `r` and `e` tell where the page ended.
pub(super) fn moves(fleet: &Fleet, wanted: &Wanted) -> Result<v1::ListMovesResponse, Status> {
    let tenant: Option<TenantId> = wanted.filter_id()?;
    let fits = |of: &TenantId| tenant.as_ref().is_none_or(|tenant| tenant == of);
    let (part, after) = wanted.after.split_at_checked(1).unwrap_or(("r", ""));
    let after: Option<MoveId> = wanted.after_id(after)?;
    let mut moves = Vec::new();
    if part == "r" {
        let rest = fleet.moving().filter(|(id, record)| after.is_none_or(|after| *id > after) && fits(&record.id));
        moves.extend(rest.take(wanted.items).filter_map(|(_, record)| v1::Move::running(record)));
    }
    let mut next = moves.last().filter(|_| moves.len() == wanted.items).map(|last| format!("r{}", last.id));
    if wanted.include_ended && moves.len() < wanted.items {
        let before = after.filter(|_| part == "e");
        for (looked_at, record) in fleet.ended_moves_before(before).enumerate() {
            if fits(&record.tenant) {
                moves.push(v1::Move::from(record.as_ref()));
            }
            if moves.len() == wanted.items || looked_at + 1 == LOOKED_AT_MAX {
                next = Some(format!("e{}", record.movement.id));
                break;
            }
        }
    }
    let next_page_token = next.map(|last| wanted.token(&last)).unwrap_or_default();
    Ok(v1::ListMovesResponse { moves, next_page_token, revision: fleet.head().revision.get() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use cell_model::{CellRecord, CellState, Change, ClusterId, Generation, Lineage, Revision};

    fn request(page_size: u32, page_token: &str) -> v1::ListRequest {
        v1::ListRequest { page_size, page_token: page_token.into(), ..Default::default() }
    }

    fn fleet(cells: usize) -> Fleet {
        let mut fleet = Fleet::new(ClusterId(1), Lineage(1));
        for number in 0..cells {
            fleet.install(Change::Cell(Arc::new(CellRecord {
                id: CellId::new(format!("c{number:03}")).unwrap(),
                state: CellState::Active,
                gates: Vec::new(),
                agent: String::new(),
                region: String::new(),
                residency: String::new(),
                traits: cell_model::CellTraits::default(),
                generation: Generation(0),
                revision: Revision(1),
            })));
        }
        fleet
    }

    #[test]
    fn pages_bring_every_item_once_and_end() {
        let fleet = fleet(25);
        for size in [1, 4, 5, 24, 25, 26] {
            let (mut token, mut seen, mut pages) = (String::new(), Vec::new(), 0);
            loop {
                let wanted = Wanted::read("cells", &request(size, &token)).unwrap();
                let page = cells(&fleet, &wanted).unwrap();
                seen.extend(page.cells.into_iter().map(|cell| cell.id));
                token = page.next_page_token;
                pages += 1;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(seen.len(), 25);
            assert!(seen.is_sorted());
            assert_eq!(pages, 25_u32.div_ceil(size));
        }
    }

    #[test]
    fn a_token_of_another_list_is_refused() {
        let wanted = Wanted::read("cells", &request(2, "")).unwrap();
        let token = cells(&fleet(5), &wanted).unwrap().next_page_token;
        assert!(Wanted::read("cells", &request(2, &token)).is_ok());
        let other = v1::ListRequest { filter: "c1".into(), ..request(2, &token) };
        for refused in [
            Wanted::read("tenants", &request(2, &token)),
            Wanted::read("cells", &other),
            Wanted::read("cells", &request(2, "!")),
            Wanted::read("cells", &request(2, &"A".repeat(2_000))),
            Wanted::read("cells", &request(1_001, "")),
        ] {
            assert_eq!(refused.unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
