//! Mappings, cells, digests and limits.

use cell_model::{
    Capacity, CellKind, CellRecord, CellTraits, Databases, Digest, Epoch, Generation, Limits, Lineage, Mapping,
    Rev, Revision, Uid,
};

use crate::enums::Number;
use crate::malformed::{cell_id, cell_id_or_none, tenant_id};
use crate::{Malformed, v1};

impl From<&Mapping> for v1::Mapping {
    fn from(mapping: &Mapping) -> Self {
        Self {
            lineage: mapping.lineage.get(),
            tenant: mapping.tenant.to_string(),
            uid: mapping.uid.get(),
            epoch: mapping.epoch.get(),
            rev: mapping.rev.get(),
            revision: mapping.revision.get(),
            state: v1::MappingState::from(mapping.state).into(),
            owner: mapping.owner.to_string(),
            peer: mapping.peer.as_ref().map(ToString::to_string).unwrap_or_default(),
            hold: v1::Hold::from(mapping.hold).into(),
            tier: v1::Tier::from(mapping.tier).into(),
        }
    }
}

impl TryFrom<v1::Mapping> for Mapping {
    type Error = Malformed;
    fn try_from(wire: v1::Mapping) -> Result<Self, Malformed> {
        Ok(Self {
            lineage: Lineage(wire.lineage),
            tenant: tenant_id("tenant", &wire.tenant)?,
            uid: Uid(wire.uid),
            epoch: Epoch(wire.epoch),
            rev: Rev(wire.rev),
            revision: Revision(wire.revision),
            state: Number::of_number("state", wire.state)?,
            owner: cell_id("owner", &wire.owner)?,
            peer: cell_id_or_none("peer", &wire.peer)?,
            hold: Number::of_number("hold", wire.hold)?,
            tier: Number::of_number("tier", wire.tier)?,
        })
    }
}

impl From<Capacity> for v1::Capacity {
    fn from(capacity: Capacity) -> Self {
        let Capacity { cpu, connections, storage } = capacity;
        Self { cpu, connections, storage }
    }
}

impl From<v1::Capacity> for Capacity {
    fn from(wire: v1::Capacity) -> Self {
        Self { cpu: wire.cpu, connections: wire.connections, storage: wire.storage }
    }
}

/// A reserve; whether it leaves anything is the model's to say.
pub(crate) fn thousandths(reserve: u32) -> Result<u16, Malformed> {
    u16::try_from(reserve)
        .map_err(|_| Malformed::new("reserve", format!("{reserve} thousandths are not below 1,000")))
}

/// 0 where nobody said.
pub(crate) fn databases(said: Option<Databases>) -> i32 {
    said.map_or(0, |said| v1::Databases::from(said).into())
}

impl TryFrom<&v1::Cell> for CellTraits {
    type Error = Malformed;
    fn try_from(wire: &v1::Cell) -> Result<Self, Malformed> {
        Ok(Self {
            kind: CellKind::of_number_or_none("kind", wire.kind)?.unwrap_or_default(),
            domain: wire.domain.clone(),
            capacity: wire.capacity.map(Into::into).unwrap_or_default(),
            reserve: thousandths(wire.reserve)?,
            databases: Databases::of_number_or_none("databases", wire.databases)?,
            ungated: wire.ungated,
        })
    }
}

impl From<&CellRecord> for v1::Cell {
    fn from(cell: &CellRecord) -> Self {
        Self {
            id: cell.id.to_string(),
            state: v1::CellState::from(cell.state).into(),
            gates: cell.gates.clone(),
            agent: cell.agent.clone(),
            region: cell.region.clone(),
            residency: cell.residency.clone(),
            generation: cell.generation.get(),
            revision: cell.revision.get(),
            kind: v1::CellKind::from(cell.traits.kind).into(),
            domain: cell.traits.domain.clone(),
            // Most cells of most fleets declare none, and every router is told of each of them.
            capacity: (cell.traits.capacity != Capacity::default()).then(|| cell.traits.capacity.into()),
            reserve: cell.traits.reserve.into(),
            databases: databases(cell.traits.databases),
            ungated: cell.traits.ungated,
        }
    }
}

impl TryFrom<v1::Cell> for CellRecord {
    type Error = Malformed;
    fn try_from(wire: v1::Cell) -> Result<Self, Malformed> {
        Ok(Self {
            id: cell_id("id", &wire.id)?,
            traits: (&wire).try_into()?,
            state: Number::of_number("state", wire.state)?,
            gates: wire.gates,
            agent: wire.agent,
            region: wire.region,
            residency: wire.residency,
            generation: Generation(wire.generation),
            revision: Revision(wire.revision),
        })
    }
}

impl From<Digest> for v1::Digest {
    fn from(digest: Digest) -> Self {
        Self { rows: digest.rows, sum: digest.sum.to_be_bytes().to_vec().into() }
    }
}

