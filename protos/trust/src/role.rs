//! Who may call what: one pure table over every RPC of every service, and nothing is allowed that it does not name.
//!
//! A caller is a [`Principal`]: a role and a name, which stand in the certificate of its connection as the URI
//! `spiffe://cellway/<role>/<name>`.
//!
//! | role | is | may |
//! |---|---|---|
//! | viewer | a person or a dashboard | look |
//! | operator | a person on duty | look; make, delete and move tenants; cordon cells and declare them dead; move the leader |
//! | admin | a person who is responsible | all that an operator may; cells, limits, the cluster itself, backups |
//! | router | a `cell-router` | watch, confirm, ask who the cluster is |
//! | agent | a cell: its agent and its gates | report itself, read mappings, follow another agent |
//! | control | a control node | Raft between control nodes, steps on agents |

use std::fmt;
use std::str::FromStr;

/// What a caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Moves tenants.
    Operator,
    /// Makes cells and clusters.
    Admin,
    /// A router.
    Router,
    /// A cell.
    Agent,
    /// A control node.
    Control,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::Viewer, Self::Operator, Self::Admin, Self::Router, Self::Agent, Self::Control];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Router => "router",
            Self::Agent => "agent",
            Self::Control => "control",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a text names no principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrincipal {
    /// No role of this name.
    #[error("{0:?} is no role: viewer, operator, admin, router, agent or control")]
    Role(String),
    /// A name breaks its rule.
    #[error("{0:?} is no name: 1 to 63 characters of a-z, A-Z, 0-9, '.', '-', '_' and '@'")]
    Name(String),
    /// Not one of our URIs.
    #[error("{0:?} is not spiffe://cellway/ROLE/NAME")]
    Uri(String),
}

impl FromStr for Role {
    type Err = InvalidPrincipal;
    fn from_str(text: &str) -> Result<Self, InvalidPrincipal> {
        let known = Self::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| InvalidPrincipal::Role(text.chars().take(32).collect()))
    }
}

/// Role and name of whoever calls. Prints and reads as `operator/alice`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    role: Role,
    name: String,
}

const URI_PREFIX: &str = "spiffe://cellway/";

impl Principal {
    /// A principal of this name.
    ///
    /// # Errors
    /// [`InvalidPrincipal::Name`]
    pub fn new(role: Role, name: impl Into<String>) -> Result<Self, InvalidPrincipal> {
        let name = name.into();
        let fits = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@'));
        if fits { Ok(Self { role, name }) } else { Err(InvalidPrincipal::Name(name.chars().take(80).collect())) }
    }

    /// What it is.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Who it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As it stands in a certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("{URI_PREFIX}{self}")
    }

    /// From what stands in a certificate.
    ///
    /// # Errors
    /// [`InvalidPrincipal`]
    pub fn of_uri(uri: &str) -> Result<Self, InvalidPrincipal> {
        let path = uri.strip_prefix(URI_PREFIX);
        path.ok_or_else(|| InvalidPrincipal::Uri(uri.chars().take(80).collect()))?.parse()
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.role, self.name)
    }
}

impl FromStr for Principal {
    type Err = InvalidPrincipal;
    fn from_str(text: &str) -> Result<Self, InvalidPrincipal> {
        let (role, name) =
            text.split_once('/').ok_or_else(|| InvalidPrincipal::Uri(text.chars().take(80).collect()))?;
        Self::new(role.parse()?, name)
    }
}

macro_rules! rpcs {
    ($($service:literal { $($method:ident as $variant:ident),* $(,)? })*) => {
        /// Every RPC of every service, ours and those that every server offers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the .proto files say what each does")]
        pub enum Rpc { $($($variant),*),* }

        impl Rpc {
            /// All of them.
            pub const ALL: &'static [Self] = &[$($(Self::$variant),*),*];

            /// As it stands in a request: `/package.Service/Method`.
            #[must_use]
            pub const fn path(self) -> &'static str {
                match self { $($(Self::$variant => concat!("/", $service, "/", stringify!($method))),*),* }
            }
        }
    };
}

rpcs! {
    "cellway.v1.ControlService" {
        CreateCell as CreateCell, SetCellState as SetCellState, DeclareCell as DeclareCell, ReportCell as ReportCell,
        GetCell as GetCell,
        ListCells as ListCells, CreateTenant as CreateTenant, DeleteTenant as DeleteTenant, SetTier as SetTier,
        GetTenant as GetTenant,
        ListTenants as ListTenants, GetSignedMapping as GetSignedMapping, MoveTenant as MoveTenant,
        PreviewMove as PreviewMove, SteerMove as SteerMove, TakeOver as TakeOver, DropQuarantine as DropQuarantine,
         GetMove as GetMove, ListMoves as ListMoves, GetLimits as GetLimits,
        SetLimits as SetLimits, Watch as Watch, ConfirmRevision as ConfirmRevision, ListRouters as ListRouters,
        AwaitSeen as AwaitSeen, ListAudit as ListAudit,
    }
    "cellway.v1.ClusterService" {
        Status as ClusterStatus, Claim as ClusterClaim, Initialize as ClusterInitialize,
    }
    "cellway.v1.StoreService" {
        ListMembers as StoreListMembers, ChangeMembers as StoreChangeMembers, MoveLeader as StoreMoveLeader,
        DiskStatus as StoreDiskStatus, TakeSnapshot as StoreTakeSnapshot, Backup as StoreBackup,
        Reconcile as StoreReconcile, Note as StoreNote,
    }
    "cellway.v1.RaftService" {
        Append as RaftAppend, AppendStream as RaftAppendStream, Vote as RaftVote,
        InstallSnapshot as RaftInstallSnapshot, TransferLeader as RaftTransferLeader,
        SnapshotProgress as RaftSnapshotProgress,
    }
    "cellway.v1.AgentService" {
        Run as AgentRun, Follow as AgentFollow, Attach as AgentAttach, Describe as AgentDescribe,
        ReadTail as AgentReadTail,
    }
    "grpc.health.v1.Health" { Check as HealthCheck, List as HealthList, Watch as HealthWatch }
    "grpc.reflection.v1.ServerReflection" { ServerReflectionInfo as Reflection }
}

