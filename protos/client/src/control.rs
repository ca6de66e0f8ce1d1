//! Commands and reads: to the leader, wherever it is, until a deadline.
//!
//! ```text
//! attempt ──► answer ─────────────────────────────────────────────► done
//!    ▲  ├───► refused with a code ────────────────────────────────► Rejected / Invalid
//!    │  ├───► NOT_LEADER (with the leader's address) ─┐
//!    │  ├───► no connection: surely not run ──────────┼─ pause ─┐
//!    │  └───► anything else: may have run ────────────┘         │
//!    └──────────────── before the deadline ◄────────────────────┤
//!                                                               └► deadline: Unavailable, or Unknown if it may have run
//! ```

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use cell_model::{RequestId, Revision, UnixMillis};
use cell_protos::Malformed;
use cell_protos::v1::control_service_client::ControlServiceClient;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::channel::{Channels, surely_not_sent, tls_refused, told, trailer_of};
use crate::{ClientError, Link, Random, Server, trailer};
use as_of::StaleAnswers;

type Service = ControlServiceClient<Channel>;

mod as_of;
mod reads;
mod writes;

pub use as_of::AsOf;
pub use reads::{AuditPage, Confirmed, ListOptions, Page, RouterReport};
pub use writes::TakeoverWanted;

/// How patient a client is.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// For one call, all its attempts together.
    pub deadline: Duration,
    /// For one attempt on one node.
    pub attempt: Duration,
    /// For an attempt whose work takes long, once there is a connection; none: as for any other.
    pub work: Option<Duration>,
    /// To connect.
    pub connect: Duration,
    /// First and longest pause between attempts; it doubles in between, with jitter.
    pub retry: (Duration, Duration),
    /// Read from whichever node answers, without asking the leader.
    pub allow_stale: bool,
    /// Never call a leader at the address that another node names: only the endpoints given are called, by turns. For
    /// clients that reach the nodes by other addresses than those that the nodes advertise, as through a proxy.
    pub only_given_endpoints: bool,
    /// Over which link the nodes are called.
    pub link: Link,
    /// Where request ids and jitter come from.
    pub random: Random,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            attempt: Duration::from_secs(2),
            work: None,
            connect: Duration::from_secs(1),
            retry: (Duration::from_millis(20), Duration::from_millis(250)),
            allow_stale: false,
            only_given_endpoints: false,
            link: Link::default(),
            random: Random::default(),
        }
    }
}

impl ClientOptions {
    /// The usual patience, over this link, with the random numbers of its machine.
    #[must_use]
    pub fn over(link: Link) -> Self {
        Self { random: link.random(), link, ..Self::default() }
    }

    /// The wall clock of this machine,
    pub(crate) fn now(&self) -> UnixMillis {
        let since = self.link.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// and as it was some time ago.
    fn before(&self, ago: Duration) -> UnixMillis {
        UnixMillis(self.now().get().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// What goes along with one write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// The name of an earlier try of the same write; without one a new name is made.
    pub request_id: Option<RequestId>,
    /// When that one was made, by this machine's clock. Where it is known, a write that may have run longer ago than answers
    /// are remembered is refused rather than run twice.
    pub first_tried: Option<UnixMillis>,
    /// Refused unless the record is still at this revision.
    pub expected_revision: Option<Revision>,
}

/// A client of the control plane. Cheap to clone; clones share connections and what they know of the leader.
#[derive(Debug, Clone)]
pub struct ControlClient {
    pub(crate) options: ClientOptions,
    pub(crate) channels: Channels,
    nodes: Arc<Nodes>,
    stale: StaleAnswers,
}

/// What kind of call it is: whether it may be tried again, and what an unclear end means.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Changes nothing, or the same however often it is run.
    Repeatable,
    /// Runs once, by its name. `again`: an earlier try of it may have run, so long ago as far as that is known.
    Write { id: RequestId, again: bool, tried_ago: Option<Duration> },
}

impl Kind {
    /// How long ago it was tried first, where this attempt is not the first one.
    fn tried_ago(self, is_first: bool, since: Duration) -> Option<Duration> {
        match self {
            Self::Write { tried_ago: Some(ago), .. } => Some(ago.saturating_add(since)),
            Self::Write { tried_ago: None, again: false, .. } if !is_first => Some(since),
            Self::Write { .. } | Self::Repeatable => None,
        }
    }
}

impl ControlClient {
    /// A client of the nodes at `endpoints`, each `host:port`. Connects when it is used.
    #[must_use]
    pub fn new(endpoints: Vec<String>, options: ClientOptions) -> Self {
        let channels = Channels::new(options.link.clone(), Server::Control, options.connect);
        let nodes = Arc::new(Nodes::new(endpoints, options.only_given_endpoints));
        Self { channels, nodes, options, stale: StaleAnswers::default() }
    }

    /// The same client, but reading from whichever node answers.
    #[must_use]
    pub fn allowing_stale_reads(mut self) -> Self {
        self.options.allow_stale = true;
        self
    }

    /// The same client, no more patient than this.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.options.deadline = self.options.deadline.min(deadline);
        self
    }

    /// What its stale answers were as of, node by node.
    #[must_use]
    pub fn stale_answers(&self) -> Vec<AsOf> {
        self.stale.all()
    }

    /// The endpoints that it was made with.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.nodes.endpoints
    }

