//! Was there a moment without a document for every read that found none?
//!
//! [`super::zones`] has found an order of the values. Those that last take up the time from the first end to the last
//! beginning of their requests, and need no more of it. What else there is needs one moment each, in the gaps between them
//! and within the time that it took itself: a value that does not last, an acknowledged delete, a read that found nothing.
//!
//! ```text
//! lasting   ▐███ 1 ███▌                  ▐█████ 4 █████▌
//! moments                [put 2]    [delete 3]
//! nothing               [get]   [get]        [get]        the first and the second need a delete of their own
//! ```
//! The beginning is without a document. A value ends that, a delete brings it back. A delete of unknown outcome does so
//! once, at any time after it was sent, or never. So those are what must not be wasted, and time is gone through once:
//!
//! * a value takes its moment where it costs nothing: where there is a document anyway, or just before a delete or a
//!   value that lasts; and otherwise as late as it can;
//! * an acknowledged delete is done as late as it can, or as soon as a read cannot wait any longer;
//! * a delete of unknown outcome is taken when a read cannot wait any longer and no acknowledged one is under way. Then it
//!   is known to have been done, and explains nothing that comes later.
//!
//! Each of these leaves at least as much room for what comes as any other choice, so that what finds no place here has
//! none in any order; the tests hold that against trying every order.

use std::collections::BTreeSet;

use super::zones::Zone;
use crate::clock::Micros;

/// What needs a moment. What has to be done at the same time is done in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// A value that does not last.
    Value,
    /// An acknowledged delete.
    Delete,
    /// A read that found nothing.
    Nothing,
}

/// One that needs a moment, and from when until when it may have it.
#[derive(Debug, Clone, Copy)]
struct Moment {
    need: Need,
    from: Micros,
    until: Micros,
}

/// What happens as time goes by. What happens at the same time happens in this order, since requests of which one ends
/// when the other begins may come in either order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// A delete of unknown outcome was sent.
    Sent,
    /// A moment may be had from now on.
    Opens { moment: usize },
    /// It must be had now.
    Due { need: Need, moment: usize },
    /// A value begins that lasts.
    Lasts,
}

/// What is on a key besides values that last.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    lasting: Vec<Zone>,
    moments: Vec<Moment>,
    sent: Vec<Micros>,
}

impl Gaps {
    /// Between these values, of which [`super::zones::contradiction`] has nothing to say.
    pub(super) fn between(zones: impl Iterator<Item = Zone>) -> Self {
        let (mut lasting, moments): (Vec<Zone>, Vec<Zone>) = zones.partition(Zone::lasts);
        lasting.sort_by_key(|zone| zone.first_end);
        // What has no end and was not read need not have been.
        let moments = moments.iter().filter(|zone| zone.first_end < Micros::MAX || zone.last_begin == Micros::MAX);
        let moment = |zone: &Zone| Moment { need: Need::Value, from: zone.last_begin, until: zone.first_end };
        let moments = moments.map(moment).collect();
        Self { lasting, moments, sent: Vec::new() }
    }

    /// An acknowledged delete.
    pub(super) fn deleted(&mut self, invoked: Micros, returned: Micros) {
        self.moments.push(Moment { need: Need::Delete, from: invoked, until: returned });
    }

    /// A delete of unknown outcome.
    pub(super) fn maybe_deleted(&mut self, invoked: Micros) {
        self.sent.push(invoked);
    }

    /// A read that found nothing.
    pub(super) fn found_nothing(&mut self, invoked: Micros, returned: Micros) {
        self.moments.push(Moment { need: Need::Nothing, from: invoked, until: returned });
    }

