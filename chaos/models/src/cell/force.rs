//! Takeover by force, at the cell that owns from what it holds and at the one that is told when it is back.

use super::{Cell, Grant, Header, Refusal, Rows, require};

impl Cell {
    pub(super) fn own_by_force(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        if self.grant == Grant::Owner && self.epoch == header.epoch {
            return Ok(());
        }
        require(self.holds(header.move_id) && self.epoch < header.epoch && self.rows == Rows::Complete)?;
        self.taken = Some((header.move_id, self.log.last()));
        self.grant = Grant::Owner;
        self.epoch = header.epoch;
        self.capture = None;
        self.sync = false;
        self.follow = None;
        self.reverse = None;
        self.redirects = false;
        self.end_hold();
        Ok(())
    }

    /// Whether its copy is one from which the tenant of this move may be taken over.
    #[must_use]
    pub fn holds(&self, move_id: u8) -> bool {
        let copies = self.follow == Some(move_id);
        match self.grant {
            Grant::Importing => copies,
            Grant::Redirect => copies || (self.move_id == move_id && self.ended < move_id),
            Grant::Fenced { move_id: by, .. } => by == move_id,
            Grant::Nothing | Grant::Owner => false,
        }
    }

    pub(super) fn put_aside(&mut self, header: &Header, fenced: u8, after: u8) -> Result<(), Refusal> {
        self.admit(header, false)?;
        require(header.epoch > fenced && self.epoch <= fenced)?;
        self.grant = Grant::Redirect;
        self.epoch = fenced;
        self.redirects = true;
        self.capture = None;
        self.sync = false;
        self.follow = None;
        self.reverse = None;
        self.ended = self.ended.max(header.move_id);
        self.put_aside = Some(after);
        self.end_hold();
        // What waits for the follower is not there: its clients never learn what has become of it. An owner that was stopped, as
        // it must be, owes nobody anything.
        self.owed &= self.log.up_to(after).writes();
        Ok(())
    }
}
