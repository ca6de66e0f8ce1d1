//! What the database did not do, with a stable code.

use std::error::Error as _;

use deadpool_postgres::PoolError;
use pgwire_replication::PgWireError;
use tokio_postgres::error::SqlState;

use super::tls;
use crate::refusal::Refusal;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Fault {
    /// Stable code.
    pub code: &'static str,
    /// What the database said.
    pub reason: String,
    /// The SQLSTATE, where the server gave one.
    pub state: Option<String>,
}

impl Fault {
    pub(crate) fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), state: None }
    }

    /// The server has said that it speaks no TLS.
    pub(crate) fn no_tls() -> Self {
        let reason = "the server speaks no TLS: ssl = on, ssl_cert_file and ssl_key_file in its configuration, or another \
                      sslmode in the address";
        Self::new("DATABASE_TLS", reason)
    }

    /// What a connection has met, TLS among it.
    pub(crate) fn of_io(error: &std::io::Error) -> Self {
        match tls_error(error) {
            Some(error) => Self::new("DATABASE_TLS", tls::explained(error)),
            None => Self::new("DATABASE_UNREACHABLE", error.to_string()),
        }
    }

    /// Whether the same may succeed later without anybody doing anything about the data.
    pub(crate) fn may_pass(&self) -> bool {
        match self.state.as_deref() {
            // A standby, until it is promoted.
            Some("25006") => true,
            // Resources, operator's intervention, serialisation, locks, lost connections.
            Some(state) => ["53", "57", "40", "55", "08", "58"].iter().any(|class| state.starts_with(class)),
            None => true,
        }
    }
}

/// TLS's own words, where it was TLS.
fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The code and what to do, for what the server says at the door.
fn code_of(state: &SqlState) -> (&'static str, &'static str) {
    match state.code() {
        "28P01" | "28000" => {
            ("DATABASE_LOGIN", "correct user and password in the database's address, or pg_hba.conf")
        }
        "3D000" => ("DATABASE_MISSING", "create the database, or correct its name in the address"),
        "42501" => ("DATABASE_RIGHT", "grant the agent's role what docs/postgresql.md lists"),
        "53300" => ("DATABASE_CONNECTIONS", "raise max_connections or close connections"),
        "53100" => ("DATABASE_FULL", "make room on the database's disk"),
        "25006" => ("DATABASE_STANDBY", "promote it, or correct the database's address"),
        _ => ("DATABASE_FAILED", "read the database's log"),
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            let (code, next) = code_of(db.code());
            let mut reason = db.message().to_owned();
            if let Some(detail) = db.detail() {
                reason = format!("{reason} ({detail})");
            }
            if code != "DATABASE_FAILED" {
                reason = format!("{reason}; {next}");
            }
            // Of a server that lets nobody in without.
            if reason.contains("no encryption") {
                reason.push_str("; or say sslmode=verify-full and sslrootcert in the address");
            }
            return Self { code, reason, state: Some(db.code().code().to_owned()) };
        }
        let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        if let Some(error) = io.and_then(tls_error) {
            return Self::new("DATABASE_TLS", tls::explained(error));
        }
        if error.to_string().contains("TLS handshake") && io.is_none() {
            return Self::no_tls();
        }
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        Self::new("DATABASE_UNREACHABLE", format!("{error}{cause}"))
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            other => Self::new("DATABASE_UNREACHABLE", other.to_string()),
        }
    }
}

impl From<PgWireError> for Fault {
    fn from(error: PgWireError) -> Self {
        let code = match &error {
            PgWireError::Auth(_) => "DATABASE_LOGIN",
            PgWireError::Server(_) => "DATABASE_FAILED",
            _ => "DATABASE_UNREACHABLE",
        };
        Self::new(code, error.to_string())
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::new(fault.code, fault.reason)
    }
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Self {
        Fault::from(error).into()
    }
}
