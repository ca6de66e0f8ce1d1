//! What may be typed to watch.

use cell_model::{CellId, TenantId};
use clap::Args;

/// `watch`.
#[derive(Debug, Clone, Args)]
pub struct Watch {
    /// Only this tenant
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<TenantId>,
    /// Only tenants whose names begin so
    #[arg(long, value_name = "PREFIX", value_parser = prefix, conflicts_with = "tenant")]
    pub prefix: Option<String>,
    /// Only tenants of this cell, each also with the change by which it goes elsewhere; and of all cells only this one
    #[arg(long, value_name = "CELL")]
    pub cell: Option<CellId>,
    /// Moves that have ended, too
    #[arg(long)]
    pub moves: bool,
    /// Only changes behind this revision; everything there is comes first where they are no longer remembered
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    pub after: Option<u64>,
    /// End once everything up to this revision has been printed
    #[arg(long, value_name = "REVISION")]
    pub until: Option<u64>,
}

fn prefix(text: &str) -> Result<String, String> {
    // A name may end where a prefix goes on with '-'.
    let fits = TenantId::new(text.trim_end_matches('-')).is_ok() && text.len() <= 63;
    fits.then(|| text.to_owned()).ok_or_else(|| {
        "no tenant's name begins so: a-z, 0-9 and '-', at most 63 of them, the first one no '-'".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_the_beginning_of_a_name() {
        for good in ["a", "acme-", "acme--", "9", "a-b"] {
            assert_eq!(prefix(good).as_deref(), Ok(good));
        }
        for bad in ["", "-", "-a", "Acme", "a_b", &"a".repeat(64)] {
            assert!(prefix(bad).unwrap_err().contains("no tenant's name"), "{bad}");
        }
    }
}
