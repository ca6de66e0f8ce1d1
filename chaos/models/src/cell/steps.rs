//! What each step makes of a cell. Refused: nothing has changed.

use super::{Capture, Cell, Grant, Header, Hold, Refusal, Rows, Step, require};
use crate::{Log, Mutant};

impl Cell {
    pub(super) fn step(&mut self, header: &Header, step: Step, mutant: Option<Mutant>) -> Result<(), Refusal> {
        match step {
            Step::StartCapture => self.start_capture(header),
            Step::PrepareImport => self.prepare_import(header),
            Step::EngageSync(engaged) => self.engage_sync(header, engaged),
            Step::PrepareReverse => self.prepare_reverse(header, mutant),
            Step::HoldWrites => self.hold_writes(header),
            Step::Fence(seq) => self.fence(header, seq, mutant),
            Step::Unfence => self.unfence(header),
            Step::Activate => self.activate(header),
            Step::DeliverMapping => self.deliver_mapping(header),
            Step::DropImport => self.drop_import(header, mutant),
            Step::StopCapture => self.stop_capture(header),
            Step::Retire => self.retire(header),
            Step::Reclaim(fenced) => self.reclaim(header, fenced, mutant),
            Step::Examine(told) => self.examine(header, told),
            Step::Recopy => self.recopy(header),
            Step::OwnByForce => self.own_by_force(header),
            Step::PutAside { fenced, after } => self.put_aside(header, fenced, after),
        }
    }

    /// What every step must pass; remembers move and attempt.
    pub(super) fn admit(&mut self, header: &Header, names_an_old_move: bool) -> Result<(), Refusal> {
        require(header.epoch >= self.epoch)?;
        let given = (header.move_id, header.attempt);
        if given < (self.move_id, self.attempt) {
            return require(names_an_old_move && header.move_id < self.move_id);
        }
        (self.move_id, self.attempt) = given;
        Ok(())
    }

    fn owns(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        require(self.grant == Grant::Owner && self.epoch == header.epoch)
    }

    fn captures_for(&self, move_id: u8) -> bool {
        self.capture.is_some_and(|capture| capture.move_id == move_id)
    }

    fn start_capture(&mut self, header: &Header) -> Result<(), Refusal> {
        self.owns(header)?;
        if !self.captures_for(header.move_id) {
            self.capture = Some(Capture { move_id: header.move_id, from: self.log.last() });
            self.sync = false;
        }
        Ok(())
    }

    fn prepare_import(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        match self.grant {
            Grant::Importing if self.follow == Some(header.move_id) => self.epoch = header.epoch,
            Grant::Nothing | Grant::Redirect => {
                require(header.move_id > self.ended && self.rows == Rows::Absent)?;
                self.grant = Grant::Importing;
                self.epoch = header.epoch;
                self.follow = Some(header.move_id);
                self.capture = None;
                self.sync = false;
                self.reverse = None;
                self.rows = Rows::Partial;
            }
            Grant::Importing | Grant::Owner | Grant::Fenced { .. } => return Err(Refusal::Other),
        }
        Ok(())
    }

    fn engage_sync(&mut self, header: &Header, engaged: bool) -> Result<(), Refusal> {
        self.owns(header)?;
        require(!engaged || self.captures_for(header.move_id))?;
        self.sync = engaged;
        Ok(())
    }

    fn prepare_reverse(&mut self, header: &Header, mutant: Option<Mutant>) -> Result<(), Refusal> {
        self.admit(header, false)?;
        require(self.grant == Grant::Importing && self.follow == Some(header.move_id))?;
        self.reverse = Some(header.move_id);
        if mutant == Some(Mutant::ServesBeforeCommit) && self.rows == Rows::Complete {
            self.grant = Grant::Owner;
        }
        Ok(())
    }

    fn hold_writes(&mut self, header: &Header) -> Result<(), Refusal> {
        self.owns(header)?;
        require(self.captures_for(header.move_id))?;
        let given = (header.move_id, header.attempt);
        require(given > self.lapsed)?;
        if self.hold.is_none_or(|hold| (hold.move_id, hold.attempt) != given) {
            self.end_hold();
            self.hold = Some(Hold { move_id: given.0, attempt: given.1, sealed: self.log.last() });
        }
        Ok(())
    }

    fn fence(&mut self, header: &Header, wanted: u8, mutant: Option<Mutant>) -> Result<(), Refusal> {
        self.admit(header, false)?;
        let fenced = Grant::Fenced { move_id: header.move_id, attempt: header.attempt, seq: wanted };
        if self.grant == fenced && self.epoch == header.epoch {
            return Ok(());
        }
        self.owns(header)?;
        let seal = Hold { move_id: header.move_id, attempt: header.attempt, sealed: wanted };
        let stands = self.hold == Some(seal) && self.log.last() == wanted;
        require(stands || mutant == Some(Mutant::FenceWithoutSeal))?;
        self.grant = fenced;
        Ok(())
    }

