//! The head of an HTTP/1 request as bytes, line by line as it arrives: what a parser that wants to be helpful would
//! settle in silence is refused here (RFC 9112, sections 2 to 6).
//!
//! Each line is looked at once, however small the pieces are that a head comes in.

use super::rule::Rule;

/// How much of a head there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    pub(crate) bytes_max: usize,
    pub(crate) headers_max: usize,
}

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// As its chunks say.
    Chunked,
    /// There is none, and what follows may be another protocol.
    Upgrade,
}

/// How far a head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More of it has to come.
    Partial,
    /// It is so many bytes long.
    Complete(usize, Framing),
}

/// What is known of one head so far.
#[derive(Debug, Default)]
pub(crate) struct HeadScanner {
    /// Where the first line begins that has not been looked at.
    line: usize,
    /// Up to here there is no line feed after `line`.
    searched: usize,
    empty_lines: u8,
    begun: bool,
    http11: bool,
    headers: usize,
    hosts: u8,
    length: Option<u64>,
    chunked: bool,
    names_upgrade: bool,
    asks_websocket: bool,
}

impl HeadScanner {
    /// Looks at a head from its first byte on; `head` holds what it held before and more.
    pub(crate) fn scan(&mut self, head: &[u8], limits: HeadLimits) -> Result<Progress, Rule> {
        while let Some(found) = memchr::memchr(b'\n', &head[self.searched..]) {
            let end = self.searched + found;
            self.searched = end + 1;
            if end >= limits.bytes_max {
                return Err(Rule::HeadTooLarge);
            }
            let line = head[self.line..end].strip_suffix(b"\r").ok_or(Rule::LineFeedAlone)?;
            self.line = end + 1;
            if self.take(line, limits)? {
                return Ok(Progress::Complete(end + 1, self.framing()?));
            }
        }
        self.searched = head.len();
        if head.len() >= limits.bytes_max {
            return Err(Rule::HeadTooLarge);
        }
        Ok(Progress::Partial)
    }

    /// One line without its end. True where it was the empty one after the head.
    fn take(&mut self, line: &[u8], limits: HeadLimits) -> Result<bool, Rule> {
        if !self.begun {
            if line.is_empty() {
                // One is left by clients that end a body with a line of its own (RFC 9112, 2.2).
                self.empty_lines += 1;
                return if self.empty_lines > 1 { Err(Rule::EmptyLinesBefore) } else { Ok(false) };
            }
            self.http11 = request_line(line)?;
            self.begun = true;
            return Ok(false);
        }
        if line.is_empty() {
            return Ok(true);
        }
        self.headers += 1;
        if self.headers > limits.headers_max {
            return Err(Rule::TooManyHeaders);
        }
        let (name, value) = field(line)?;
        self.note(name, value)?;
        Ok(false)
    }

    /// Remembers what the fields say that decide where the message ends.
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Rule> {
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        match name.len() {
            4 if is(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 {
                    return Err(Rule::HostRepeated);
                }
            }
            // The only protocol that is switched to; a request for another is a request like any.
            7 if is(b"upgrade") => self.asks_websocket |= value.eq_ignore_ascii_case(b"websocket"),
            10 if is(b"connection") => {
                let named = |option: &[u8]| option.trim_ascii().eq_ignore_ascii_case(b"upgrade");
                self.names_upgrade |= value.split(|byte| *byte == b',').any(named);
            }
            14 if is(b"content-length") => {
                if self.length.is_some() {
                    return Err(Rule::LengthRepeated);
                }
                self.length = Some(content_length(value)?);
            }
            17 if is(b"transfer-encoding") => {
                if self.chunked {
                    return Err(Rule::CodingRepeated);
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Rule::CodingUnknown);
                }
                self.chunked = true;
            }
            _ => {}
        }
        if self.chunked && self.length.is_some() { Err(Rule::LengthAndCoding) } else { Ok(()) }
    }

    fn framing(&self) -> Result<Framing, Rule> {
        if self.hosts == 0 && self.http11 {
            return Err(Rule::HostMissing);
        }
        if self.chunked && !self.http11 {
            return Err(Rule::CodingBeforeHttp11);
        }
        let framing = match self.length {
            _ if self.chunked => Framing::Chunked,
            Some(length) if length > 0 => Framing::Length(length),
            _ => Framing::None,
        };
        let upgrades = self.asks_websocket && self.names_upgrade && self.http11;
        match framing {
            Framing::None if upgrades => Ok(Framing::Upgrade),
            _ if upgrades => Err(Rule::UpgradeWithBody),
            framing => Ok(framing),
        }
    }
}

