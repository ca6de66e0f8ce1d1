//! What is asked for, as commands of the model, and the options that go along with every write.

use cell_model::{
    CellId, CellKind, CellTraits, Command, Databases, Declaration, Generation, MoveIntent, MoveOptions, NewCell,
    NewTenant, RequestId, Revision, TenantId, Tier,
};

use crate::enums::Number;
use crate::malformed::{cell_id, cell_id_or_none, move_id, tenant_id};
use crate::records::{databases, thousandths};
use crate::{Malformed, v1};

const ENDPOINTS_MAX: usize = 256;
const ENDPOINT_LENGTH_MAX: usize = 255;
const LABEL_LENGTH_MAX: usize = 63;

/// As [`v1::WriteOptions`] carries it.
#[must_use]
pub fn request_id_bytes(id: RequestId) -> Vec<u8> {
    id.0.to_be_bytes().to_vec()
}

impl v1::WriteOptions {
    /// A request id and an expected revision, each where there is one.
    ///
    /// # Errors
    /// [`Malformed`] where the id is neither empty nor 16 bytes.
    pub fn read(&self) -> Result<(Option<RequestId>, Option<Revision>), Malformed> {
        let request_id = match self.request_id.len() {
            0 => None,
            16 => self.request_id.as_ref().try_into().ok().map(u128::from_be_bytes).map(RequestId),
            found => {
                return Err(Malformed::new("request_id", format!("it is empty or has 16 bytes, not {found}")));
            }
        };
        Ok((request_id, (self.expected_revision != 0).then_some(Revision(self.expected_revision))))
    }
}

/// `host:port`, with a name, an IPv4 address or a bracketed IPv6 address.
fn endpoint(field: &'static str, text: &str) -> Result<(), Malformed> {
    let refuse =
        || Malformed::new(field, format!("{:?} is not host:port", text.chars().take(80).collect::<String>()));
    let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
    let port_fits = port.parse::<u16>().is_ok_and(|port| port != 0);
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    if port_fits && host_fits && text.len() <= ENDPOINT_LENGTH_MAX { Ok(()) } else { Err(refuse()) }
}

fn endpoints(field: &'static str, texts: &[String]) -> Result<(), Malformed> {
    if texts.len() > ENDPOINTS_MAX {
        return Err(Malformed::new(field, format!("there are {}, and {ENDPOINTS_MAX} is the limit", texts.len())));
    }
    texts.iter().try_for_each(|text| endpoint(field, text))
}

/// A region or residency: empty, or a short word.
fn label(field: &'static str, text: String) -> Result<String, Malformed> {
    let fits = text.len() <= LABEL_LENGTH_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if fits {
        Ok(text)
    } else {
        Err(Malformed::new(
            field,
            format!("at most {LABEL_LENGTH_MAX} characters of a-z, A-Z, 0-9, '.', '-' and '_'"),
        ))
    }
}

impl TryFrom<v1::Cell> for NewCell {
    type Error = Malformed;
    fn try_from(wire: v1::Cell) -> Result<Self, Malformed> {
        endpoints("gates", &wire.gates)?;
        endpoint("agent", &wire.agent)?;
        let traits = CellTraits::try_from(&wire)?;
        Ok(Self {
            id: cell_id("id", &wire.id)?,
            gates: wire.gates,
            agent: wire.agent,
            region: label("region", wire.region)?,
            residency: label("residency", wire.residency)?,
            traits: CellTraits { domain: label("domain", traits.domain)?, ..traits },
        })
    }
}

impl From<NewCell> for v1::Cell {
    fn from(cell: NewCell) -> Self {
        let traits = cell.traits;
        Self {
            kind: v1::CellKind::from(traits.kind).into(),
            domain: traits.domain,
            capacity: Some(traits.capacity.into()),
            reserve: traits.reserve.into(),
            databases: databases(traits.databases),
            ungated: traits.ungated,
            id: cell.id.into(),
            gates: cell.gates,
            agent: cell.agent,
            region: cell.region,
            residency: cell.residency,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::CreateCellRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::CreateCellRequest) -> Result<Self, Malformed> {
        let cell = wire.cell.ok_or_else(|| Malformed::missing("cell"))?;
        Ok(Self::CreateCell(cell.try_into()?))
    }
}

impl TryFrom<v1::SetCellStateRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::SetCellStateRequest) -> Result<Self, Malformed> {
        let state = Number::of_number("state", wire.state)?;
        Ok(Self::SetCellState { cell: cell_id("cell", &wire.cell)?, state })
    }
}

