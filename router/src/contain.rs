//! Containment: what fails is left alone for a while, and what is tried again stays a small part of what is asked.
//!
//! | what | for whom | opens on | while it is open |
//! |---|---|---|---|
//! | [`breaker`] of a tenant in its cell | that tenant alone | its own 5xx and timeouts | 503 `BREAKER_OPEN`, at once |
//! | [`breaker`] of a cell | all of its tenants | no connection, for whomever | 503 `BREAKER_OPEN`, at once |
//! | [`breaker`] of a declared [`dependency`] in a cell | what needs it, of all tenants | 5xx and timeouts of that | 503 `BREAKER_OPEN`, at once |
//! | ejection of an instance (`instance`) | nobody: the others take over | its own failures | it is asked last |
//! | [`budget`] of retries | a tenant, and a cell | – | the failure is answered as it is |

pub(crate) mod breaker;
pub(crate) mod budget;
pub(crate) mod dependency;