/// Whether the version is 1.1, where the line is in order.
fn request_line(line: &[u8]) -> Result<bool, Rule> {
    if line.contains(&b'\r') {
        return Err(Rule::CarriageReturnAlone);
    }
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Rule::RequestLine);
    };
    if !(1..=32).contains(&method.len()) || !method.iter().copied().all(is_token) {
        return Err(Rule::Method);
    }
    check_target(method, target)?;
    match version {
        b"HTTP/1.1" => Ok(true),
        b"HTTP/1.0" => Ok(false),
        _ => Err(Rule::Protocol),
    }
}

/// Whether a target may be what it is: of HTTP/1 as it came, of HTTP/2 its path.
pub(super) fn check_target(method: &[u8], target: &[u8]) -> Result<(), Rule> {
    if !target.iter().all(|byte| IN_TARGET[*byte as usize]) {
        return Err(Rule::Target);
    }
    let has_scheme = |scheme: &[u8]| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            && target.get(scheme.len()).is_some_and(|first| !b"/?".contains(first))
    };
    let known = match target.first() {
        // Two slashes are read as an authority by some.
        Some(b'/') => !target.starts_with(b"//"),
        Some(b'*') => target == b"*" && method == b"OPTIONS",
        Some(_) if method == b"CONNECT" => true,
        Some(_) => has_scheme(b"http://") || has_scheme(b"https://"),
        None => false,
    };
    if known { Ok(()) } else { Err(Rule::Target) }
}

/// Name and value of a header line, without the white space around the value.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Rule> {
    if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        return Err(Rule::FoldedLine);
    }
    let colon = memchr::memchr(b':', line).ok_or(Rule::HeaderName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().copied().all(is_token) {
        let spaced = name.last().is_some_and(|byte| matches!(byte, b' ' | b'\t'));
        return Err(if spaced { Rule::SpaceBeforeColon } else { Rule::HeaderName });
    }
    if !value.iter().all(|byte| (*byte >= 0x20 && *byte != 0x7f) || *byte == b'\t') {
        let bare = value.contains(&b'\r');
        return Err(if bare { Rule::CarriageReturnAlone } else { Rule::HeaderValue });
    }
    Ok((name, trim(value)))
}

/// Without the blanks and tabs around it; nothing else counts as white space here.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Digits and nothing else, without a leading zero that some would read as octal.
fn content_length(value: &[u8]) -> Result<u64, Rule> {
    let well_formed = (1..=19).contains(&value.len())
        && value.iter().all(u8::is_ascii_digit)
        && (value[0] != b'0' || value.len() == 1);
    if !well_formed {
        return Err(Rule::LengthNumber);
    }
    Ok(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

/// The characters of a token (RFC 9110, 5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// What a target may hold: visible ASCII but for what a URI never does (RFC 3986, 2). A fragment never leaves a client, some
/// readers take a backslash for a slash, and parsers disagree about the others.
const IN_TARGET: [bool; 256] = {
    let mut table = [false; 256];
    let not = b"#\\<>\"`";
    let mut at = 0;
    while at < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "it is below 256")]
        let byte = at as u8;
        table[at] = byte.is_ascii_graphic();
        at += 1;
    }
    let mut at = 0;
    while at < not.len() {
        table[not[at] as usize] = false;
        at += 1;
    }
    table
};

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "it is below 256")]
        let byte = at as u8;
        table[at] = byte.is_ascii_alphanumeric();
        at += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests;
