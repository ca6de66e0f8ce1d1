//! Fields that the stored layout got later than their structs.
//!
//! What is stored is positional: a field that was not written is not there at all. Whoever reads an earlier layout says so
//! with [`reading`], and a field marked `#[serde(deserialize_with = "layout::since_5")]` then takes its default in place of
//! bytes. A field may be added so, and a variant at the end of an enum; whatever else changes needs a struct of its own for
//! what was. A default must mean what the absence has meant: entries of the log are applied again after an upgrade, and come
//! to the same.

use std::cell::Cell;

use serde::{Deserialize, Deserializer};

/// The layout that is written.
pub const LAYOUT: u8 = 5;
/// The earliest that is still read.
pub const EARLIEST: u8 = 4;

thread_local! {
    static READ: Cell<u8> = const { Cell::new(LAYOUT) };
}

/// Puts back what was, also where reading panics.
struct Back(u8);

impl Drop for Back {
    fn drop(&mut self) {
        READ.set(self.0);
    }
}

/// Reads what was written in `layout`: for as long as `read` runs, on this thread.
pub fn reading<R>(layout: u8, read: impl FnOnce() -> R) -> R {
    let _back = Back(READ.replace(layout));
    read()
}

/// Reads a field that there is since layout 5.
///
/// # Errors
/// As the field itself.
pub fn since_5<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    if READ.get() < 5 { Ok(T::default()) } else { T::deserialize(deserializer) }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Before {
        first: u32,
        last: String,
    }

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct After {
        first: u32,
        #[serde(deserialize_with = "since_5")]
        added: Option<u64>,
        last: String,
    }

    #[test]
    fn a_field_that_was_not_written_has_its_default_and_what_follows_is_read() {
        let old = postcard::to_allocvec(&Before { first: 7, last: "end".into() }).unwrap();
        let read = || postcard::from_bytes::<After>(&old);
        let wanted = After { first: 7, added: None, last: "end".into() };
        assert_eq!(reading(4, read), Ok(wanted));
        assert!(read().is_err(), "today it would be there");
        let new = After { first: 7, added: Some(300), last: "end".into() };
        let bytes = postcard::to_allocvec(&new).unwrap();
        assert_eq!(postcard::from_bytes::<After>(&bytes), Ok(new));
    }

    #[test]
    fn a_layout_counts_only_while_it_is_read() {
        reading(4, || reading(5, || assert_eq!(READ.get(), 5)));
        let panicked = std::panic::catch_unwind(|| reading::<()>(4, || panic!("as a reader may")));
        assert!(panicked.is_err());
        assert_eq!(READ.get(), LAYOUT);
    }
}
