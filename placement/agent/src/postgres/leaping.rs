//! Sequences of a tenant that is taken over by force. What the lost owner has handed out is not known, so each goes well beyond what is.
//!
//! A takeover that is tried again leaps from where the first attempt did: a sequence of small numbers would run out otherwise.

use std::collections::BTreeMap;

use cell_model::{MoveId, TenantId};

use super::catalogue::{Catalogue, Column, Table};
use super::cell::Cell;
use super::sql::ident;
use super::tenant::Tenant;
use crate::refusal::Refusal;

/// Steps of its own that a sequence leaps.
const STEPS: i128 = 1_000;

/// Where sequences stood when they leapt for the first time in a move.
#[derive(Debug, Default)]
pub(crate) struct Leapt {
    of: MoveId,
    from: BTreeMap<String, i64>,
}

impl Leapt {
    fn from(&mut self, move_id: MoveId, sequence: &str, last: i64) -> i64 {
        if self.of != move_id {
            *self = Self { of: move_id, from: BTreeMap::new() };
        }
        *self.from.entry(sequence.to_owned()).or_insert(last)
    }
}

/// A sequence, as the database has it.
#[derive(Debug, Clone, Copy)]
struct Standing {
    last: i64,
    stride: i64,
    least: i64,
    most: i64,
}

/// Where a sequence goes that stood at `from`, and of which rows have numbers up to `furthest`: whole steps of its own. None where it is
/// there already. Where there is no room for the leap it goes to what is known.
fn leap(now: Standing, from: i64, furthest: Option<i64>) -> Option<i64> {
    let (stride, from) = (i128::from(now.stride), i128::from(from));
    let ahead = furthest.map_or(0, |furthest| (i128::from(furthest) - from) * stride.signum()).max(0);
    let (wide, range) = (stride.abs().max(1), i128::from(now.least)..=i128::from(now.most));
    let known = from + (ahead + wide - 1) / wide * stride;
    let leapt = known + STEPS * stride;
    let target = if range.contains(&leapt) { leapt } else { known.clamp(*range.start(), *range.end()) };
    let is_further = (target - i128::from(now.last)) * stride.signum() > 0;
    i64::try_from(target).ok().filter(|_| is_further)
}

const STANDS: &str = "SELECT s.last_value, p.seqincrement, p.seqmin, p.seqmax FROM {sequence} AS s, pg_sequence AS p \
                      WHERE p.seqrelid = $1::text::regclass";
/// Others may draw from it meanwhile: it is never set back.
const SET: &str = "SELECT setval($1::text::regclass, $2) FROM {sequence} AS s, pg_sequence AS p \
                   WHERE p.seqrelid = $1::text::regclass \
                     AND CASE WHEN p.seqincrement > 0 THEN s.last_value < $2 ELSE s.last_value > $2 END";

impl Cell {
    /// Moves the sequences of a tenant's tables well beyond what its rows have, and beyond where they stood.
    pub(crate) async fn leap_sequences(&self, tenant: &Tenant, move_id: MoveId) -> Result<(), Refusal> {
        let catalogue = self.catalogue(&tenant.id).await?;
        let client = self.database.client().await?;
        for sequence in &catalogue.sequences {
            let name = &sequence.name;
            let row = client.query_one(&STANDS.replace("{sequence}", name), &[name]).await?;
            let now = Standing { last: row.get(0), stride: row.get(1), least: row.get(2), most: row.get(3) };
            let furthest = match furthest_sql(&catalogue, &sequence.of, &tenant.id, now.stride) {
                Some(sql) => client.query_one(&sql, &[]).await?.get(0),
                None => None,
            };
            let from = tenant.lock().leapt.from(move_id, name, now.last);
            if let Some(target) = leap(now, from, furthest) {
                client.query(&SET.replace("{sequence}", name), &[name, &target]).await?;
            }
        }
        Ok(())
    }
}

/// The furthest number that a tenant's rows have of a sequence, where a column of numbers draws from it.
fn furthest_sql(catalogue: &Catalogue, of: &str, tenant: &TenantId, stride: i64) -> Option<String> {
    let columns = catalogue.tables.iter().flat_map(|table| table.columns.iter().map(move |column| (table, column)));
    let is_it = |table: &Table, column: &Column| format!("{}.{}", table.name, column.name) == of;
    let (table, column) = columns.into_iter().find(|(table, column)| is_it(table, column))?;
    if !["bigint", "integer", "smallint"].contains(&column.type_name.as_str()) {
        return None;
    }
    let (name, whose) = (catalogue.qualified(table), catalogue.of_tenant(table, tenant.as_str()));
    let (column, which) = (ident(&column.name), if stride > 0 { "max" } else { "min" });
    Some(format!("SELECT {which}({column})::bigint FROM {name} WHERE {whose}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(last: i64, stride: i64) -> Standing {
        let (least, most) = if stride > 0 { (1, 1_000_000) } else { (-1_000_000, -1) };
        Standing { last, stride, least, most }
    }

    #[test]
    fn a_sequence_goes_a_thousand_steps_beyond_where_it_stood_and_what_rows_have() {
        assert_eq!(leap(sequence(7, 1), 7, None), Some(1_007));
        assert_eq!(leap(sequence(7, 1), 7, Some(3)), Some(1_007), "rows that are behind say nothing");
        assert_eq!(leap(sequence(7, 1), 7, Some(500)), Some(1_500));
        assert_eq!(leap(sequence(7, 10), 7, Some(18)), Some(10_027), "in whole steps of its own");
        assert_eq!(leap(sequence(-7, -2), -7, Some(-10)), Some(-2_011), "the other way");
    }

    #[test]
    fn a_takeover_that_is_tried_again_leaps_no_further_unless_rows_have_come() {
        let mut leapt = Leapt::default();
        let from = leapt.from(MoveId(1), "s", 7);
        assert_eq!(leap(sequence(7, 1), from, Some(5)), Some(1_007));
        let again = leapt.from(MoveId(1), "s", 1_007);
        assert_eq!(leap(sequence(1_007, 1), again, Some(5)), None);
        assert_eq!(leap(sequence(1_020, 1), again, Some(7)), None, "another tenant has drawn from it");
        assert_eq!(leap(sequence(1_007, 1), again, Some(107)), Some(1_107));
        // Another move knows nothing of that.
        assert_eq!(leapt.from(MoveId(2), "s", 1_007), 1_007);
    }

    #[test]
    fn where_there_is_no_room_for_the_leap_a_sequence_goes_to_what_is_known_and_no_number_is_lost() {
        let small = Standing { last: 900, stride: 1, least: 1, most: 1_000 };
        assert_eq!(leap(small, 900, None), None, "nothing more is known");
        assert_eq!(leap(small, 900, Some(950)), Some(950));
        assert_eq!(leap(small, 900, Some(2_000)), Some(1_000), "a row has a number that it cannot hand out");
        let end = Standing { last: i64::MAX, stride: i64::MAX, least: 1, most: i64::MAX };
        assert_eq!(leap(end, i64::MAX, Some(i64::MAX)), None);
    }
}
