//! The rules of numbers, times, addresses and paths, whatever the machine.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::Options;
use super::flow::rule;
use crate::handover::SOCKETS_MAX;

/// Threads that one router has at the most: so many listening sockets can be handed over, beside the one for operators.
pub(super) const THREADS_MAX: usize = SOCKETS_MAX - 1;
/// Of one request, held while it is read; and fields, of which the library holds no more than 32,768.
const HEADER_BYTES: (u64, u64) = (8_192, 1 << 20);
const HEADERS_MAX: u64 = 10_000;
/// Tenants' places are counted in 24 bits.
const CONCURRENCY_MAX: u64 = 1_000_000;
/// Records are some hundred bytes each.
const REMEMBERED_MAX: u64 = 1_000_000;
const ANY: u64 = u64::MAX;
/// What comes again and again does not come more often: it would do nothing else.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Nobody means more, and a clock cannot count much more.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3_600);

/// The first rule that is broken, with its option.
pub(super) fn broken(options: &Options) -> Option<(String, String)> {
    counts(options)
        .or_else(|| times(options))
        .or_else(|| addresses(options.listen, options.admin_listen))
        .or_else(|| one_path_twice(options))
        .or_else(|| nothing_to_show(options))
}

fn counts(options: &Options) -> Option<(String, String)> {
    let (limits, fairness) = (&options.limits, &options.fairness);
    let bounded = [
        ("threads", options.threads as u64, 0, THREADS_MAX as u64),
        ("limits.body-bytes-max", limits.body_bytes_max, 1, ANY),
        ("limits.header-bytes-max", limits.header_bytes_max as u64, HEADER_BYTES.0, HEADER_BYTES.1),
        ("limits.headers-max", limits.headers_max as u64, 1, HEADERS_MAX),
        ("limits.connections-max", limits.connections_max as u64, 1, ANY),
        ("limits.streams-max", u64::from(limits.streams_max), 1, ANY),
        ("limits.tunnels-per-tenant-max", limits.tunnels_per_tenant_max as u64, 1, ANY),
        ("limits.tunnels-max", limits.tunnels_max as u64, 1, ANY),
        ("limits.held-per-tenant-max", limits.held_per_tenant_max as u64, 1, ANY),
        ("limits.held-max", limits.held_max as u64, 1, ANY),
        ("limits.remembered-requests", limits.remembered_requests as u64, 0, REMEMBERED_MAX),
        ("limits.connections-per-instance-max", limits.connections_per_instance_max as u64, 1, ANY),
        ("limits.idle-per-instance-max", limits.idle_per_instance_max as u64, 1, ANY),
        ("fairness.cell-concurrency-initial", u64::from(fairness.cell_concurrency_initial), 1, CONCURRENCY_MAX),
        ("fairness.cell-concurrency-max", u64::from(fairness.cell_concurrency_max), 0, CONCURRENCY_MAX),
        ("fairness.queue-per-tenant-max", fairness.queue_per_tenant_max as u64, 1, ANY),
        ("fairness.queue-per-cell-max", fairness.queue_per_cell_max as u64, 1, ANY),
    ];
    bounded.into_iter().find_map(|(option, value, least, most)| {
        if value < least {
            rule(option, &format!("must be at least {least}"))
        } else if value > most {
            rule(option, &format!("must be at most {most}"))
        } else {
            None
        }
    })
}

/// How short a time may be.
enum Least {
    /// Nothing: at once, or never, as the option says.
    Nothing,
    More,
    Interval,
    /// Nothing for never, or else as an interval.
    NeverOrInterval,
}