    fn unfence(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        match self.grant {
            Grant::Owner if self.epoch == header.epoch => {}
            // Also where the fence was refused: the epoch rose all the same.
            Grant::Owner | Grant::Fenced { .. } if self.epoch < header.epoch => {
                self.grant = Grant::Owner;
                self.epoch = header.epoch;
            }
            Grant::Nothing | Grant::Owner | Grant::Importing | Grant::Fenced { .. } | Grant::Redirect => {
                return Err(Refusal::Other);
            }
        }
        self.end_hold();
        Ok(())
    }

    fn activate(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        if self.grant == Grant::Owner && self.epoch == header.epoch {
            return Ok(());
        }
        let copies =
            self.follow == Some(header.move_id) && matches!(self.grant, Grant::Importing | Grant::Redirect);
        require(copies && self.epoch < header.epoch && self.rows == Rows::Complete)?;
        self.grant = Grant::Owner;
        self.epoch = header.epoch;
        // On the way back, too, where nobody follows: until the move is over the owner may be taken over.
        let captures = header.back || self.reverse == Some(header.move_id);
        self.capture = captures.then_some(Capture { move_id: header.move_id, from: self.log.last() });
        self.sync = false;
        self.follow = None;
        self.reverse = None;
        self.redirects = false;
        Ok(())
    }

    fn deliver_mapping(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        require(header.epoch > self.epoch)?;
        let alive = match self.grant {
            Grant::Fenced { .. } => true,
            Grant::Redirect => self.follow.is_some(),
            Grant::Nothing | Grant::Owner | Grant::Importing => return Err(Refusal::Other),
        };
        let follows = !header.back && alive && header.move_id > self.ended;
        self.grant = Grant::Redirect;
        self.redirects = true;
        self.capture = None;
        self.sync = false;
        self.reverse = None;
        self.follow = follows.then_some(header.move_id);
        self.end_hold();
        Ok(())
    }

    fn copies(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, false)?;
        require(self.follow == Some(header.move_id) && self.rows == Rows::Complete)
    }

    fn examine(&mut self, header: &Header, told: u8) -> Result<(), Refusal> {
        self.copies(header)?;
        self.examined = Some(told);
        Ok(())
    }

    fn recopy(&mut self, header: &Header) -> Result<(), Refusal> {
        self.copies(header)?;
        require(self.examined.is_some())?;
        (self.damaged, self.examined) = (false, None);
        Ok(())
    }

    fn drop_import(&mut self, header: &Header, mutant: Option<Mutant>) -> Result<(), Refusal> {
        self.admit(header, true)?;
        let grant = match self.grant {
            _ if mutant == Some(Mutant::DropsWhatItOwns) => self.grant,
            Grant::Importing | Grant::Redirect | Grant::Owner if self.move_id > header.move_id => return Ok(()),
            Grant::Importing if self.redirects => Grant::Redirect,
            Grant::Importing | Grant::Nothing => Grant::Nothing,
            Grant::Redirect if header.back || self.rows == Rows::Absent => Grant::Redirect,
            Grant::Redirect => {
                self.ended = self.ended.max(header.move_id);
                return Ok(());
            }
            Grant::Owner | Grant::Fenced { .. } => return Err(Refusal::Other),
        };
        self.grant = grant;
        self.empty(header);
        Ok(())
    }

    fn stop_capture(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, true)?;
        if self.capture.is_some_and(|capture| capture.move_id <= header.move_id) {
            require(!matches!(self.grant, Grant::Fenced { .. }))?;
            self.capture = None;
            self.sync = false;
            self.end_hold();
        }
        Ok(())
    }

    fn retire(&mut self, header: &Header) -> Result<(), Refusal> {
        self.admit(header, true)?;
        match self.grant {
            Grant::Redirect => {
                self.follow = self.follow.filter(|follow| *follow > header.move_id);
                self.ended = self.ended.max(header.move_id);
                Ok(())
            }
            Grant::Nothing | Grant::Importing => Ok(()),
            Grant::Owner | Grant::Fenced { .. } => Err(Refusal::Other),
        }
    }

    fn reclaim(&mut self, header: &Header, fenced: u8, mutant: Option<Mutant>) -> Result<(), Refusal> {
        if mutant == Some(Mutant::ReclaimsWithoutLooking) {
            self.empty(header);
            return Ok(());
        }
        self.admit(header, true)?;
        match self.grant {
            Grant::Redirect if self.epoch > fenced => {}
            Grant::Redirect => {
                require(self.epoch == fenced && self.follow.is_none())?;
                self.empty(header);
            }
            Grant::Nothing | Grant::Importing => {}
            Grant::Owner | Grant::Fenced { .. } => return Err(Refusal::Other),
        }
        Ok(())
    }

    fn empty(&mut self, header: &Header) {
        self.log = Log::default();
        self.rows = Rows::Absent;
        (self.damaged, self.examined) = (false, None);
        self.put_aside = None;
        self.follow = None;
        self.reverse = None;
        self.ended = self.ended.max(header.move_id);
        self.end_hold();
    }
}
