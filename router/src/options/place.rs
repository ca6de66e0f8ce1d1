//! Where in its file an option stands, for those who have broken its rule.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::Options;
use crate::Error;

/// The file that options were read from.
#[derive(Debug, Clone, Default)]
pub struct OptionsFile {
    path: PathBuf,
    text: String,
    /// Options that the command line has given: what is said of them in the file does not count.
    given: Vec<&'static str>,
}

impl OptionsFile {
    pub(super) fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), text, given: Vec::new() }
    }
}

impl Options {
    /// The command line has given this option.
    pub fn is_given(&mut self, option: &'static str) {
        if let Some(file) = &mut self.file {
            file.given.push(option);
        }
    }

    /// The error, with the place in the file where that is known.
    pub(super) fn located(&self, error: Error) -> Error {
        let (Some(file), Error::InvalidOption { option, rule }) = (&self.file, &error) else { return error };
        if file.given.contains(&option.as_str()) {
            return error;
        }
        let path = file.path.display();
        let place = match line_of(&file.text, option) {
            Some(line) => format!("{path}, line {line}"),
            None => format!("it is not in {path}"),
        };
        Error::InvalidOption { option: option.clone(), rule: format!("{rule} ({place})") }
    }
}

/// The line of an option, or of the innermost section of it that is there.
fn line_of(text: &str, option: &str) -> Option<usize> {
    // Of several that break a rule together, the first.
    let option = option.split(", ").next().unwrap_or(option);
    let whole = DeTable::parse(text).ok()?;
    let (mut table, mut at) = (whole.get_ref(), None);
    for name in option.split('.') {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == name) else { break };
        at = Some(key.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    at.map(|at| text[..at].matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_found_wherever_it_is_written() {
        let text = "name = \"a\"\n\n[limits]\nheaders-max = 0\n[fairness.tiers.gold]\nrate = 0\n[tls]\n";
        for (option, line) in [
            ("name", Some(1)),
            ("limits.headers-max", Some(4)),
            ("limits.streams-max", Some(3)),
            ("fairness.tiers.gold.rate", Some(6)),
            ("tls.client-ca-file", Some(7)),
            ("limits.headers-max, name", Some(4)),
            ("control", None),
        ] {
            assert_eq!(line_of(text, option), line, "{option}");
        }
        assert_eq!(line_of("timeouts.quiesce-max = \"0s\"", "timeouts.quiesce-max"), Some(1));
    }

    #[test]
    fn a_broken_rule_names_file_and_line_unless_the_command_line_has_broken_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("router.toml");
        std::fs::write(&path, "control = [\"c:1\"]\nname = \"\"\n").unwrap();
        let mut options = Options::from_file(&path).unwrap();
        let error = options.check().unwrap_err().to_string();
        assert_eq!(error, format!("option name: must not be empty ({}, line 2)", path.display()));
        options.is_given("name");
        assert_eq!(options.check().unwrap_err().to_string(), "option name: must not be empty");
        options.name = "r".into();
        let error = options.check().unwrap_err().to_string();
        assert!(error.starts_with("option trusted-keys: ") && error.ends_with("router.toml)"), "{error}");
    }
}
