//! The edge router: carries every request of every tenant to the cell that owns it, and goes on doing so with the
//! control plane gone.
//!
//! * A request goes through one function, `pipeline`: strict → identify → forward (resolve, exchange) → account.
//! * It is routed by the `directory`: a lock-free `table` fed by the watch (`feed`), with a ping that says how
//!   fresh it is (`freshness`) and a file that it starts from (`snapshot`).
//! * Safety is not here: cells refuse what they do not own. A router that is behind is told so by a gate, learns the
//!   signed mapping, and sends the request again, because the gate has surely not run it.
//! * While a tenant moves, its requests wait here with their bodies untouched (`resolve`, `waiting`).
//! * A client's bytes are read strictly (`strict`) and over TLS where there is some (`tls`), on connections with a timer
//!   for everything (`front`, `conn`, `patience`), and next to nothing kept of one that rests (`resting`); a WebSocket
//!   becomes a tunnel (`upgrade`, `tunnel`). What would go on at a cell that its tenant has left is ended (`streams`).
//! * What a tenant may ask (`policy`) and when its request gets into its cell (`schedule`, over `fair`, `contain`, `flow`)
//!   keeps tenants from each other's load and failures; `instance` says which of the cell's instances it goes to.
//! * What tenants use is counted, and kept in batches until it is collected (`usage`).
//! * Threads share nothing but the directory (`worker`): each has its own runtime, listener and connections (`pool`);
//!   sockets go to the idlest (`sharing`).
//!
//! [`Options`] → [`Router::bind`] → [`Router::run`], with a [`Handle`] to look at it; or [`run`] for all of it.

mod account;
mod admin;
mod alarm;
mod answer;
mod ask;
mod atomics;
mod body;
mod conn;
mod contain;
mod context;
mod control;
mod directory;
mod error;
mod exchange;
mod fair;
mod feed;
mod flow;
mod forward;
mod freshness;
mod front;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handover;
mod headers;
mod identify;
mod instance;
#[cfg(all(test, feature = "loom"))]
mod interleavings;
mod listen;
mod live;
mod metrics;
mod moment;
mod observe;
mod options;
mod patience;
mod pipeline;
mod policy;
mod pool;
mod private;
mod refusal;
mod reload;
mod resolve;
mod resting;
mod room;
mod router;
mod schedule;
mod seldom;
mod sharing;
mod signing;
mod snapshot;
mod sockets;
mod streams;
mod strict;
mod table;
mod tls;
mod token;
mod tunnel;
mod ungated;
mod unreached;
mod upgrade;
mod usage;
mod waiting;
mod worker;

pub use error::Error;
pub use feed::{Confirmed, ControlPlane, Held};
pub use options::{
    CertificateFiles, Containment, ContextOptions, Dependency, Fairness, IdentityOptions, Instances, Limits,
    Options, OptionsFile, Policy, Source, SpanOptions, Tiers, Timeouts, TlsOptions, TokenOptions, UpstreamOptions,
    UpstreamProtocol, UpstreamTlsOptions, UsageOptions,
};
pub use refusal::{Code, Refusal};
pub use reload::Difference;
pub use router::{Addresses, Handle, Router, run};
pub use signing::KeyFault;
pub use tls::TlsError;
pub use ungated::OnTheirWay;