impl TryFrom<v1::DeclareCellRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::DeclareCellRequest) -> Result<Self, Malformed> {
        let instances = wire.instances.map(|instances| instances.addresses);
        instances.iter().try_for_each(|instances| endpoints("instances", instances))?;
        let named = |field, text: Option<String>| text.map(|text| label(field, text)).transpose();
        let declaration = Declaration {
            kind: wire.kind.map(|kind| CellKind::of_number("kind", kind)).transpose()?,
            domain: named("domain", wire.domain)?,
            capacity: wire.capacity.map(Into::into),
            reserve: wire.reserve.map(thousandths).transpose()?,
            region: named("region", wire.region)?,
            residency: named("residency", wire.residency)?,
            databases: Databases::of_number_or_none("databases", wire.databases)?,
            ungated: wire.ungated,
            instances,
        };
        // Who is there alone, the leader finds out.
        Ok(Self::DeclareCell { cell: cell_id("cell", &wire.cell)?, declaration, only: None })
    }
}

impl v1::DeclareCellRequest {
    /// What is declared of a cell.
    #[must_use]
    pub fn new(cell: &CellId, declaration: Declaration) -> Self {
        let Declaration { kind, domain, capacity, reserve, region, residency, databases: said, ungated, instances } =
            declaration;
        Self {
            cell: cell.to_string(),
            kind: kind.map(|kind| v1::CellKind::from(kind).into()),
            domain,
            capacity: capacity.map(Into::into),
            reserve: reserve.map(Into::into),
            region,
            residency,
            databases: databases(said),
            options: None,
            ungated,
            instances: instances.map(|addresses| v1::Addresses { addresses }),
        }
    }
}

impl TryFrom<v1::ReportCellRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::ReportCellRequest) -> Result<Self, Malformed> {
        endpoints("gates", &wire.gates)?;
        endpoint("agent", &wire.agent)?;
        Ok(Self::ReportCell {
            cell: cell_id("cell", &wire.cell)?,
            generation: Generation(wire.generation),
            gates: wire.gates,
            agent: wire.agent,
            partial: wire.partial,
        })
    }
}

impl TryFrom<v1::CreateTenantRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::CreateTenantRequest) -> Result<Self, Malformed> {
        Ok(Self::CreateTenant(NewTenant {
            id: tenant_id("tenant", &wire.tenant)?,
            cell: cell_id_or_none("cell", &wire.cell)?,
            tier: Tier::of_number_or_none("tier", wire.tier)?.unwrap_or_default(),
            residency: label("residency", wire.residency)?,
        }))
    }
}

impl TryFrom<v1::SetTierRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::SetTierRequest) -> Result<Self, Malformed> {
        Ok(Self::SetTier { tenant: tenant_id("tenant", &wire.tenant)?, tier: Tier::of_number("tier", wire.tier)? })
    }
}

impl TryFrom<v1::DeleteTenantRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::DeleteTenantRequest) -> Result<Self, Malformed> {
        Ok(Self::DeleteTenant { tenant: tenant_id("tenant", &wire.tenant)? })
    }
}

impl TryFrom<v1::MoveTenantRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::MoveTenantRequest) -> Result<Self, Malformed> {
        let default = MoveOptions::default();
        let options = MoveOptions {
            until: Number::of_number_or_none("until", wire.until)?,
            hold_max_ms: wire.hold_max_ms.unwrap_or(default.hold_max_ms),
            sync_steady_ms: wire.sync_steady_ms.unwrap_or(default.sync_steady_ms),
            soak_ms: wire.soak_ms.unwrap_or(default.soak_ms),
            retain_ms: wire.retain_ms.unwrap_or(default.retain_ms),
            retries: wire.retries.unwrap_or(default.retries),
            rehearse: wire.rehearse,
            bytes_per_second: wire.bytes_per_second,
            reason: wire.reason,
            tier: Tier::of_number_or_none("tier", wire.tier)?,
            terminate_writers: wire.terminate_writers,
            exact: wire.exact,
        };
        let tenant = tenant_id("tenant", &wire.tenant)?;
        Ok(Self::MoveTenant { tenant, target: cell_id("target", &wire.target)?, options })
    }
}

