//! What a router is told when it starts: a TOML file, every value with a default but the few that nobody can guess.

mod duration;
mod edge;
mod flow;
mod ground;
mod place;
mod rules;
mod telemetry;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cell_client::Link;
use cell_trust::{PublicKey, Role, TrustedKeys};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::identify::{Domains, IdentityRules};
use crate::strict::HeadLimits;
use crate::token::TokenRules;

pub use edge::{
    CertificateFiles, ContextOptions, IdentityOptions, Source, TlsOptions, TokenOptions, UpstreamOptions,
    UpstreamProtocol, UpstreamTlsOptions,
};

pub use flow::{Containment, Dependency, Fairness, Instances, Policy, Tiers};
pub use place::OptionsFile;
pub use telemetry::{SpanOptions, UsageOptions};

/// Everything that a router is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Its name, in the control plane's list of watchers and in logs.
    pub name: String,
    /// Where clients connect. Port 0: any free one.
    pub listen: SocketAddr,
    /// Where `/livez`, `/readyz`, `/metrics` and `/debug` are served.
    pub admin_listen: SocketAddr,
    /// `host:port` of the control plane's nodes.
    pub control: Vec<String>,
    /// Call the control plane at these addresses only, never at the one that a node names as the leader's: where the
    /// nodes are reached through a proxy.
    pub only_given_control: bool,
    /// Directory with ca.crt, tls.crt and tls.key of role router, shown to the control plane.
    pub identity: Option<PathBuf>,
    /// Call the control plane without certificates.
    pub insecure_plaintext: bool,
    /// Public keys of the control plane, in hex: whose mappings are believed.
    pub trusted_keys: Vec<String>,
    /// Base domains: `<tenant>.<domain>` names a tenant. May be empty: then only the header does.
    pub domains: Vec<String>,
    /// Where the table is kept, so that a router starts with the control plane dead. None: nowhere.
    pub snapshot_file: Option<PathBuf>,
    /// Where a new process asks for the listening sockets, so that a restart drops nothing. None: it cannot.
    pub handover_socket: Option<PathBuf>,
    /// Where a line of JSON is written for each request. None: nowhere.
    pub access_log: Option<PathBuf>,
    /// Whether paths are written there with their query, which often has what is secret.
    pub access_log_query: bool,
    /// Threads that serve requests. 0: one for each core.
    pub threads: usize,
    /// What names a request's tenant.
    pub tenant: IdentityOptions,
    /// How cells are spoken to.
    pub upstream: UpstreamOptions,
    /// The signed context for gates and applications. None: there is none.
    pub context: Option<ContextOptions>,
    /// TLS towards clients. None: in the clear.
    pub tls: Option<TlsOptions>,
    /// How much of anything.
    pub limits: Limits,
    /// How long anything.
    pub timeouts: Timeouts,
    /// Who may ask how much, and who is next.
    pub fairness: Fairness,
    /// What is left alone when it fails.
    pub containment: Containment,
    /// Which instance of a cell a request goes to.
    pub instances: Instances,
    /// What tenants use is counted and kept until it is collected. Absent: it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageOptions>,
    /// Spans of some requests. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spans: Option<SpanOptions>,
    /// Where these were read.
    #[serde(skip)]
    pub file: Option<OptionsFile>,
}

/// How much of anything. Counts are for the whole process unless they say otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request body.
    pub body_bytes_max: u64,
    /// What a client has to send of a body in a second on an average, in bytes, once it had `timeouts.body-idle`. Until then,
    /// and of gRPC, anything goes. 0: always.
    pub body_rate_min: u64,
    /// How much of a request body is kept while it is forwarded, so that it can be sent again.
    pub replay_bytes_max: usize,
    /// Largest head of a request; at least 8,192.
    pub header_bytes_max: usize,
    /// Most header fields of a request.
    pub headers_max: usize,
    /// Most client connections.
    pub connections_max: usize,
    /// Most streams at once on one HTTP/2 connection.
    pub streams_max: u32,
    /// Most WebSockets of one tenant.
    pub tunnels_per_tenant_max: usize,
    /// Most WebSockets.
    pub tunnels_max: usize,
    /// Most requests of one tenant that wait for its move.
    pub held_per_tenant_max: usize,
    /// Most requests that wait for moves.
    pub held_max: usize,
    /// Requests that each thread remembers, for `/debug/request/<id>`.
    pub remembered_requests: usize,
    /// Most connections of one thread to one instance of a cell.
    pub connections_per_instance_max: usize,
    /// Idle connections of one thread to one instance that are kept.
    pub idle_per_instance_max: usize,
}