impl TryFrom<v1::Digest> for Digest {
    type Error = Malformed;
    fn try_from(wire: v1::Digest) -> Result<Self, Malformed> {
        let sum: [u8; 16] = wire
            .sum
            .as_ref()
            .try_into()
            .map_err(|_| Malformed::new("sum", format!("it has 16 bytes, not {}", wire.sum.len())))?;
        Ok(Self { rows: wire.rows, sum: u128::from_be_bytes(sum) })
    }
}

impl From<Limits> for v1::Limits {
    fn from(limits: Limits) -> Self {
        Self {
            moves_total: limits.moves_total,
            moves_per_cell: limits.moves_per_cell,
            moves_queued: limits.moves_queued,
            revision: 0,
        }
    }
}

impl From<v1::Limits> for Limits {
    fn from(wire: v1::Limits) -> Self {
        Self { moves_total: wire.moves_total, moves_per_cell: wire.moves_per_cell, moves_queued: wire.moves_queued }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cell_model::{CellId, CellState, Hold, MappingState, TenantId, Tier};
    use proptest::prelude::*;
    use proptest::sample::select;

    fn cell_ids() -> impl Strategy<Value = CellId> {
        "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?".prop_map(|text| CellId::new(text).unwrap())
    }

    fn states() -> impl Strategy<Value = MappingState> {
        use MappingState::{Active, Cutover, Deleted, Final, Migrating, Provisioning};
        select(vec![Provisioning, Active, Migrating, Cutover, Final, Deleted])
    }

    prop_compose! {
        fn mappings()(
            numbers in prop::array::uniform5(any::<u64>()),
            tenant in "[a-z0-9]{1,63}",
            state in states(),
            owner in cell_ids(),
            peer in prop::option::of(cell_ids()),
            hold in select(vec![Hold::None, Hold::Writes, Hold::All]),
            tier in select(vec![Tier::Bronze, Tier::Silver, Tier::Gold, Tier::Platinum]),
        ) -> Mapping {
            let [lineage, uid, epoch, rev, revision] = numbers;
            Mapping {
                lineage: Lineage(lineage), tenant: TenantId::new(tenant).unwrap(), uid: Uid(uid),
                epoch: Epoch(epoch), rev: Rev(rev), revision: Revision(revision), state, owner, peer, hold, tier,
            }
        }
    }

    prop_compose! {
        fn cells()(
            id in cell_ids(),
            state in select(vec![CellState::Active, CellState::Cordoned, CellState::Dead]),
            gates in prop::collection::vec(".{0,20}", 0..4),
            texts in prop::array::uniform4(".{0,20}"),
            kind in select(vec![CellKind::Pooled, CellKind::Dedicated]),
            amounts in prop::array::uniform3(0_u64..3),
            reserve in 0_u16..1_000,
            databases in select(vec![None, Some(Databases::Shared), Some(Databases::Own)]),
            ungated in any::<bool>(),
            generation in any::<u64>(),
            revision in any::<u64>(),
        ) -> CellRecord {
            let [agent, region, residency, domain] = texts;
            let [cpu, connections, storage] = amounts;
            let capacity = Capacity { cpu, connections, storage };
            let traits = CellTraits { kind, domain, capacity, reserve, databases, ungated };
            CellRecord {
                id, state, gates, agent, region, residency, traits,
                generation: Generation(generation), revision: Revision(revision),
            }
        }
    }

    proptest! {
        #[test]
        fn a_mapping_reads_back(mapping in mappings()) {
            prop_assert_eq!(Mapping::try_from(v1::Mapping::from(&mapping)), Ok(mapping));
        }

        #[test]
        fn a_cell_reads_back(cell in cells()) {
            prop_assert_eq!(CellRecord::try_from(v1::Cell::from(&cell)), Ok(cell));
        }

        #[test]
        fn a_digest_reads_back(rows in any::<u64>(), sum in any::<u128>()) {
            let digest = Digest { rows, sum };
            prop_assert_eq!(Digest::try_from(v1::Digest::from(digest)), Ok(digest));
        }

        #[test]
        fn limits_read_back(total in any::<u32>(), per_cell in any::<u32>(), queued in any::<u32>()) {
            let limits = Limits { moves_total: total, moves_per_cell: per_cell, moves_queued: queued };
            prop_assert_eq!(Limits::from(v1::Limits::from(limits)), limits);
        }
    }

    #[test]
    fn the_wrong_field_is_named() {
        let good = v1::Cell { id: "c1".into(), state: v1::CellState::Active.into(), ..v1::Cell::default() };
        assert!(CellRecord::try_from(good.clone()).is_ok());
        let refused = CellRecord::try_from(v1::Cell { id: "C 1".into(), ..good.clone() }).unwrap_err();
        assert_eq!(refused.field, "id");
        assert!(refused.reason.contains("cell id"), "{refused}");
        let refused = CellRecord::try_from(v1::Cell { state: 0, ..good }).unwrap_err();
        assert_eq!(refused.to_string(), "state: it is missing");
        let short = v1::Digest { rows: 1, sum: vec![0; 15].into() };
        assert_eq!(Digest::try_from(short).unwrap_err().to_string(), "sum: it has 16 bytes, not 15");
    }
}
