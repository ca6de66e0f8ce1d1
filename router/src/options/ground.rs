//! What the options name on this machine, before anything is opened: where the router writes, and its ports. A start, a
//! reload and a check look at the same, so that none refuses what another has passed.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};

use super::Options;
use crate::admin::LISTEN_HEADER;
use crate::fair::fleet;
use crate::{Error, listen};

/// A local socket's path has 107 bytes, of which the process that listens needs some for a name of its own at first.
const SOCKET_PATH_BYTES_MAX: usize = 96;
/// What one needs in a directory to make something there, and to list it as well.
const MAKE: Access = Access::WRITE_OK.union(Access::EXEC_OK);
const ALL: Access = MAKE.union(Access::READ_OK);
/// How long a router that runs takes to say so.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// Of what its head takes.
const HEAD_BYTES_MAX: u64 = 4 << 10;

/// Where the router writes: each is there, or can be made, as what it has to be. Answers what is wrong now and is the disk's
/// fault, not the options': the router serves all the same.
pub(super) fn check(options: &Options) -> Result<Vec<String>, Error> {
    let mut worries = Vec::new();
    if let Some(path) = &options.handover_socket {
        socket(path).map_err(|rule| invalid("handover-socket", rule))?;
    }
    let files = [("snapshot-file", &options.snapshot_file), ("access-log", &options.access_log)];
    for (option, path) in files {
        let Some(path) = path else { continue };
        if let Err(error) = file(path) {
            let said = format!("cannot write {}: {error}", path.display());
            if is_of_the_options(&error) {
                return Err(invalid(option, said));
            }
            worries.push(format!("{option}: {said}"));
        }
    }
    if let Some(usage) = &options.usage {
        directory(&usage.directory).map_err(|source| Error::Usage { path: usage.directory.clone(), source })?;
    }
    Ok(worries)
}

fn invalid(option: &str, rule: String) -> Error {
    Error::InvalidOption { option: option.to_owned(), rule }
}

/// A path that leads nowhere, or where this user has nothing to say.
fn is_of_the_options(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory | PermissionDenied)
}

/// The path of a socket that is made anew, in place of one that is there.
fn socket(path: &Path) -> Result<(), String> {
    let (shown, bytes) = (path.display(), path.as_os_str().as_bytes().len());
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(format!("{shown} has {bytes} bytes: a socket's path has at most {SOCKET_PATH_BYTES_MAX}"));
    }
    folder(path).map_err(|error| format!("cannot make {shown}: {error}"))?;
    match std::fs::metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            Err(format!("{shown} is there and is no socket: name another path, or remove it"))
        }
        _ => Ok(()),
    }
}

/// A file that is written, or can be made.
fn file(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory")),
        Ok(_) => access(path, Access::WRITE_OK).map_err(Into::into),
        Err(error) if error.kind() == io::ErrorKind::NotFound => folder(path),
        Err(error) => Err(error),
    }
}

/// The directory that a path is in, where something can be made.
fn folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let said = |error: io::Error| {
        let what = match error.kind() {
            io::ErrorKind::NotFound => "is not there: make it, or name another".to_owned(),
            _ => format!("cannot be used ({error})"),
        };
        io::Error::new(error.kind(), format!("its directory {} {what}", folder.display()))
    };
    if !std::fs::metadata(folder).map_err(said)?.is_dir() {
        return Err(said(io::ErrorKind::NotADirectory.into()));
    }
    access(folder, MAKE).map_err(|error| said(error.into()))
}