/// How long anything.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Timeouts {
    /// How long a request may wait for a move, all its waits and replays together.
    #[serde(with = "duration")]
    pub hold: Duration,
    /// How long connecting to an instance may take.
    #[serde(with = "duration")]
    pub connect: Duration,
    /// How long a cell may take to begin its answer, counted from the last piece of the request that it took.
    #[serde(with = "duration")]
    pub answer: Duration,
    /// How long a cell may pause within an answer whose length it has told.
    #[serde(with = "duration")]
    pub answer_idle: Duration,
    /// How long a client may pause within a body.
    #[serde(with = "duration")]
    pub body_idle: Duration,
    /// How long a client may take for its TLS handshake.
    #[serde(with = "duration")]
    pub handshake: Duration,
    /// How long a client may take for its first byte, and for a head from its first byte to its last.
    #[serde(with = "duration")]
    pub header: Duration,
    /// How long a client's connection may be idle between requests.
    #[serde(with = "duration")]
    pub idle: Duration,
    /// How long a client may take no piece of its answer.
    #[serde(with = "duration")]
    pub write_idle: Duration,
    /// How long a WebSocket may be silent in both directions.
    #[serde(with = "duration")]
    pub tunnel_idle: Duration,
    /// Over how long the WebSockets and streams of a tenant that moves are ended, so that they do not all come back at once.
    #[serde(with = "duration")]
    pub tunnel_close_spread: Duration,
    /// How long an answer without a length may go on in a cell that its tenant has left.
    #[serde(with = "duration")]
    pub stream_grace: Duration,
    /// How long an idle connection to a cell is kept. Keep it below the cell's own.
    #[serde(with = "duration")]
    pub pool_idle: Duration,
    /// At most so old is a table that may say that a tenant does not exist or that a request must wait.
    #[serde(with = "duration")]
    pub fresh: Duration,
    /// How often the control plane is asked how far it is.
    #[serde(with = "duration")]
    pub confirm_interval: Duration,
    /// At most so often the table is written to its file.
    #[serde(with = "duration")]
    pub snapshot_interval: Duration,
    /// After the signal to stop: how long new connections are still taken, while readiness says no.
    #[serde(with = "duration")]
    pub quiesce_min: Duration,
    /// After the signal to stop: when requests in flight are cut.
    #[serde(with = "duration")]
    pub quiesce_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "router".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            control: Vec::new(),
            only_given_control: false,
            identity: None,
            insecure_plaintext: false,
            trusted_keys: Vec::new(),
            domains: Vec::new(),
            snapshot_file: None,
            handover_socket: None,
            access_log: None,
            access_log_query: false,
            threads: 0,
            tenant: IdentityOptions::default(),
            upstream: UpstreamOptions::default(),
            context: None,
            tls: None,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            fairness: Fairness::default(),
            containment: Containment::default(),
            instances: Instances::default(),
            usage: None,
            spans: None,
            file: None,
        }
    }
}

impl Limits {
    pub(crate) fn head(&self) -> HeadLimits {
        HeadLimits { bytes_max: self.header_bytes_max, headers_max: self.headers_max }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 8 << 20,
            body_rate_min: 500,
            replay_bytes_max: 256 << 10,
            header_bytes_max: 32 << 10,
            headers_max: 100,
            connections_max: 10_000,
            streams_max: 128,
            tunnels_per_tenant_max: 1_000,
            tunnels_max: 8_000,
            held_per_tenant_max: 1_000,
            held_max: 10_000,
            remembered_requests: 1_024,
            connections_per_instance_max: 1_024,
            idle_per_instance_max: 128,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(5),
            connect: Duration::from_secs(1),
            answer: Duration::from_secs(30),
            answer_idle: Duration::from_secs(60),
            body_idle: Duration::from_secs(30),
            handshake: Duration::from_secs(5),
            header: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            write_idle: Duration::from_secs(30),
            tunnel_idle: Duration::from_secs(300),
            tunnel_close_spread: Duration::from_millis(200),
            stream_grace: Duration::from_secs(5),
            pool_idle: Duration::from_secs(10),
            fresh: Duration::from_secs(1),
            confirm_interval: Duration::from_millis(250),
            snapshot_interval: Duration::from_secs(5),
            quiesce_min: Duration::from_secs(1),
            quiesce_max: Duration::from_secs(30),
        }
    }
}

