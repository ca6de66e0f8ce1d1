//! Experiments on real processes, and the judge of what their clients saw.
//!
//! * [`history`] – what clients did and were told; [`check`] compares it with what is there at the end.
//! * [`load`] – the clients; [`http_client`] – one connection of theirs; [`seed`] – what their choices follow.
//! * [`shop`] – another load, of short transactions over several tables in PostgreSQL, and its audit.
//! * [`report`] – verdict and numbers of a run; [`figures`] tells them as a benchmark, beside what [`gauge`] says of the machine.
//! * [`sights`] – looks at store and cells while it runs, judged by the invariants of the model.
//! * [`process`] and [`ports`] – child processes by name; [`wiring`] – the network between them, of namespaces or of
//!   [`link`]s, that can be cut.
//! * [`drill`] – experiments with a hypothesis and a verdict; [`demo`] – the one that shows everything.

pub mod check;
pub mod clock;
pub mod demo;
pub mod drill;
pub mod exercise;
pub mod figures;
pub mod fleet;
pub mod gauge;
pub mod history;
pub mod http_client;
pub mod link;
pub mod load;
pub mod observe;
pub mod ports;
pub mod process;
pub mod report;
pub mod seed;
pub mod shop;
pub mod sights;
pub mod wiring;
