//! A command line that makes no sense: what it is that does not fit, and what would.
//!
//! clap says what is wrong. What is said here besides is what to write instead, as with every other error; and `--option -5` is taken
//! for what was meant by it, a value that the option does not take, rather than for an option of the name `-5`.

use std::error::Error as _;
use std::ffi::OsString;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::Cli;
use crate::failure::Failure;

/// Reads a command line, its first word the program's own name.
///
/// # Errors
/// As clap finds it.
pub fn read(words: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(words).or_else(|error| match joined(words, &error) {
        Some(words) => Cli::try_parse_from(words),
        None => Err(error),
    })
}

/// The same words, where a negative number stands behind an option: joined to it by `=`.
fn joined(words: &[OsString], error: &clap::Error) -> Option<Vec<OsString>> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let is_negative = |word: &OsString| {
        let mut letters = word.to_str().unwrap_or_default().chars();
        letters.next() == Some('-') && letters.next().is_some_and(|second| second.is_ascii_digit() || second == '.')
    };
    let is_option =
        |word: &OsString| word.to_str().is_some_and(|word| word.starts_with("--") && !word.contains('='));
    let at = (1..words.len()).find(|at| is_negative(&words[*at]) && is_option(&words[at - 1]))?;
    let mut both = words[at - 1].clone();
    both.push("=");
    both.push(&words[at]);
    Some([&words[..at - 1], &[both], &words[at + 1..]].concat())
}

/// A value that an option does not take, with what it takes; nothing where clap says that well enough by itself.
#[must_use]
pub fn explained(error: &clap::Error) -> Option<Failure> {
    let told = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) if !texts.is_empty() => Some(texts.join(", ")),
        _ => None,
    };
    let (option, value) = (told(ContextKind::InvalidArg)?, told(ContextKind::InvalidValue)?);
    let hint = match error.kind() {
        ErrorKind::InvalidValue => format!("give one of: {}", told(ContextKind::ValidValue)?),
        ErrorKind::ValueValidation => instead(&error.source()?.to_string()),
        _ => return None,
    };
    let message = if value.is_empty() {
        format!("{option} wants a value, and has an empty one")
    } else {
        format!("{value:?} is no value for {option}")
    };
    Some(Failure::usage(message, hint))
}

/// What to give, by why a value was not taken.
fn instead(reason: &str) -> String {
    let range = reason.split_once(" is not in ").and_then(|(_, range)| range.split_once("..="));
    match (range, reason) {
        (Some((least, most)), _) if most.len() > 9 && reason.starts_with('-') => {
            format!("give a whole number, {least} or more")
        }
        (Some((least, most)), _) => format!("give a whole number from {least} to {most}"),
        (None, "invalid digit found in string" | "cannot parse integer from empty string") => {
            "give a whole number, 0 or more".into()
        }
        (None, "number too large to fit in target type") => "give a smaller number".into(),
        (None, reason) if is_of_a_time(reason) => format!("give a time, as 90s, 15m or 24h ({reason})"),
        (None, reason) => reason.to_owned(),
    }
}

/// Whether this is what is said of a length of time that cannot be read.
fn is_of_a_time(reason: &str) -> bool {
    let signs =
        ["expected number at", "time unit needed", "unknown time unit", "value was empty", "invalid character at"];
    signs.iter().any(|sign| reason.starts_with(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> String {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let error = read(&words).expect_err("it makes no sense");
        explained(&error).map_or_else(|| format!("by clap: {error}"), |failure| failure.to_string())
    }

    #[test]
    fn a_negative_number_is_a_value_that_does_not_fit_whether_or_not_it_is_joined_to_its_option() {
        for (line, option, hint) in [
            ("plan rebalance --max-moves", "--max-moves <N>", "give a whole number, 0 or more"),
            ("plan rebalance --seed", "--seed <NUMBER>", "give a whole number, 0 or more"),
            ("plan tiers --days", "--days <DAYS>", "give a whole number from 1 to 3650"),
            ("plan rebalance --window", "--window <DURATION>", "give a time, as 90s, 15m or 24h"),
            ("plan rebalance --max-bytes", "--max-bytes <BYTES>", "give a size from 1 byte"),
            ("plan capacity --growth", "--growth <RATE>", "give a share from 0 to 10"),
            ("simulate --spikes", "--spikes <SHARE>", "give a share from 0 to 1"),
            ("get cells --timeout", "--timeout <DURATION>", "give a time"),
            ("get cells --expected-revision", "--expected-revision <REVISION>", "give a whole number"),
        ] {
            for between in [" ", "="] {
                let told = told(&format!("cellctl {line}{between}-5"));
                let wanted = format!("error: \"-5\" is no value for {option} (USAGE)\n  next: {hint}");
                assert!(told.starts_with(&wanted), "{told}");
            }
        }
    }

    #[test]
    fn a_number_that_is_too_large_is_answered_with_what_it_may_be() {
        let told = told("cellctl plan rebalance --max-moves 5000000000");
        assert!(told.ends_with("next: give a whole number from 0 to 4294967295"), "{told}");
    }

    #[test]
    fn a_word_that_is_none_of_some_is_answered_with_them() {
        let survive = told("cellctl plan capacity --survive foo");
        assert!(survive.ends_with("next: give one of: nothing, cell, domain"), "{survive}");
        assert!(told("cellctl get cells -o xml").contains("give one of: table, json, name, html"));
    }

    #[test]
    fn what_clap_says_well_enough_is_left_to_it() {
        for line in
            ["cellctl", "cellctl -5", "cellctl plan drain", "cellctl nonsense", "cellctl get cells --nonsense 3"]
        {
            assert!(told(line).starts_with("by clap: "), "{line}");
        }
        assert!(told("cellctl get cells -5").contains("unexpected argument '-5'"), "it stands behind no option");
    }
}
