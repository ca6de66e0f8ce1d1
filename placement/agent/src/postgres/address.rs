//! Where a database is, and whether others can read what is said to it.
//!
//! The address says both, as libpq has it and in either of its two forms: `sslmode`, `sslrootcert`, `sslcert` and `sslkey`
//! are ours to read, everything else is the client's. Two things differ from libpq on purpose: an address that says nothing
//! of TLS is spoken to without, and `prefer` and `allow` are refused, since they go on in plain text as soon as somebody in
//! between says that there is no TLS.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::{Files, Mode, Tls};
use crate::pem::PemError;

/// Why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressInvalid {
    /// It makes no sense. The address is not told: it has a password in it.
    #[error("the database's address: {0}")]
    Rule(String),
    /// A file that it names cannot be used.
    #[error("the database's address, {parameter}: {source}")]
    File {
        /// Which of its parameters.
        parameter: &'static str,
        /// Why.
        source: PemError,
    },
    /// Certificate and key do not fit.
    #[error("the database's address: sslcert {} and sslkey {}: {reason}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        reason: String,
    },
}

impl AddressInvalid {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Rule(_) => "INVALID_OPTION",
            Self::File { source: PemError::Exposed { .. }, .. } => "DATABASE_KEY_EXPOSED",
            Self::File { .. } | Self::Pair { .. } => "DATABASE_TLS_FILE",
        }
    }
}

fn rule(rule: impl Into<String>) -> AddressInvalid {
    AddressInvalid::Rule(rule.into())
}

/// See the module.
#[derive(Clone)]
pub struct DatabaseAddress {
    config: Config,
    tls: Tls,
}

impl DatabaseAddress {
    /// Reads an address, and the files that it names: a certificate that was renewed is used by whoever is started then.
    ///
    /// # Errors
    /// [`AddressInvalid`]
    pub fn parse(address: &str) -> Result<Self, AddressInvalid> {
        let (rest, said) = match address {
            url if url.starts_with("postgres://") || url.starts_with("postgresql://") => of_url(url)?,
            pairs => of_pairs(pairs)?,
        };
        let form = || rule("it is none: postgres://user:password@host:port/database");
        let mut config: Config = rest.parse().map_err(|_| form())?;
        let tls = Tls::new(said.mode()?, &said.files)?;
        if tls.is_on() && config.get_hosts().iter().any(|host| !matches!(host, Host::Tcp(_))) {
            return Err(rule(
                "over a socket of the file system no TLS is spoken: leave sslmode out, or name a host",
            ));
        }
        config.ssl_mode(if tls.is_on() { SslMode::Require } else { SslMode::Disable });
        Ok(Self { config, tls })
    }

    /// What tokio-postgres connects with.
    #[must_use]
    pub fn into_parts(self) -> (Config, MakeRustlsConnect) {
        let connector = self.tls.connector();
        (self.config, connector)
    }

    pub(crate) const fn tls(&self) -> &Tls {
        &self.tls
    }
}

/// What an address says of TLS.
#[derive(Debug, Default)]
struct Said {
    mode: Option<String>,
    files: Files,
}

impl Said {
    /// Takes what is ours.
    fn take(&mut self, key: &str, value: &str) -> bool {
        let file = match key {
            "sslmode" => {
                self.mode = Some(value.to_owned());
                return true;
            }
            "sslrootcert" => &mut self.files.roots,
            "sslcert" => &mut self.files.certificate,
            "sslkey" => &mut self.files.key,
            _ => return false,
        };
        *file = Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty());
        true
    }

    fn mode(&self) -> Result<Mode, AddressInvalid> {
        const MODES: &str = "disable, require, verify-ca or verify-full";
        match self.mode.as_deref() {
            // Whoever names a certificate means TLS, and would not have it.
            None if self.files != Files::default() => {
                Err(rule(format!("it names files for TLS and no sslmode: add sslmode=verify-full (or {MODES})")))
            }
            None | Some("disable") => Ok(Mode::Disable),
            Some("require") if self.files.roots.is_none() => Ok(Mode::Require),
            // As libpq has it.
            Some("require" | "verify-ca") => Ok(Mode::VerifyCa),
            Some("verify-full") => Ok(Mode::VerifyFull),
            Some(mode @ ("prefer" | "allow")) => Err(rule(format!(
                "sslmode={mode} goes on in plain text as soon as somebody in between says that there is no TLS: \
                 say {MODES}"
            ))),
            Some(_) => Err(rule(format!("sslmode is {MODES}"))),
        }
    }
}

