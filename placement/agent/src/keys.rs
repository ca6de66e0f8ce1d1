//! Where things lie in the store: one ordered key space, one letter for each kind.
//!
//! ```text
//! a                             the agent itself: generation, highest (lineage, term)
//! g <tenant>                    what this cell is to the tenant (`Control`)
//! p <tenant> 0 <uid>            sequence, digest, size, frontier (`Position`)
//! r <tenant> 0 <uid> <key>      a row
//! c <tenant> 0 <uid> <seq> <n>  part n of a captured transaction
//! o <tenant> 0 <uid>            where this cell took over by force (`Taken`)
//! q <tenant> 0 <uid>            what it has put aside since it was taken over itself (`TailRecord`)
//! t <tenant> 0 <uid> <seq> <n>  part n of a transaction that was put aside
//! ```
//! A tenant's name has no zero byte, so no key of one tenant begins another's.

use cell_model::{Seq, TenantId, Uid};

/// Key of the agent's own record.
pub(crate) const AGENT: &[u8] = b"a";
/// All grants: from here
pub(crate) const GRANTS: &[u8] = b"g";
/// to here.
pub(crate) const GRANTS_END: &[u8] = b"h";

/// Key of what this cell is to `tenant`.
pub(crate) fn control(tenant: &TenantId) -> Vec<u8> {
    [GRANTS, tenant.as_str().as_bytes()].concat()
}

/// Keys of one incarnation of a tenant.
#[derive(Debug, Clone)]
pub(crate) struct TenantKeys {
    // <tenant> 0 <uid>
    stem: Vec<u8>,
}

impl TenantKeys {
    pub(crate) fn new(tenant: &TenantId, uid: Uid) -> Self {
        let mut stem = tenant.as_str().as_bytes().to_vec();
        stem.push(0);
        stem.extend(uid.get().to_be_bytes());
        Self { stem }
    }

    fn with(&self, kind: u8, rest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + self.stem.len() + rest.len());
        key.push(kind);
        key.extend(&self.stem);
        key.extend(rest);
        key
    }

    /// The smallest key that does not begin with `kind` and the stem.
    fn after(&self, kind: u8) -> Vec<u8> {
        let mut key = self.with(kind, &[]);
        while let Some(last) = key.pop() {
            if last < u8::MAX {
                key.push(last + 1);
                break;
            }
        }
        key
    }

    pub(crate) fn position(&self) -> Vec<u8> {
        self.with(b'p', &[])
    }

    pub(crate) fn row(&self, key: &[u8]) -> Vec<u8> {
        self.with(b'r', key)
    }

    pub(crate) fn rows_end(&self) -> Vec<u8> {
        self.after(b'r')
    }

    /// The tenant's own key of a stored row.
    pub(crate) fn strip_row(&self, key: &[u8]) -> Vec<u8> {
        key[1 + self.stem.len()..].to_vec()
    }

    fn part(&self, kind: u8, seq: Seq, part: u16) -> Vec<u8> {
        let mut rest = seq.get().to_be_bytes().to_vec();
        rest.extend(part.to_be_bytes());
        self.with(kind, &rest)
    }

    pub(crate) fn captured(&self, seq: Seq, part: u16) -> Vec<u8> {
        self.part(b'c', seq, part)
    }

    pub(crate) fn taken(&self) -> Vec<u8> {
        self.with(b'o', &[])
    }

    pub(crate) fn tail(&self) -> Vec<u8> {
        self.with(b'q', &[])
    }

    pub(crate) fn put_aside(&self, seq: Seq, part: u16) -> Vec<u8> {
        self.part(b't', seq, part)
    }

    pub(crate) fn put_aside_end(&self) -> Vec<u8> {
        self.after(b't')
    }

    pub(crate) fn captured_end(&self) -> Vec<u8> {
        self.after(b'c')
    }

    /// Sequence number and part of a stored part of a captured transaction, or of one that was put aside.
    pub(crate) fn strip_captured(&self, key: &[u8]) -> Option<(Seq, u16)> {
        let rest = key.get(1 + self.stem.len()..)?;
        let seq = u64::from_be_bytes(rest.get(..8)?.try_into().ok()?);
        let part = u16::from_be_bytes(rest.get(8..)?.try_into().ok()?);
        Some((Seq(seq), part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tenant_and_no_incarnation_sees_the_keys_of_another() {
        let stems = [("a", 1), ("a", 2), ("a", u64::MAX), ("a-b", 1), ("ab", 1)];
        let keys: Vec<TenantKeys> =
            stems.iter().map(|(name, uid)| TenantKeys::new(&TenantId::new(name).unwrap(), Uid(*uid))).collect();
        for (n, mine) in keys.iter().enumerate() {
            for (m, other) in keys.iter().enumerate() {
                for key in [&b"\0"[..], b"k", &[u8::MAX; 4]] {
                    let row = other.row(key);
                    assert_eq!(n == m, mine.row(&[]) <= row && row < mine.rows_end(), "{mine:?} {other:?}");
                    let captured = other.captured(Seq(7), 0);
                    assert_eq!(n == m, mine.captured(Seq(0), 0) <= captured && captured < mine.captured_end());
                }
            }
        }
    }

    #[test]
    fn a_key_reads_back() {
        let keys = TenantKeys::new(&TenantId::new("t").unwrap(), Uid(9));
        assert_eq!(keys.strip_row(&keys.row(b"abc")), b"abc");
        assert_eq!(keys.strip_captured(&keys.captured(Seq(5), 3)), Some((Seq(5), 3)));
    }
}