/// A directory that is there, or can be made with those that it is in.
fn directory(path: &Path) -> io::Result<()> {
    for at in path.ancestors() {
        let at = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        match std::fs::metadata(at) {
            Ok(there) if !there.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
            Ok(_) if at == path => return access(at, ALL).map_err(Into::into),
            Ok(_) => return access(at, MAKE).map_err(Into::into),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a start would get the ports. Where a router runs here already, it has them: that is said, and is right before a
/// reload.
pub(super) fn ports(options: &Options) -> Result<(), Error> {
    let (listen, admin) = (options.listen, options.admin_listen);
    for (option, address) in [("listen", listen), ("admin-listen", admin)] {
        let Err(source) = listen::is_free(address) else { continue };
        let runs = || source.kind() == io::ErrorKind::AddrInUse && is_of_a_router(address, admin);
        if !runs() {
            return Err(Error::Listen { address, source });
        }
        tracing::warn!(
            option, %address,
            "a router runs here already and has this address: it can reload these options; another process gets the address with handover-socket alone"
        );
    }
    Ok(())
}

/// Whether it is a router that answers operators there, and the address is its own.
fn is_of_a_router(address: SocketAddr, admin: SocketAddr) -> bool {
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&reachable(admin), ANSWER_TIME_MAX)?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        let head = format!("GET {} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n", fleet::PATH);
        stream.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(HEAD_BYTES_MAX + fleet::REPORT_BYTES_MAX as u64).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().unwrap_or_default();
    let Some(end) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]);
    if !head.starts_with("HTTP/1.1 200 ") || !fleet::is_report(&answer[end + 4..]) {
        return false;
    }
    // A router of before does not say it.
    let told: Option<SocketAddr> =
        head.lines().find_map(|line| line.strip_prefix(LISTEN_HEADER)?.strip_prefix(": ")?.parse().ok());
    address == admin || told.is_none_or(|listen| listen.port() == address.port())
}

/// Where one connects to whoever listens there.
fn reachable(address: SocketAddr) -> SocketAddr {
    let here: IpAddr = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(here, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::UsageOptions;

    fn usage(directory: &Path) -> Option<UsageOptions> {
        toml::from_str(&format!("directory = {directory:?}")).ok()
    }

    #[track_caller]
    fn refused(code: &str, text: &str, change: impl FnOnce(&mut Options)) {
        let mut options = Options::default();
        change(&mut options);
        let error = check(&options).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }

    #[test]
    fn what_leads_nowhere_is_named_and_what_can_be_made_passes() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, nowhere) = (dir.path().join("plain"), dir.path().join("nowhere"));
        std::fs::write(&plain, "a file").unwrap();
        let missing = "nowhere is not there: make it, or name another";
        refused("OPTIONS_INVALID", missing, |o| o.handover_socket = Some(nowhere.join("socket")));
        refused("OPTIONS_INVALID", missing, |o| o.snapshot_file = Some(nowhere.join("table")));
        refused("OPTIONS_INVALID", missing, |o| o.access_log = Some(nowhere.join("log")));
        refused("OPTIONS_INVALID", "option access-log: cannot write", |o| o.access_log = Some(plain.join("log")));
        refused("OPTIONS_INVALID", "it is a directory", |o| o.snapshot_file = Some(dir.path().into()));
        refused("OPTIONS_INVALID", "is no socket", |o| o.handover_socket = Some(plain.clone()));
        refused("OPTIONS_INVALID", "at most 96", |o| o.handover_socket = Some("/x".repeat(60).into()));
        refused("USAGE_UNWRITABLE", "plain", |o| o.usage = usage(&plain));
        refused("USAGE_UNWRITABLE", "plain", |o| o.usage = usage(&plain.join("usage")));
        let options = Options {
            handover_socket: Some(dir.path().join("socket")),
            snapshot_file: Some(dir.path().join("table")),
            access_log: Some(plain),
            usage: usage(&nowhere.join("and/deeper")),
            ..Options::default()
        };
        assert_eq!(check(&options).unwrap(), [""; 0]);
        assert!(!nowhere.exists(), "a check makes nothing");
    }

    #[test]
    fn what_the_disk_does_is_told_from_what_the_options_say() {
        for (kind, options) in [
            (io::ErrorKind::NotFound, true),
            (io::ErrorKind::PermissionDenied, true),
            (io::ErrorKind::ReadOnlyFilesystem, false),
            (io::ErrorKind::StorageFull, false),
        ] {
            assert_eq!(is_of_the_options(&kind.into()), options, "{kind}");
        }
    }

    #[test]
    fn a_port_that_somebody_else_has_is_refused() {
        let (held, any) =
            (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let taken = held.local_addr().unwrap();
        ports(&Options { listen: any, admin_listen: any, ..Options::default() }).unwrap();
        let error = ports(&Options { listen: taken, admin_listen: any, ..Options::default() }).unwrap_err();
        assert_eq!(error.code(), "PORT_IN_USE");
    }
}