impl v1::MoveTenantRequest {
    /// A move as asked for.
    #[must_use]
    pub fn new(tenant: &TenantId, target: &CellId, options: &MoveOptions) -> Self {
        Self {
            tenant: tenant.to_string(),
            target: target.to_string(),
            until: options.until.map_or(v1::Phase::Unspecified, v1::Phase::from).into(),
            hold_max_ms: Some(options.hold_max_ms),
            sync_steady_ms: Some(options.sync_steady_ms),
            soak_ms: Some(options.soak_ms),
            retain_ms: Some(options.retain_ms),
            retries: Some(options.retries),
            options: None,
            rehearse: options.rehearse,
            bytes_per_second: options.bytes_per_second,
            reason: options.reason.clone(),
            tier: options.tier.map_or(v1::Tier::Unspecified, v1::Tier::from).into(),
            terminate_writers: options.terminate_writers,
            exact: options.exact,
        }
    }
}

impl TryFrom<v1::SteerMoveRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::SteerMoveRequest) -> Result<Self, Malformed> {
        let move_id = move_id("move_id", &wire.move_id)?;
        if let Some(bytes_per_second) = wire.bytes_per_second {
            if wire.intent != 0 {
                return Err(Malformed::new("intent", "a move is throttled, or steered: not both at once"));
            }
            return Ok(Self::ThrottleMove { move_id, bytes_per_second });
        }
        let intent: MoveIntent = Number::of_number("intent", wire.intent)?;
        Ok(Self::Steer { move_id, intent })
    }
}

impl TryFrom<v1::DropQuarantineRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::DropQuarantineRequest) -> Result<Self, Malformed> {
        Ok(Self::DropQuarantine { tenant: tenant_id("tenant", &wire.tenant)?, cell: cell_id("cell", &wire.cell)? })
    }
}

