//! One table for each enumeration. Both directions come from the same line, so that they cannot drift apart.

use crate::{Malformed, v1};

/// Reads an enumeration's number as a value of the model.
pub(crate) trait Number: Sized {
    /// The value, or what is wrong with the number.
    fn of_number(field: &'static str, number: i32) -> Result<Self, Malformed>;

    /// The same, where 0 says that there is none.
    fn of_number_or_none(field: &'static str, number: i32) -> Result<Option<Self>, Malformed> {
        if number == 0 { Ok(None) } else { Self::of_number(field, number).map(Some) }
    }
}

macro_rules! table {
    ($name:ident { $($variant:ident),+ $(,)? }) => {
        impl From<cell_model::$name> for v1::$name {
            fn from(value: cell_model::$name) -> Self {
                match value { $(cell_model::$name::$variant => Self::$variant,)+ }
            }
        }

        impl TryFrom<v1::$name> for cell_model::$name {
            type Error = Malformed;
            fn try_from(value: v1::$name) -> Result<Self, Malformed> {
                match value {
                    v1::$name::Unspecified => Err(Malformed::missing(stringify!($name))),
                    $(v1::$name::$variant => Ok(Self::$variant),)+
                }
            }
        }

        impl Number for cell_model::$name {
            fn of_number(field: &'static str, number: i32) -> Result<Self, Malformed> {
                match v1::$name::try_from(number) {
                    Ok(v1::$name::Unspecified) => Err(Malformed::missing(field)),
                    Err(_) => Err(Malformed::new(field, format!("{number} is not known here"))),
                    $(Ok(v1::$name::$variant) => Ok(Self::$variant),)+
                }
            }
        }
    };
}

table!(Tier { Bronze, Silver, Gold, Platinum });
table!(CellState { Active, Cordoned, Dead });
table!(CellKind { Pooled, Dedicated });
table!(Databases { Shared, Own });
table!(MappingState { Provisioning, Active, Migrating, Cutover, Final, Deleted });
table!(Hold { None, Writes, All });
table!(Phase {
    Preflight,
    Prepare,
    Backfill,
    CatchUp,
    Verify,
    Sync,
    Hold,
    Fenced,
    Activate,
    Soak,
    Unfence,
    Cleanup,
});
table!(Leg { Forward, Back });
table!(Intent { Run, Pause, Cancel, Rollback });
table!(MoveIntent { Pause, Resume, Cancel, Rollback });

#[cfg(test)]
mod tests {
    use super::*;
    use cell_model::Phase;

    #[test]
    fn every_phase_reads_back_and_keeps_its_name() {
        for phase in Phase::ALL {
            let wire = v1::Phase::from(phase);
            assert_eq!(Phase::of_number("phase", wire as i32), Ok(phase));
            assert_eq!(Phase::try_from(wire), Ok(phase));
            let name = wire.as_str_name().trim_start_matches("PHASE_").to_lowercase().replace('_', "-");
            assert_eq!(name, phase.as_str());
        }
    }

    #[test]
    fn a_number_that_is_not_known_is_named_and_not_guessed() {
        let refused = Phase::of_number("until", 99).unwrap_err();
        assert_eq!(refused.to_string(), "until: 99 is not known here");
        assert_eq!(Phase::of_number("phase", 0), Err(Malformed::missing("phase")));
        assert_eq!(Phase::of_number_or_none("until", 0), Ok(None));
        assert!(cell_model::Tier::of_number("tier", -1).is_err());
    }
}