    /// The node to be tried next.
    pub(crate) fn next_node(&self) -> Option<String> {
        self.nodes.next()
    }

    pub(crate) fn avoid_node(&self, node: &str) {
        self.nodes.avoid(node);
    }

    pub(crate) async fn call<Req, Res, F, Fut>(
        &self,
        kind: Kind,
        request: Req,
        method: F,
    ) -> Result<Res, ClientError>
    where
        Req: Clone,
        F: Fn(ControlServiceClient<Channel>, Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        self.call_on(kind, request, |channel, request| method(ControlServiceClient::new(channel), request)).await
    }

    /// As [`Self::call`], for any service of the control nodes.
    pub(crate) async fn call_on<Req, Res, F, Fut>(
        &self,
        kind: Kind,
        request: Req,
        method: F,
    ) -> Result<Res, ClientError>
    where
        Req: Clone,
        F: Fn(Channel, Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let begun = Instant::now();
        let deadline = begun + self.options.deadline;
        let mut progress = Progress::of(kind);
        let mut pause = self.options.retry.0;
        let mut is_first = true;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(node) = self.nodes.next().filter(|_| !left.is_zero()) else {
                let ago = kind.tried_ago(false, begun.elapsed());
                return Err(progress.give_up(ago.map(|ago| self.options.before(ago))));
            };
            let tried_ago = kind.tried_ago(std::mem::take(&mut is_first), begun.elapsed());
            let patience = self.options.work.unwrap_or_else(|| left.min(self.options.attempt));
            let answer = match self.channels.to(&node) {
                Ok(channel) => {
                    let mut attempt = Request::new(request.clone());
                    attempt.set_timeout(patience);
                    if let Some(ago) = tried_ago {
                        let millis = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
                        attempt.metadata_mut().insert(trailer::TRIED_AGO, millis.into());
                    }
                    // Slightly longer than the server is told, so that its own answer wins.
                    let patience = patience + Duration::from_millis(20);
                    tokio::time::timeout(patience, method(channel, attempt)).await
                }
                Err(status) => Ok(Err(status)),
            };
            match answer {
                Ok(Ok(response)) => {
                    self.stale.note(&node, response.metadata());
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => {
                    if let Some(error) = progress.failed(&node, &status, &self.channels) {
                        return Err(error);
                    }
                    self.nodes.learn(&node, &status);
                }
                Err(_) => {
                    progress.may_have_run = true;
                    progress.last = format!("{node} has not answered within {patience:?}");
                    self.nodes.avoid(&node);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::time::sleep(self.options.random.jitter(pause).min(left)).await;
            pause = (pause * 2).min(self.options.retry.1);
        }
    }
}

/// What is known of a call so far.
struct Progress {
    kind: Kind,
    may_have_run: bool,
    last: String,
}

impl Progress {
    fn of(kind: Kind) -> Self {
        let may_have_run = matches!(kind, Kind::Write { again: true, .. });
        Self { kind, may_have_run, last: "no endpoint is given".into() }
    }

    /// Takes a failed attempt into account; an error where no other attempt would end better.
    fn failed(&mut self, node: &str, status: &Status, channels: &Channels) -> Option<ClientError> {
        let code = trailer_of(status, trailer::CODE);
        let hint = trailer_of(status, trailer::HINT);
        let message = status.message().to_owned();
        match status.code() {
            _ if code == trailer::NOT_LEADER => {
                self.last = format!("{node}: {message}");
                None
            }
            _ if code == trailer::OUTCOME_UNKNOWN => {
                self.may_have_run = true;
                self.last = format!("{node}: {message}");
                None
            }
            // Only people make room; trying on until the deadline would hide from them what is wrong.
            _ if code == trailer::DISK_FULL && !self.may_have_run => {
                Some(ClientError::Rejected { code, message: format!("{node}: {message}"), hint })
            }
            // Surely not run, by the word of the node.
            Code::Unavailable | Code::ResourceExhausted if !code.is_empty() => {
                self.last = format!("{node}: {message}");
                None
            }
            Code::InvalidArgument | Code::Unimplemented if code.is_empty() || code == Malformed::CODE => {
                let hint = if hint.is_empty() { "correct the request".into() } else { hint };
                Some(ClientError::Invalid { message, hint })
            }
            _ if !code.is_empty() => Some(ClientError::Rejected { code, message, hint }),
            _ if tls_refused(status) => Some(ClientError::Rejected {
                code: "TLS_REFUSED".into(),
                message: format!("{node}: {}", told(status)),
                hint: "both sides need certificates of one authority, or both none: look at --identity and --insecure-plaintext"
                    .into(),
            }),
            _ => {
                self.may_have_run |= !surely_not_sent(status);
                self.last = format!("{node}: {}", channels.told(status));
                None
            }
        }
    }

    fn give_up(self, first_tried: Option<UnixMillis>) -> ClientError {
        match self.kind {
            Kind::Write { id, .. } if self.may_have_run => {
                ClientError::Unknown { request_id: Some(id), first_tried, reason: self.last }
            }
            Kind::Write { .. } | Kind::Repeatable => ClientError::Unavailable { reason: self.last },
        }
    }
}

/// The nodes that are known, and the one that is thought to lead.
#[derive(Debug)]
struct Nodes {
    endpoints: Vec<String>,
    only_given: bool,
    state: Mutex<NodesState>,
}

#[derive(Debug, Default)]
struct NodesState {
    leader: Option<String>,
    at: usize,
}

impl Nodes {
    fn new(endpoints: Vec<String>, only_given: bool) -> Self {
        Self { endpoints, only_given, state: Mutex::default() }
    }

    fn next(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let by_turn = || self.endpoints.get(state.at % self.endpoints.len().max(1)).cloned();
        state.leader.clone().or_else(by_turn)
    }

    /// Tries another one next time.
    fn avoid(&self, node: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.leader.as_deref() == Some(node) {
            state.leader = None;
        }
        // Another call may have gone on already.
        let len = self.endpoints.len().max(1);
        if self.endpoints.get(state.at % len).is_some_and(|at| at == node) {
            state.at = (state.at + 1) % len;
        }
    }

    /// What a failed attempt says about who leads.
    fn learn(&self, node: &str, status: &Status) {
        let leader = trailer_of(status, trailer::LEADER);
        let is_stranger = self.only_given && !self.endpoints.contains(&leader);
        if leader.is_empty() || leader == node || is_stranger {
            self.avoid(node);
        } else {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).leader = Some(leader);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels() -> Channels {
        Channels::new(Link::Plaintext, Server::Control, Duration::from_secs(1))
    }

    fn refused(code: Code, said: &str) -> Status {
        let mut status = Status::new(code, "125 MiB are free");
        status.metadata_mut().insert(trailer::CODE, said.parse().unwrap());
        status
    }

    #[test]
    fn a_full_disk_is_told_at_once_unless_an_earlier_attempt_may_have_run() {
        let progress = |again| Progress::of(Kind::Write { id: RequestId(7), again, tried_ago: None });
        let full = refused(Code::ResourceExhausted, trailer::DISK_FULL);
        let error = progress(false).failed("n1", &full, &channels()).expect("it is told");
        assert_eq!((error.code(), error.to_string().as_str()), (trailer::DISK_FULL, "n1: 125 MiB are free"));
        let mut unsure = progress(true);
        assert_eq!(unsure.failed("n1", &full, &channels()), None);
        assert_eq!(unsure.give_up(None).code(), trailer::OUTCOME_UNKNOWN);
        let busy = refused(Code::ResourceExhausted, "STORE_BUSY");
        assert_eq!(progress(false).failed("n1", &busy, &channels()), None, "that passes by itself");
    }

    #[test]
    fn a_try_that_is_not_the_first_says_how_long_ago_that_one_was() {
        let ms = Duration::from_millis;
        let kind = |again, tried_ago| Kind::Write { id: RequestId(7), again, tried_ago };
        assert_eq!(kind(false, None).tried_ago(true, ms(0)), None);
        assert_eq!(kind(false, None).tried_ago(false, ms(30)), Some(ms(30)));
        assert_eq!(
            kind(true, Some(ms(500))).tried_ago(true, ms(0)),
            Some(ms(500)),
            "the try of an earlier command"
        );
        assert_eq!(kind(true, Some(ms(500))).tried_ago(false, ms(30)), Some(ms(530)));
        assert_eq!(kind(true, None).tried_ago(false, ms(30)), None, "nobody knows");
        assert_eq!(Kind::Repeatable.tried_ago(false, ms(30)), None);
    }

    #[test]
    fn a_leader_that_no_majority_confirms_is_asked_again_and_has_not_run_it() {
        let id = RequestId(7);
        for code in [Code::Unavailable, Code::FailedPrecondition] {
            let said = if code == Code::Unavailable { "NO_QUORUM" } else { trailer::NOT_LEADER };
            let mut progress = Progress::of(Kind::Write { id, again: false, tried_ago: None });
            assert_eq!(progress.failed("n1", &refused(code, said), &channels()), None);
            assert!(matches!(progress.give_up(None), ClientError::Unavailable { .. }), "{said}");
        }
    }
}
