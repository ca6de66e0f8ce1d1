use cell_model::{Epoch, Hold, MappingState, Rev, TenantId, Tier, Uid};
use proptest::prelude::*;

use super::*;
use crate::waiting::Waiters;

fn empty() -> Directory {
    Directory::new(Waiters::new(10, 10), Waiters::new(10, 10), Duration::from_secs(1))
}

fn routed(number: u64) -> RoutedMapping {
    let mapping = Mapping {
        lineage: Lineage(2),
        tenant: TenantId::new(format!("t-{number}")).unwrap(),
        uid: Uid(number + 1),
        epoch: Epoch(number % 7 + 1),
        rev: Rev(3),
        revision: Revision(number + 10),
        state: MappingState::Migrating,
        owner: CellId::new(format!("c-{}", number % 3)).unwrap(),
        peer: Some(CellId::new("c-9").unwrap()),
        hold: Hold::Writes,
        tier: Tier::Gold,
    };
    let gates = vec![format!("10.0.0.{}:80", number % 3), "10.0.1.1:80".into()];
    RoutedMapping { cluster: ClusterId(77), mapping, owner_gates: gates, owner_agent: "10.0.0.1:90".into() }
}

fn cell(name: &str) -> CellRecord {
    CellRecord {
        id: CellId::new(name).unwrap(),
        state: CellState::Cordoned,
        gates: vec!["10.0.0.1:80".into()],
        agent: "10.0.0.1:90".into(),
        region: "r".into(),
        residency: String::new(),
        traits: CellTraits::default(),
        generation: Generation(4),
        revision: Revision(9),
    }
}

fn filled(tenants: u64) -> Directory {
    let directory = empty();
    let entries: Vec<_> = (0..tenants).map(|number| directory.entry(routed(number)).unwrap()).collect();
    let mut draft = Draft::default();
    directory.add(&mut draft, &entries);
    let at = Cursor { lineage: Lineage(2), revision: Revision(tenants + 100) };
    directory.replace(draft, vec![cell("c-0")], at);
    directory
}

fn sorted(directory: &Directory) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let gathered = directory.blocks(100, &mut |block| {
        entries.extend(block.iter().map(|entry| Entry::clone(entry)));
        Ok(())
    });
    gathered.unwrap();
    entries.sort_by(|a, b| a.mapping.tenant.cmp(&b.mapping.tenant));
    entries
}

#[test]
fn a_table_reads_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let written_at = SystemTime::now();
    let before = filled(2_345);
    write(&path, &before, written_at).unwrap();
    let after = empty();
    let loaded = load(&path, &after, written_at + Duration::from_secs(9)).unwrap().unwrap();
    assert_eq!(loaded.tenants, 2_345);
    assert_eq!(loaded.age.as_secs(), 9);
    assert_eq!(after.cursor(), before.cursor());
    assert_eq!(after.cluster(), Some(ClusterId(77)));
    assert_eq!(sorted(&after), sorted(&before));
    assert_eq!(*after.cells()[&CellId::new("c-0").unwrap()], cell("c-0"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_table_of_the_first_version_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let (before, after) = (filled(1_500), empty());
    let mut file = File::create(&path).unwrap();
    file.write_all(&[&MAGIC[..], &1_u32.to_le_bytes()].concat()).unwrap();
    let at = before.cursor().unwrap();
    let head = Head {
        cluster: ClusterId(77),
        lineage: at.lineage,
        revision: at.revision,
        written_at_ms: 0,
        tenants: 1_500,
        cells: vec![StoredCell::from(&cell("c-0"))],
    };
    write_block(&mut file, &head).unwrap();
    let written = before.blocks(1_000, &mut |block| {
        write_block(&mut file, &block.iter().map(|entry| stored(entry)).collect::<Vec<_>>())
    });
    written.unwrap();
    assert_eq!(load(&path, &after, SystemTime::now()).unwrap().unwrap().tenants, 1_500);
    assert_eq!(sorted(&after), sorted(&before));
}

#[test]
fn cells_without_a_gate_are_remembered_and_a_file_that_has_none_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let before = filled(20);
    write(&path, &before, SystemTime::now()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[8..12], VERSION.to_le_bytes(), "a router of before reads it");
    let mut ungated = cell("c-1");
    ungated.traits.ungated = true;
    before.install_cells(vec![ungated.clone()]);
    write(&path, &before, SystemTime::now()).unwrap();
    let after = empty();
    load(&path, &after, SystemTime::now()).unwrap().unwrap();
    assert_eq!((sorted(&after), after.cells()), (sorted(&before), before.cells()));
    let has = |name: &str| after.ungated.has(&CellId::new(name).unwrap());
    assert_eq!([has("c-0"), has("c-1")], [false, true]);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(load(&path, &empty(), SystemTime::now()), Err(SnapshotError::Corrupt(_))));
}

/// The bytes of a head as routers have written them since version 1: an upgrade with the control plane dead reads its table.
#[test]
fn what_is_declared_of_a_cell_changes_nothing_in_the_file() {
    let mut declared = cell("c-0");
    declared.traits = CellTraits { domain: "rack-1".into(), reserve: 100, ..CellTraits::default() };
    let stored = postcard::to_stdvec(&StoredCell::from(&declared)).unwrap();
    let mut expected = b"\x03c-0\x01\x01\x0b10.0.0.1:80".to_vec();
    expected.extend_from_slice(b"\x0b10.0.0.1:90\x01r\x00\x04\x09");
    assert_eq!(stored, expected);
}

#[test]
fn no_file_is_no_error_and_no_table_writes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    assert!(load(&path, &empty(), SystemTime::now()).unwrap().is_none());
    write(&path, &empty(), SystemTime::now()).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused_and_loads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    write(&path, &filled(20), SystemTime::now()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let directory = empty();
        let refused = load(&path, &directory, SystemTime::now()).unwrap_err();
        assert!(matches!(refused, SnapshotError::Corrupt(_)), "{length}: {refused}");
        assert_eq!((directory.tenants(), directory.loaded()), (0, false));
    }
    std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(matches!(load(&path, &empty(), SystemTime::now()), Err(SnapshotError::Corrupt(_))));
}

#[test]
fn a_corrupt_file_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    std::fs::write(&path, "rubbish").unwrap();
    let aside = set_aside(&path).unwrap();
    assert!(!path.exists());
    assert_eq!(std::fs::read(aside).unwrap(), b"rubbish");
}

proptest! {
    #[test]
    fn a_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table");
        write(&path, &filled(5), SystemTime::now()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(load(&path, &empty(), SystemTime::now()).is_err());
    }

    #[test]
    fn rubbish_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table");
        let bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &bytes].concat();
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(load(&path, &empty(), SystemTime::now()).is_err());
    }
}
