//! Texts under small numbers.

use std::collections::BTreeMap;

use super::{Label, NONE};

/// Names of one kind, each kept once. The empty name is [`NONE`].
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    names: Vec<Box<str>>,
    labels: BTreeMap<Box<str>, Label>,
}

impl Names {
    pub(super) fn add(&mut self, name: &str) -> Label {
        if name.is_empty() {
            return NONE;
        }
        if let Some(&label) = self.labels.get(name) {
            return label;
        }
        let label = Label::try_from(self.names.len()).expect("fewer names than tenants");
        self.names.push(name.into());
        self.labels.insert(name.into(), label);
        label
    }

    /// The label of a name that is known already, [`NONE`] for the empty one.
    pub(super) fn find(&self, name: &str) -> Option<Label> {
        if name.is_empty() { Some(NONE) } else { self.labels.get(name).copied() }
    }

    pub(super) fn get(&self, label: Label) -> &str {
        if label == NONE { "" } else { &self.names[label as usize] }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// All names, for an error: `eu, us`.
    pub(super) fn listed(&self) -> String {
        const SHOWN: usize = 12;
        let mut text = self.labels.keys().take(SHOWN).map(|name| &**name).collect::<Vec<_>>().join(", ");
        if self.labels.len() > SHOWN {
            text.push_str(", …");
        }
        text
    }
}

/// Many short texts in one allocation.
#[derive(Debug, Clone, Default)]
pub(super) struct Arena {
    text: String,
    ends: Vec<u32>,
}

impl Arena {
    /// Adds a text, or not where the arena would pass 4 GB.
    pub(super) fn push(&mut self, text: &str) -> bool {
        let Ok(end) = u32::try_from(self.text.len() + text.len()) else { return false };
        self.text.push_str(text);
        self.ends.push(end);
        true
    }

    pub(super) fn get(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.text[start..self.ends[index] as usize]
    }
}
