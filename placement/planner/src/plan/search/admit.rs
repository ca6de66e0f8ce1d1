//! For newcomers: tenants that are nowhere yet. One that no cell admits may be let in where another one goes.

use super::{Search, Step, Why};
use crate::explain::best;
use crate::filter::Question;
use crate::fleet::{CellIx, TenantIx};
use crate::layout::Layout;

impl<'a> Search<'a> {
    /// From here on only those may be moved of whom `may_move` says so.
    pub(in crate::plan) fn hold_all_but(&mut self, may_move: impl Fn(TenantIx) -> bool) {
        for tenant in self.layout.fleet().tenants() {
            self.moved[tenant.index()] |= !may_move(tenant);
        }
    }

    /// Another tenant leaves a cell that then admits the newcomer, who is at home there from here on. Says whether that
    /// has been found.
    pub(in crate::plan) fn admit(&mut self, newcomer: TenantIx) -> bool {
        for room in self.rooms(newcomer) {
            for other in self.ejected(newcomer, room) {
                let keep = self.steps.len();
                let question = Question::new(&self.layout, other, &self.draining);
                let open = |to: CellIx| to != room && self.has_part_left(to);
                let Some((score, _)) = best(&question, None, open) else { continue };
                let away = self.step(other, room, score.cell, Why::MakeRoom(newcomer));
                if self.try_step(&away) && Question::new(&self.layout, newcomer, &self.draining).ask(room).is_ok() {
                    self.layout.settle(newcomer, room);
                    // Who weighs most has changed.
                    self.ranked.clear();
                    return true;
                }
                self.take_back(keep);
            }
        }
        false
    }

    /// How it has come out, and by which moves.
    pub(in crate::plan) fn finish(self) -> (Layout<'a>, Vec<Step>) {
        (self.layout, self.steps)
    }
}
