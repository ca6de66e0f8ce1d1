//! The gate that a cell puts before each instance of its application.
//!
//! A router says with every request which owner it believes in: (tenant, uid, epoch), a [`RequestStamp`]. The gate
//! compares that with what the cell's agent has granted, and lets the request in, lets it wait for a change, tells the
//! router of a newer mapping (421), or refuses. It decides on the head alone, before the body is read, so whatever it
//! refuses has surely not been executed, and the router may send it again.
//!
//! ```text
//! router ─► listener ─► front ─► admission ─► application ─► the data layer checks the stamp once more
//!                                   │ decision (pure): grant × lease × stamp
//!                                   │ table: tenant → slot (grant, running writes, who waits)
//! agent ◄──────── attach ───────────┘ grants and lease in, quiesced holds out
//! ```
//!
//! * [`decide`] is the whole table of decisions.
//! * A write is counted in the same locked step that sees the grant, so a hold is quiesced exactly when every write
//!   that was let in before it has finished.
//! * Where the gate is told whom to believe, the router's signed context has to say the same as its stamp.
//! * A request that asks for another protocol counts as a write for as long as that protocol is spoken ([`Upgrade`]).
//! * What an application says before its answer (103) goes on to a router that asks over HTTP/1.1 ([`EarlyAnswers`]).
//! * An application is a part of the gate's program, or a process of its own ([`Relay`]).
//! * Without a live lease from the agent nothing is let in: a gate that is cut off may have missed a fence.

mod admission;
mod answer;
mod application;
mod attach;
mod context;
mod decision;
mod front;
mod gate;
mod interim;
mod lease;
mod listener;
mod newest;
mod options;
mod outbox;
mod patience;
mod relay;
mod slot;
mod stamp;
mod table;
mod tls;
mod tunnel;
mod unread;
pub mod wire;

pub use admission::{Admission, Refusal, WaitLimits};
pub use application::{Application, BoxError, NotExecuted, RequestBody, ResponseBody, full};
#[cfg(feature = "planted")]
pub use decision::Planted;
pub use decision::{Grant, Otherwise, Role, Verdict, decide};
pub use gate::{Gate, GateCounts, GateError, GateHandle};
pub use interim::{EarlyAnswers, Interim};
pub use newest::{MappingSource, NoMappings, Redirect};
pub use options::{GateOptions, HttpLimits};
pub use relay::{NoSuchApplication, Relay};
pub use stamp::{RequestStamp, StampError, StampValues};
pub use tls::GateTls;
pub use tunnel::{Tunnel, Upgrade, UpgradeError};