impl TryFrom<v1::SetLimitsRequest> for Command {
    type Error = Malformed;
    fn try_from(wire: v1::SetLimitsRequest) -> Result<Self, Malformed> {
        let limits = wire.limits.ok_or_else(|| Malformed::missing("limits"))?;
        Ok(Self::SetLimits(limits.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cell_model::Phase;

    #[test]
    fn what_is_left_out_of_a_move_is_the_default_and_zero_is_zero() {
        let wire = v1::MoveTenantRequest {
            tenant: "t".into(),
            target: "c".into(),
            soak_ms: Some(0),
            ..Default::default()
        };
        let Command::MoveTenant { options, .. } = Command::try_from(wire).unwrap() else { panic!("a move") };
        assert_eq!(options, MoveOptions { soak_ms: 0, ..MoveOptions::default() });
    }

    #[test]
    fn a_tier_is_named_and_not_guessed() {
        let wire = |tier| v1::SetTierRequest { tenant: "t".into(), tier, options: None };
        let read = Command::try_from(wire(v1::Tier::Gold.into()));
        assert_eq!(read, Ok(Command::SetTier { tenant: TenantId::new("t").unwrap(), tier: Tier::Gold }));
        for none in [0, 9, -1] {
            assert_eq!(Command::try_from(wire(none)).unwrap_err().field, "tier");
        }
    }

    #[test]
    fn a_move_reads_back() {
        let options = MoveOptions {
            until: Some(Phase::Verify),
            hold_max_ms: 1,
            sync_steady_ms: 2,
            soak_ms: 3,
            retain_ms: 4,
            retries: 5,
            rehearse: true,
            bytes_per_second: 6,
            reason: "its cell is hot".into(),
            tier: Some(Tier::Platinum),
            terminate_writers: true,
            exact: true,
        };
        let (tenant, target) = (TenantId::new("t").unwrap(), CellId::new("c").unwrap());
        let wire = v1::MoveTenantRequest::new(&tenant, &target, &options);
        assert_eq!(Command::try_from(wire), Ok(Command::MoveTenant { tenant, target, options }));
    }

    #[test]
    fn a_declaration_reads_back_and_what_is_left_out_is_nothing() {
        let declared = Declaration {
            kind: Some(CellKind::Dedicated),
            domain: Some("rack-1".into()),
            capacity: Some(cell_model::Capacity { cpu: 16_000, connections: 400_000, storage: 800_500 }),
            reserve: Some(100),
            region: Some(String::new()),
            residency: Some("eu".into()),
            databases: Some(Databases::Own),
            ungated: Some(true),
            instances: Some(vec!["10.0.0.7:8080".into()]),
        };
        let cell = CellId::new("c1").unwrap();
        for declaration in [declared, Declaration::default()] {
            let wire = v1::DeclareCellRequest::new(&cell, declaration.clone());
            let command = Command::DeclareCell { cell: cell.clone(), declaration, only: None };
            assert_eq!(Command::try_from(wire), Ok(command));
        }
        let wrong = |wire: v1::DeclareCellRequest| {
            Command::try_from(v1::DeclareCellRequest { cell: "c1".into(), ..wire }).unwrap_err().field
        };
        assert_eq!(wrong(v1::DeclareCellRequest { kind: Some(9), ..Default::default() }), "kind");
        assert_eq!(wrong(v1::DeclareCellRequest { databases: 9, ..Default::default() }), "databases");
        assert_eq!(wrong(v1::DeclareCellRequest { reserve: Some(65_536), ..Default::default() }), "reserve");
        assert_eq!(wrong(v1::DeclareCellRequest { domain: Some("r 1".into()), ..Default::default() }), "domain");
        let instances = Some(v1::Addresses { addresses: vec!["nowhere".into()] });
        assert_eq!(wrong(v1::DeclareCellRequest { instances, ..Default::default() }), "instances");
    }

    #[test]
    fn a_move_is_steered_or_throttled_and_not_both() {
        let wire = |intent: v1::MoveIntent, bytes_per_second| v1::SteerMoveRequest {
            move_id: "m-7".into(),
            intent: intent.into(),
            options: None,
            bytes_per_second,
        };
        let move_id = cell_model::MoveId(7);
        assert_eq!(
            Command::try_from(wire(v1::MoveIntent::Unspecified, Some(0))),
            Ok(Command::ThrottleMove { move_id, bytes_per_second: 0 })
        );
        let steer = Command::Steer { move_id, intent: MoveIntent::Pause };
        assert_eq!(Command::try_from(wire(v1::MoveIntent::Pause, None)), Ok(steer));
        assert_eq!(Command::try_from(wire(v1::MoveIntent::Pause, Some(1))).unwrap_err().field, "intent");
        assert!(Command::try_from(wire(v1::MoveIntent::Unspecified, None)).is_err());
    }

    #[test]
    fn an_endpoint_is_host_and_port() {
        for good in ["127.0.0.1:80", "cell-1.example.com:9000", "[::1]:80", "localhost:65535"] {
            assert_eq!(endpoint("agent", good), Ok(()));
        }
        let long = format!("{}:80", "h".repeat(255));
        for bad in ["", "80", ":80", "h:", "h:0", "h:65536", "http://h:80", "h h:80", "::1:80", "[x]:80", &long] {
            let refused = endpoint("agent", bad).unwrap_err();
            assert_eq!(refused.field, "agent", "{bad}");
        }
        assert_eq!(endpoints("gates", &vec!["h:80".to_owned(); 257]).unwrap_err().field, "gates");
    }

    #[test]
    fn a_request_id_is_nothing_or_sixteen_bytes() {
        let id = RequestId(u128::MAX - 5);
        let mut options = v1::WriteOptions { request_id: request_id_bytes(id).into(), expected_revision: 7 };
        assert_eq!(options.read(), Ok((Some(id), Some(Revision(7)))));
        options = v1::WriteOptions::default();
        assert_eq!(options.read(), Ok((None, None)));
        options.request_id = vec![1; 15].into();
        assert_eq!(options.read().unwrap_err().field, "request_id");
    }

    #[test]
    fn a_tenant_without_cell_and_tier_is_placed_by_the_store() {
        let wire = v1::CreateTenantRequest { tenant: "t-1".into(), ..Default::default() };
        let Command::CreateTenant(tenant) = Command::try_from(wire).unwrap() else { panic!("a tenant") };
        assert_eq!((tenant.cell, tenant.tier), (None, Tier::Bronze));
        let bad = v1::CreateTenantRequest { tenant: "T".into(), ..Default::default() };
        assert_eq!(Command::try_from(bad).unwrap_err().field, "tenant");
        let bad = v1::CreateTenantRequest { tenant: "t".into(), residency: "e u".into(), ..Default::default() };
        assert_eq!(Command::try_from(bad).unwrap_err().field, "residency");
    }
}