fn times(options: &Options) -> Option<(String, String)> {
    use Least::{Interval, More, NeverOrInterval, Nothing};
    let (times, fairness, containment) = (&options.timeouts, &options.fairness, &options.containment);
    let instances = &options.instances;
    let mut all = vec![
        ("timeouts.hold", times.hold, More),
        ("timeouts.connect", times.connect, More),
        ("timeouts.answer", times.answer, More),
        ("timeouts.answer-idle", times.answer_idle, More),
        ("timeouts.body-idle", times.body_idle, More),
        ("timeouts.handshake", times.handshake, More),
        ("timeouts.header", times.header, More),
        ("timeouts.idle", times.idle, More),
        ("timeouts.write-idle", times.write_idle, More),
        ("timeouts.tunnel-idle", times.tunnel_idle, More),
        ("timeouts.tunnel-close-spread", times.tunnel_close_spread, Nothing),
        ("timeouts.stream-grace", times.stream_grace, Nothing),
        ("timeouts.pool-idle", times.pool_idle, More),
        ("timeouts.fresh", times.fresh, More),
        ("timeouts.confirm-interval", times.confirm_interval, Interval),
        ("timeouts.snapshot-interval", times.snapshot_interval, Interval),
        ("timeouts.quiesce-min", times.quiesce_min, Nothing),
        ("timeouts.quiesce-max", times.quiesce_max, Nothing),
        ("fairness.cell-latency-slack", fairness.cell_latency_slack, Nothing),
        ("fairness.queue-wait", fairness.queue_wait, Nothing),
        ("containment.breaker-window", containment.breaker_window, Nothing),
        ("containment.breaker-open", containment.breaker_open, Nothing),
        ("containment.breaker-open-max", containment.breaker_open_max, Nothing),
        ("instances.eject", instances.eject, Nothing),
        ("instances.eject-max", instances.eject_max, Nothing),
        ("instances.slow-start", instances.slow_start, Nothing),
        ("instances.check-interval", instances.check_interval, NeverOrInterval),
        ("instances.check-timeout", instances.check_timeout, Nothing),
    ];
    if let Some(tls) = &options.tls {
        all.push(("tls.reload-interval", tls.reload_interval, Interval));
    }
    if let Some(token) = &options.tenant.token {
        all.push(("tenant.token.leeway", token.leeway, Nothing));
        all.push(("tenant.token.refresh-interval", token.refresh_interval, Interval));
        all.push(("tenant.token.refresh-min-interval", token.refresh_min_interval, Interval));
    }
    if let Some(context) = &options.context {
        all.push(("context.validity", context.validity, More));
        if context.validity < Duration::from_secs(2) {
            return rule("context.validity", "must be at least 2s");
        }
    }
    if let Some(usage) = &options.usage {
        all.push(("usage.interval", usage.interval, More));
    }
    let wrong = all.into_iter().find_map(|(option, time, least)| match least {
        _ if time > LONGEST => rule(option, "must be at most 366days"),
        More if time.is_zero() => rule(option, "must be more than nothing"),
        Interval if time < INTERVAL_MIN => rule(option, "must be at least 10ms"),
        NeverOrInterval if !time.is_zero() && time < INTERVAL_MIN => {
            rule(option, "must be at least 10ms, or 0s for never")
        }
        _ => None,
    });
    if wrong.is_none() && times.quiesce_max < times.quiesce_min {
        return rule("timeouts.quiesce-max", "must not be less than timeouts.quiesce-min");
    }
    wrong
}

/// Clients and operators have a port each.
fn addresses(listen: SocketAddr, admin: SocketAddr) -> Option<(String, String)> {
    let everywhere = |one: SocketAddr, other: SocketAddr| {
        one.ip().is_unspecified() && (one.is_ipv6() || one.is_ipv4() == other.is_ipv4())
    };
    let meet = listen.ip() == admin.ip() || everywhere(listen, admin) || everywhere(admin, listen);
    if listen.port() == 0 || listen.port() != admin.port() || !meet {
        return None;
    }
    let port = listen.port();
    rule("admin-listen", &format!("must have another port than listen: both are {port}, at {listen} and {admin}"))
}

/// Each file that is written is written by one part of the router.
fn one_path_twice(options: &Options) -> Option<(String, String)> {
    let named: [(&str, Option<&Path>); 4] = [
        ("snapshot-file", options.snapshot_file.as_deref()),
        ("handover-socket", options.handover_socket.as_deref()),
        ("access-log", options.access_log.as_deref()),
        ("usage.directory", options.usage.as_ref().map(|usage| usage.directory.as_path())),
    ];
    let named: Vec<_> = named.into_iter().filter_map(|(option, path)| Some((option, path?))).collect();
    named.iter().enumerate().find_map(|(at, (option, path))| {
        let (other, _) = named[..at].iter().find(|(_, other)| other == path)?;
        rule(option, &format!("names the same path as {other}: each needs one of its own"))
    })
}

