//! Who may collect usage: what is said to be collected is gone, so not everybody who reaches the admin port may say it.

use std::net::IpAddr;
use std::path::Path;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};

use crate::options::UsageOptions;

/// Shorter ones can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 4_096;

/// Who may collect.
pub(crate) struct Collectors {
    /// The digest of what they have to show. None: whoever calls from this machine may.
    token: Option<blake3::Hash>,
}

impl Collectors {
    /// Reads the token. What is wrong with it names the file.
    pub(crate) fn load(options: &UsageOptions) -> Result<Self, String> {
        let token = options.token_file.as_deref().map(read_token).transpose()?;
        Ok(Self { token: token.map(|token| blake3::hash(token.as_bytes())) })
    }

    /// Why a caller may not, in a sentence.
    pub(crate) fn refuse(&self, method: &Method, caller: IpAddr, headers: &HeaderMap) -> Option<&'static str> {
        match self.token {
            Some(token) => {
                let shown = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
                // Digests are compared in the same time whatever they are.
                let fits = shown.is_some_and(|shown| blake3::hash(shown) == token);
                (!fits).then_some("usage is given to those who show the token of `usage.token-file` (Authorization: Bearer)")
            }
            None => (*method != Method::GET && !caller.to_canonical().is_loopback()).then_some(
                "only this machine may say that usage is collected: set `usage.token-file` for collectors elsewhere",
            ),
        }
    }
}

fn read_token(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let unreadable = |error| format!("cannot read {shown}: {error}");
    crate::private::check(path).map_err(unreadable)??;
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let token = text.trim();
    let sound = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !sound {
        return Err(format!(
            "{shown}, line 1: a token is {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} characters without blanks, \
             as `openssl rand -hex 32` prints them"
        ));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use http::HeaderValue;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    #[test]
    fn without_a_token_only_this_machine_collects_and_others_may_look() {
        let (collectors, none) = (Collectors { token: None }, HeaderMap::new());
        let mapped = "::ffff:127.0.0.1".parse().unwrap();
        for (method, caller, may) in [
            (Method::DELETE, HERE, true),
            (Method::DELETE, mapped, true),
            (Method::DELETE, ELSEWHERE, false),
            (Method::POST, ELSEWHERE, false),
            (Method::GET, ELSEWHERE, true),
        ] {
            assert_eq!(collectors.refuse(&method, caller, &none).is_none(), may, "{method} {caller}");
        }
    }

    #[test]
    fn with_a_token_whoever_shows_it_collects_and_nobody_else_sees_anything() {
        let collectors = Collectors { token: Some(blake3::hash(b"0123456789abcdef")) };
        let with = |shown: &'static str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(shown))]);
        for (headers, may) in [
            (with("Bearer 0123456789abcdef"), true),
            (with("Bearer 0123456789abcdeg"), false),
            (with("0123456789abcdef"), false),
            (HeaderMap::new(), false),
        ] {
            for method in [Method::GET, Method::DELETE] {
                for caller in [HERE, ELSEWHERE] {
                    assert_eq!(collectors.refuse(&method, caller, &headers).is_none(), may, "{headers:?}");
                }
            }
        }
    }

    #[test]
    fn a_token_is_long_and_its_file_is_its_owner_s() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let read = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            read_token(&path)
        };
        assert_eq!(read("0123456789abcdef\n", 0o600), Ok("0123456789abcdef".into()));
        assert!(read("short", 0o600).unwrap_err().contains("token, line 1: a token is 16 to"));
        assert!(read("0123456789 abcdef", 0o600).is_err());
        assert!(read("0123456789abcdef", 0o644).unwrap_err().contains("chmod 600"));
    }
}