impl Rpc {
    /// The RPC of this path, if there is one.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rpc| rpc.path() == path)
    }

    /// The roles that may call it. This is the whole of the rule: who is not named here is refused.
    #[must_use]
    pub const fn callers(self) -> &'static [Role] {
        use Role::{Admin, Agent, Control, Operator, Router, Viewer};
        match self {
            Self::ListTenants
            | Self::ListMoves
            | Self::GetMove
            | Self::GetTenant
            | Self::ListCells
            | Self::GetCell
            | Self::GetLimits
            | Self::ListRouters
            | Self::StoreListMembers
            | Self::StoreDiskStatus
            | Self::AwaitSeen
            | Self::PreviewMove
            | Self::ListAudit => &[Viewer, Operator, Admin],
            Self::Watch | Self::ConfirmRevision => &[Viewer, Operator, Admin, Router],
            Self::GetSignedMapping => &[Viewer, Operator, Admin, Agent],
            Self::CreateTenant
            | Self::DeleteTenant
            | Self::SetTier
            | Self::MoveTenant
            | Self::SteerMove
            | Self::TakeOver
            | Self::DropQuarantine
            | Self::SetCellState => &[Operator, Admin],
            // These are rows of a tenant.
            Self::AgentReadTail => &[Operator, Admin],
            Self::StoreMoveLeader | Self::StoreTakeSnapshot => &[Operator, Admin],
            // Who may change members may take the quorum away; a backup holds everything.
            Self::CreateCell
            | Self::DeclareCell
            | Self::SetLimits
            | Self::ClusterClaim
            | Self::ClusterInitialize
            | Self::StoreChangeMembers
            | Self::StoreReconcile
            | Self::StoreBackup => &[Admin],
            Self::ReportCell => &[Agent],
            Self::ClusterStatus => &[Viewer, Operator, Admin, Router, Agent, Control],
            Self::RaftAppend
            | Self::RaftAppendStream
            | Self::RaftVote
            | Self::RaftInstallSnapshot
            | Self::RaftSnapshotProgress
            | Self::RaftTransferLeader => &[Control],
            Self::AgentRun | Self::StoreNote => &[Control],
            Self::AgentDescribe => &[Viewer, Operator, Admin, Control],
            Self::AgentFollow | Self::AgentAttach => &[Agent],
            Self::HealthCheck | Self::HealthList | Self::HealthWatch => &Role::ALL,
            Self::Reflection => &[Viewer, Operator, Admin],
        }
    }

    /// Whether a role may call it.
    #[must_use]
    pub fn allows(self, role: Role) -> bool {
        self.callers().contains(&role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_reads_back_what_it_prints_and_anything_else_is_named() {
        let alice = Principal::new(Role::Operator, "alice@example.com").unwrap();
        assert_eq!(alice.uri(), "spiffe://cellway/operator/alice@example.com");
        assert_eq!(Principal::of_uri(&alice.uri()), Ok(alice.clone()));
        assert_eq!(alice.to_string().parse(), Ok(alice));
        for bad in ["spiffe://elsewhere/operator/a", "operator", "", "spiffe://cellway/"] {
            assert!(Principal::of_uri(bad).is_err(), "{bad}");
        }
        for bad in ["root/alice", "operator/", "operator/a b", "operator/a/b", "operator/é", "operator/a\n"] {
            assert!(bad.parse::<Principal>().is_err(), "{bad:?}");
        }
        assert!(Principal::new(Role::Viewer, "x".repeat(64)).is_err());
    }

    #[test]
    fn a_path_reads_back_and_an_unknown_one_is_no_rpc() {
        for rpc in Rpc::ALL {
            assert_eq!(Rpc::of_path(rpc.path()), Some(*rpc));
        }
        for bad in ["", "/", "/cellway.v1.ControlService/", "/cellway.v1.ControlService/createcell", "CreateCell"] {
            assert_eq!(Rpc::of_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_human_role_may_what_the_one_below_may() {
        for rpc in Rpc::ALL {
            assert!(!rpc.allows(Role::Viewer) || rpc.allows(Role::Operator), "{rpc:?}");
            assert!(!rpc.allows(Role::Operator) || rpc.allows(Role::Admin), "{rpc:?}");
        }
    }

    #[test]
    fn nobody_but_a_control_node_writes_the_log_or_steps_a_move() {
        let of_control =
            [Rpc::RaftAppend, Rpc::RaftVote, Rpc::RaftInstallSnapshot, Rpc::RaftTransferLeader, Rpc::AgentRun];
        for rpc in of_control {
            assert_eq!(rpc.callers(), [Role::Control], "{rpc:?}");
        }
        for role in [Role::Router, Role::Agent, Role::Viewer] {
            for rpc in [Rpc::CreateTenant, Rpc::MoveTenant, Rpc::SetCellState, Rpc::DeleteTenant] {
                assert!(!rpc.allows(role), "{role} {rpc:?}");
            }
        }
    }
}