/// What the options mean, once they are checked.
pub(crate) struct Checked {
    pub(crate) trusted: TrustedKeys,
    pub(crate) identity: IdentityRules,
    pub(crate) tokens: Option<TokenRules>,
}

impl Options {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`Error::ReadOptions`] where it cannot be read, [`Error::ParseOptions`] with line and column where it cannot be
    /// understood.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::ReadOptions { path: path.to_owned(), source })?;
        let read: Result<Self, _> = toml::from_str(&text);
        let read =
            read.map_err(|source| Error::ParseOptions { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Self { file: Some(OptionsFile::new(path, text)), ..read })
    }

    /// Checks everything that a start or a reload would refuse, but the ports: the certificates and keys that are named, and
    /// where the router writes.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], naming the option, the rule that it breaks, and file and line where they were read from one;
    /// [`Error::Certificate`], [`Error::ContextKey`], [`Error::Usage`] and [`Error::Spans`], naming the file.
    pub fn check(&self) -> Result<(), Error> {
        self.checked()?;
        for worry in ground::check(self).map_err(|error| self.located(error))? {
            tracing::warn!("{worry}");
        }
        self.usage.as_ref().map_or(Ok(()), |usage| usage.collectors().map(drop)).map_err(|e| self.located(e))?;
        if let Some(spans) = &self.spans {
            crate::observe::spans::check(spans).map_err(|reason| Error::Spans { reason })?;
        }
        if let Some(token) = &self.tenant.token {
            crate::token::check_origin(token)?;
        }
        crate::router::Edge::load(self).map(drop)
    }

    /// What [`Options::check`] checks, whether the ports are free, who the router is to the control plane, and the files that it
    /// can start without or with whatever is in them. What is odd and refused by nobody is logged.
    ///
    /// # Errors
    /// As [`Options::check`]; [`Error::Listen`]; [`Error::Identity`] and [`Error::KeySet`], naming the file and where in it.
    pub fn check_all(&self) -> Result<(), Error> {
        self.check()?;
        ground::ports(self)?;
        let link = Link::open(self.identity.as_deref(), self.insecure_plaintext)?;
        link.identity().map_or(Ok(()), |identity| identity.require(Role::Router))?;
        let worries = crate::tls::worries::all(self.tls.as_ref(), self.upstream.tls.as_ref());
        if let Some(source) = worries.into_iter().next() {
            return Err(Error::Certificate { source });
        }
        self.tenant.token.as_ref().map_or(Ok(()), crate::token::check)
    }

    /// What the options mean, where nothing is wrong with them or with where the router is to write.
    pub(crate) fn checked(&self) -> Result<Checked, Error> {
        let meaning = self.meaning().and_then(|checked| ground::check(self).map(|_worries| checked));
        meaning.map_err(|error| self.located(error))
    }

    fn meaning(&self) -> Result<Checked, Error> {
        let invalid = |option: &str, rule: String| Error::InvalidOption { option: option.to_owned(), rule };
        if self.name.is_empty() {
            return Err(invalid("name", "must not be empty".into()));
        }
        if self.control.is_empty() {
            return Err(invalid("control", "at least one host:port of a control node is needed".into()));
        }
        for endpoint in &self.control {
            check_endpoint(endpoint).map_err(|rule| invalid("control", rule))?;
        }
        if self.trusted_keys.is_empty() {
            return Err(invalid("trusted-keys", "at least one public key of the control plane is needed".into()));
        }
        let keys: Vec<PublicKey> = self
            .trusted_keys
            .iter()
            .map(|key| key.parse().map_err(|error| invalid("trusted-keys", format!("{key:?}: {error}"))))
            .collect::<Result<_, _>>()?;
        let domains = Domains::new(&self.domains)
            .map_err(|domain| invalid("domains", format!("{domain:?} is not a domain")))?;
        let broken = rules::broken(self).or_else(|| self.fairness.broken()).or_else(|| self.containment.broken());
        let broken = broken.or_else(|| self.instances.broken());
        let broken = broken.or_else(|| telemetry::broken(self.usage.as_ref(), self.spans.as_ref()));
        if let Some((option, rule)) = broken {
            return Err(Error::InvalidOption { option, rule });
        }
        let name = self.upstream.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
        if let Some(name) = name.filter(|name| ServerName::try_from(name.as_str()).is_err()) {
            return Err(invalid("upstream.tls.server-name", format!("{name:?} is not a host name or an address")));
        }
        let broken = |(option, rule): (&str, String)| invalid(option, rule);
        let authority = self.tls.as_ref().and_then(|tls| tls.client_ca_file.as_ref());
        if authority.is_none() && self.tls.as_ref().is_some_and(|tls| tls.client_certificate_required) {
            let rule =
                "is needed where tls.client-certificate-required is set: without it no client is asked for one";
            return Err(invalid("tls.client-ca-file", rule.into()));
        }
        if authority.is_none() && self.tenant.order.contains(&Source::Certificate) {
            let rule = "is needed where tenant.order lists certificate: without it no client is asked for one";
            return Err(invalid("tls.client-ca-file", rule.into()));
        }
        let identity = IdentityRules::new(&self.tenant, domains).map_err(broken)?;
        let tokens = self.tenant.token.as_ref().map(TokenRules::new).transpose().map_err(broken)?;
        Ok(Checked { trusted: TrustedKeys::new(keys), identity, tokens })
    }

    /// Threads that serve requests.
    pub(crate) fn worker_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(rules::THREADS_MAX),
            threads => threads,
        }
    }
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let port = endpoint.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(1..)) => Ok(()),
        _ => Err(format!("{endpoint:?} is not host:port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> Options {
        let key = cell_trust::SigningKey::from_bytes(&[7; 32]).public().to_string();
        Options { control: vec!["c1:7400".into()], trusted_keys: vec![key], ..Options::default() }
    }

    #[test]
    fn a_file_that_says_little_gets_the_defaults() {
        let options: Options = toml::from_str("listen = \"0.0.0.0:80\"\n[timeouts]\nhold = \"3s\"").unwrap();
        assert_eq!(options.timeouts.hold, Duration::from_secs(3));
        assert_eq!(options.timeouts.connect, Duration::from_secs(1));
        assert_eq!(options.limits.held_per_tenant_max, 1_000);
    }

    #[test]
    fn what_is_written_reads_back() {
        let options = usable();
        let text = toml::to_string(&options).unwrap();
        let again: Options = toml::from_str(&text).unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), text);
    }

    #[test]
    fn a_mistyped_option_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("router.toml");
        std::fs::write(&path, "name = \"r\"\nlisen = \"127.0.0.1:1\"\n").unwrap();
        let error = Options::from_file(&path).unwrap_err();
        assert_eq!(error.code(), "OPTIONS_INVALID");
        let text = format!("{error}");
        assert!(text.contains("line 2") && text.contains("lisen"), "{text}");
    }

    #[test]
    fn each_broken_rule_names_its_option() {
        usable().check().unwrap();
        type Breaks = fn(&mut Options);
        let broken: [(&str, Breaks); 11] = [
            ("name", |o| o.name.clear()),
            ("control", |o| o.control.clear()),
            ("control", |o| o.control = vec!["no-port".into()]),
            ("trusted-keys", |o| o.trusted_keys = vec!["xyz".into()]),
            ("domains", |o| o.domains = vec!["not a domain".into()]),
            ("domains", |o| o.tenant.order = vec![Source::Host]),
            ("containment.retry-percent", |o| o.containment.retry_percent = 101),
            ("upstream.tls.server-name", |o| {
                let tls = "ca-file = \"ca.pem\"\nserver-name = \"bad name!\"";
                o.upstream.tls = Some(toml::from_str(tls).unwrap());
            }),
            ("tls.client-ca-file", |o| o.tenant.order = vec![Source::Certificate, Source::Host]),
            ("limits.header-bytes-max", |o| o.limits.header_bytes_max = 10),
            ("timeouts.quiesce-max", |o| o.timeouts.quiesce_max = Duration::ZERO),
        ];
        for (option, breaks) in broken {
            let mut options = usable();
            breaks(&mut options);
            let error = options.check().unwrap_err();
            assert!(error.to_string().starts_with(&format!("option {option}:")), "{error}");
        }
    }

    #[test]
    fn a_certificate_is_not_required_of_clients_that_are_never_asked_for_one() {
        let mut options = usable();
        let files = "{ certificate-file = \"a\", key-file = \"b\" }";
        let tls = format!("certificates = [{files}]\nclient-certificate-required = true");
        options.tls = Some(toml::from_str(&tls).unwrap());
        let error = options.check().unwrap_err().to_string();
        assert!(
            error.starts_with("option tls.client-ca-file: is needed where tls.client-certificate-required"),
            "{error}"
        );
    }
}