/// TLS without a certificate.
fn nothing_to_show(options: &Options) -> Option<(String, String)> {
    if options.tls.as_ref().is_none_or(|tls| !tls.certificates.is_empty()) {
        return None;
    }
    let text = "needs at least one, as in [{ certificate-file = \"edge.pem\", key-file = \"edge.key\" }]; \
                leave [tls] out to serve clients in the clear";
    rule("tls.certificates", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{CertificateFiles, TlsOptions, UsageOptions};

    type Breaks = fn(&mut Options);

    fn assert_broken(cases: &[(&str, &str, Breaks)]) {
        assert_eq!(broken(&Options::default()), None);
        for (option, text, breaks) in cases {
            let mut options = Options::default();
            breaks(&mut options);
            let (named, said) = broken(&options).unwrap_or_else(|| panic!("{option} passes"));
            assert_eq!(named, *option);
            assert!(said.contains(text), "{option}: {said}");
        }
    }

    #[test]
    fn a_limit_of_nothing_and_one_beyond_all_use_are_named() {
        assert_broken(&[
            ("threads", "at most 249", |o| o.threads = 100_000),
            ("limits.body-bytes-max", "at least 1", |o| o.limits.body_bytes_max = 0),
            ("limits.header-bytes-max", "at least 8192", |o| o.limits.header_bytes_max = 10),
            ("limits.header-bytes-max", "at most 1048576", |o| o.limits.header_bytes_max = 1 << 30),
            ("limits.headers-max", "at least 1", |o| o.limits.headers_max = 0),
            ("limits.headers-max", "at most 10000", |o| o.limits.headers_max = 100_000),
            ("limits.tunnels-per-tenant-max", "at least 1", |o| o.limits.tunnels_per_tenant_max = 0),
            ("limits.tunnels-max", "at least 1", |o| o.limits.tunnels_max = 0),
            ("limits.held-per-tenant-max", "at least 1", |o| o.limits.held_per_tenant_max = 0),
            ("limits.held-max", "at least 1", |o| o.limits.held_max = 0),
            ("limits.idle-per-instance-max", "at least 1", |o| o.limits.idle_per_instance_max = 0),
            ("fairness.cell-concurrency-initial", "at least 1", |o| o.fairness.cell_concurrency_initial = 0),
            ("fairness.cell-concurrency-max", "at most", |o| o.fairness.cell_concurrency_max = u32::MAX),
            ("fairness.queue-per-tenant-max", "at least 1", |o| o.fairness.queue_per_tenant_max = 0),
            ("fairness.queue-per-cell-max", "at least 1", |o| o.fairness.queue_per_cell_max = 0),
        ]);
        let mut nothing = Options::default();
        (nothing.limits.replay_bytes_max, nothing.limits.body_rate_min) = (0, 0);
        nothing.limits.remembered_requests = 0;
        assert_eq!(broken(&nothing), None, "of these, none is a choice");
    }

    #[test]
    fn a_time_of_nothing_and_one_that_no_clock_counts_are_named() {
        assert_broken(&[
            ("timeouts.hold", "more than nothing", |o| o.timeouts.hold = Duration::ZERO),
            ("timeouts.hold", "at most 366days", |o| o.timeouts.hold = Duration::MAX),
            ("timeouts.pool-idle", "more than nothing", |o| o.timeouts.pool_idle = Duration::ZERO),
            ("timeouts.confirm-interval", "10ms", |o| o.timeouts.confirm_interval = Duration::from_nanos(1)),
            ("timeouts.quiesce-max", "quiesce-min", |o| o.timeouts.quiesce_max = Duration::ZERO),
            ("fairness.queue-wait", "at most", |o| o.fairness.queue_wait = Duration::MAX),
            ("instances.check-interval", "0s for never", |o| {
                o.instances.check_interval = Duration::from_nanos(1);
            }),
        ]);
        let mut never = Options::default();
        never.instances.check_interval = Duration::ZERO;
        (never.timeouts.quiesce_min, never.fairness.queue_wait) = (Duration::ZERO, Duration::ZERO);
        assert_eq!(broken(&never), None);
    }

    #[test]
    fn clients_and_operators_do_not_share_a_port() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (listen, admin, wrong) in [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "127.0.0.1:8080", true),
            ("127.0.0.1:8080", "0.0.0.0:8080", true),
            ("[::]:8080", "127.0.0.1:8080", true),
            ("[::1]:8080", "0.0.0.0:8080", false),
            ("127.0.0.1:8080", "127.0.0.2:8080", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:8080", "127.0.0.1:8081", false),
        ] {
            assert_eq!(addresses(at(listen), at(admin)).is_some(), wrong, "{listen} {admin}");
        }
    }

    #[test]
    fn what_is_written_has_a_path_of_its_own_and_tls_has_a_certificate() {
        assert_broken(&[
            ("access-log", "same path as snapshot-file", |o| {
                o.snapshot_file = Some("/var/lib/router".into());
                o.access_log = Some("/var/lib/./router".into());
            }),
            ("usage.directory", "same path as handover-socket", |o| {
                o.handover_socket = Some("/run/router".into());
                let usage: UsageOptions = toml::from_str("directory = \"/run/router\"").unwrap();
                o.usage = Some(usage);
            }),
            ("tls.certificates", "certificate-file = \"edge.pem\"", |o| {
                o.tls = Some(toml::from_str::<TlsOptions>("certificates = []").unwrap());
            }),
        ]);
        let files = CertificateFiles { certificate_file: "a".into(), key_file: "b".into() };
        let mut tls: TlsOptions = toml::from_str("certificates = []").unwrap();
        tls.certificates.push(files);
        let shown = Options { tls: Some(tls), ..Options::default() };
        assert_eq!(broken(&shown), None);
    }
}