/// The same URL without what is ours.
fn of_url(url: &str) -> Result<(String, Said), AddressInvalid> {
    let mut said = Said::default();
    // A password may have a question mark in it.
    let behind_password = url.find('@').map_or(0, |at| at + 1);
    let (head, tail) = url.split_at(behind_password);
    let Some((place, query)) = tail.split_once('?') else { return Ok((url.to_owned(), said)) };
    let mut kept = Vec::new();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| rule(format!("the value of {key} is not UTF-8")))?;
        if !said.take(key, &value) {
            kept.push(pair);
        }
    }
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    Ok((format!("{head}{place}{query}"), said))
}

/// `host=… user='…'` without what is ours.
fn of_pairs(pairs: &str) -> Result<(String, Said), AddressInvalid> {
    let broken = || rule("it is none: host=… user=… dbname=…");
    let (mut said, mut kept) = (Said::default(), String::new());
    let mut letters = pairs.chars().peekable();
    loop {
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        if letters.peek().is_none() {
            return Ok((kept, said));
        }
        let mut key = String::new();
        while let Some(letter) = letters.next_if(|letter| *letter != '=' && !letter.is_whitespace()) {
            key.push(letter);
        }
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        letters.next_if_eq(&'=').ok_or_else(broken)?;
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        let quoted = letters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match letters.next() {
                Some('\'') if quoted => break,
                Some('\\') => value.push(letters.next().ok_or_else(broken)?),
                Some(letter) if quoted || !letter.is_whitespace() => value.push(letter),
                None if quoted => return Err(broken()),
                Some(_) | None => break,
            }
        }
        if !said.take(&key, &value) {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            kept.push_str(&format!("{key}='{value}' "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(address: &str) -> String {
        DatabaseAddress::parse(address).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_said_of_tls_is_taken_out_of_both_forms() {
        let url = "postgres://me:se?cret@db.test:5433/app?sslmode=require&connect_timeout=3&options=-c%20a%3Db";
        let pairs = "host=db.test port=5433 user=me password='se?c\\'ret' dbname=app sslmode = 'require' sslkey=''";
        for address in [url, pairs] {
            let (config, _) = DatabaseAddress::parse(address).unwrap().into_parts();
            assert_eq!((config.get_dbname(), config.get_ports()), (Some("app"), &[5433][..]));
            assert_eq!(config.get_ssl_mode(), SslMode::Require);
            assert!(config.get_password().is_some_and(|password| password.starts_with(b"se?c")));
        }
        let plain = DatabaseAddress::parse("postgres://me@db.test/app?connect_timeout=3").unwrap();
        let (plain, _) = plain.into_parts();
        assert_eq!(plain.get_ssl_mode(), SslMode::Disable);
        assert_eq!(plain.get_connect_timeout(), Some(&std::time::Duration::from_secs(3)));
    }

    #[test]
    fn what_would_not_be_what_it_looks_like_is_refused_and_no_password_is_told() {
        for mode in ["prefer", "allow"] {
            let said = said(&format!("postgres://me:secret@db.test/app?sslmode={mode}"));
            assert!(
                said.contains("plain text") && said.contains("verify-full") && !said.contains("secret"),
                "{said}"
            );
        }
        assert!(said("postgres://db.test/app?sslmode=on").contains("disable, require, verify-ca or verify-full"));
        assert!(said("postgres://db.test/app?sslrootcert=/ca.pem").contains("add sslmode=verify-full"));
        assert!(said("host=/run/postgresql dbname=app sslmode=require").contains("file system"));
        assert!(said("host=db.test dbname='app").contains("host=…"));
        assert!(said("host").contains("host=…"));
        assert!(said("postgres://db.test/app?sslmode=require&sslkey=%ff").contains("UTF-8"));
    }

    #[test]
    fn a_mode_that_believes_somebody_asks_whom() {
        for mode in ["verify-ca", "verify-full"] {
            assert!(said(&format!("postgres://db.test/app?sslmode={mode}")).contains("sslrootcert"));
        }
        let lacks = "postgres://db.test/app?sslmode=require&sslcert=/c.pem";
        assert!(said(lacks).contains("sslkey"));
        let address = "postgres://db.test/app?sslmode=verify-full&sslrootcert=/nowhere/ca.pem";
        let error = DatabaseAddress::parse(address).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), "DATABASE_TLS_FILE");
        assert!(error.to_string().contains("sslrootcert: cannot read /nowhere/ca.pem"), "{error}");
    }
}
