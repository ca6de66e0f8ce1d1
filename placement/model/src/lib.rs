//! The heart of Cellway, without I/O: what a fleet is, what may happen to it, and what must be done next.
//!
//! * [`Fleet`] is the replicated state. [`Fleet::apply`] takes one [`Envelope`] and is everything that the store's
//!   `apply` does: it asks [`decide`] and installs the resulting [`Change`]s.
//! * [`decide`] holds every rule over the fleet (who may be created, cordoned, moved, within which limits) and calls
//!   [`step`] for what happens inside one move.
//! * [`step`] is the migration protocol: total, deterministic, one event at a time. See `docs/migration.md`.
//! * [`pending_effects`] says what must be done in the world for a record to go on. It is recomputed, never
//!   remembered, so a new leader continues where the last one fell.
//! * [`AuditTrail`] is who asked for what and what came of it, as a chain of hashes.
//! * [`invariants`] are the promises I1–I16 as functions, the same in the model checker, simulation and production.
//!
//! Time, ids and seeds come in with commands and events; this crate names no clock, no runtime and no file.

mod answers;
mod audit;
mod command;
mod decide;
mod declared;
mod difference;
mod effects;
mod event;
mod fleet;
mod ids;
pub mod invariants;
pub mod layout;
mod mapping;
mod movement;
mod reconcile;
mod record;
mod rejected;
mod routing;
mod rule;
mod shared;
mod shelves;
mod step;
mod store_note;
mod timing;
mod ungated;

pub use answers::{Aging, Answered, Asked, Forgotten};
pub use audit::{AuditEntry, AuditHash, AuditTrail, BrokenChain, verify_chain};
pub use command::{
    Change, Command, CopySight, Crowd, Envelope, MoveIntent, MoveOptions, NewCell, NewTenant, Outcome, Reply,
    Sight, Suggestion, TakeoverOrder,
};
pub use decide::{copies_under_way, decide};
pub use declared::{Capacity, CellKind, CellTraits, Databases, Declaration, is_for};
pub use difference::{Difference, Differing, DifferingRow};
pub use effects::{Effect, pending_effects};
pub use event::Event;
pub use fleet::{Fleet, FleetHead, FleetImage, FleetView, Limits, Stamp};
pub use ids::{
    Attempt, CellId, ClusterId, Digest, Epoch, Generation, InvalidId, Lineage, MoveId, RequestId, Rev, Revision,
    Seq, TenantId, Term, Uid, UnixMillis,
};
pub use mapping::{Hold, Mapping, MappingState};
pub use movement::{
    Acks, AppliedAck, End, FencedAck, InSyncAck, Intent, Leg, Move, MoveRecord, Phase, PhaseStamp, ReverseAck,
    SealedAck, SyncMode, Takeover, VerifiedAck, Weight,
};
pub use reconcile::{Adoption, Held, HeldRole, OVERTAKEN, Verdict, judge};
pub use record::{CellRecord, CellState, Life, Quarantine, Retained, Tail, TenantRecord, Tier, TierChange};
pub use rejected::Rejected;
pub use routing::{HoldSight, Holds, RouterSight, RouterVerdict, TableAge};
pub use rule::Rule;
#[cfg(feature = "planted")]
pub use rule::planted;
pub use shelves::Trail;
pub use step::{Holder, Stepped, holder, step};
pub use store_note::{StoreAction, StoreNote};
pub use timing::{Estimate, HeldFor, HoldEnd, holds};
pub use ungated::{RoutersAck, Ungated};