    /// When a read that has no place was sent and answered; none where all that found nothing have one.
    pub(super) fn without_place(&self) -> Option<(Micros, Micros)> {
        let of = |moment: &Moment| (moment.from, moment.until);
        let free: Result<Vec<Moment>, &Moment> =
            self.moments.iter().map(|moment| self.beside_lasting(*moment).ok_or(moment)).collect();
        let free = match free {
            Ok(free) => free,
            Err(moment) => return Some(of(moment)),
        };
        let opens = |(index, moment): (usize, &Moment)| (moment.from, Step::Opens { moment: index });
        let due =
            |(index, moment): (usize, &Moment)| (moment.until, Step::Due { need: moment.need, moment: index });
        let mut steps: Vec<(Micros, Step)> = self.sent.iter().map(|at| (*at, Step::Sent)).collect();
        steps.extend(free.iter().enumerate().map(opens));
        steps.extend(free.iter().enumerate().map(due));
        steps.extend(self.lasting.iter().map(|zone| (zone.first_end, Step::Lasts)));
        steps.sort_unstable();
        let mut line = Line::of(&free);
        let without = steps.into_iter().find_map(|(_, step)| line.goes_on(step).err());
        without.map(|moment| of(&self.moments[moment]))
    }

    /// The same without the time in which a value lasts, of which the first and the last moment are free; none where
    /// nothing is left.
    fn beside_lasting(&self, moment: Moment) -> Option<Moment> {
        let from = self.around(moment.from).map_or(moment.from, |zone| zone.last_begin);
        let until = self.around(moment.until).map_or(moment.until, |zone| zone.first_end);
        (from <= until).then_some(Moment { from, until, ..moment })
    }

    /// The value that lasts from before this time to after it.
    fn around(&self, at: Micros) -> Option<&Zone> {
        let begun = self.lasting.partition_point(|zone| zone.first_end < at);
        self.lasting[..begun].last().filter(|zone| at < zone.last_begin)
    }
}

/// How far time has been gone through.
#[derive(Debug)]
struct Line<'a> {
    moments: &'a [Moment],
    had: Vec<bool>,
    is_absent: bool,
    /// Begun, and not had yet: values while there is nothing, reads of nothing while there is a value.
    values: Vec<usize>,
    reads: Vec<usize>,
    /// Acknowledged deletes that are under way, the first to end first.
    deletes: BTreeSet<(Micros, usize)>,
    /// Deletes of unknown outcome that may still be done.
    unknown: usize,
}

impl<'a> Line<'a> {
    fn of(moments: &'a [Moment]) -> Self {
        Self {
            moments,
            had: vec![false; moments.len()],
            is_absent: true,
            values: Vec::new(),
            reads: Vec::new(),
            deletes: BTreeSet::new(),
            unknown: 0,
        }
    }

    /// A read that has no place is the error.
    fn goes_on(&mut self, step: Step) -> Result<(), usize> {
        match step {
            Step::Sent => self.unknown += 1,
            Step::Opens { moment } => self.opens(moment),
            Step::Due { moment, .. } if self.had[moment] => {}
            Step::Due { need: Need::Value, .. } | Step::Lasts => self.appears(),
            Step::Due { need: Need::Delete, moment } => {
                self.deletes.remove(&(self.moments[moment].until, moment));
                self.vanishes();
            }
            Step::Due { need: Need::Nothing, moment } => {
                if let Some((_, delete)) = self.deletes.pop_first() {
                    self.had[delete] = true;
                } else {
                    self.unknown = self.unknown.checked_sub(1).ok_or(moment)?;
                }
                self.vanishes();
            }
        }
        Ok(())
    }

    fn opens(&mut self, moment: usize) {
        match self.moments[moment].need {
            Need::Delete => {
                self.deletes.insert((self.moments[moment].until, moment));
            }
            Need::Value if self.is_absent => self.values.push(moment),
            Need::Nothing if !self.is_absent => self.reads.push(moment),
            Need::Value | Need::Nothing => self.had[moment] = true,
        }
    }

    /// There is a document: all values that are under way may have been there, too.
    fn appears(&mut self) {
        self.is_absent = false;
        self.values.drain(..).for_each(|value| self.had[value] = true);
    }

    /// There is nothing any more, or still; just before it, all values that are under way may have been there.
    fn vanishes(&mut self) {
        self.is_absent = true;
        self.values.drain(..).chain(self.reads.drain(..)).for_each(|moment| self.had[moment] = true);
    }
}
