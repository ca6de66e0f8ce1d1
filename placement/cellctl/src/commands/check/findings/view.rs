//! A finding, as it is shown.

use serde::Serialize;

use crate::cli::Category;
use crate::view::View;

/// How bad it is; the last is the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::commands::check) enum Mark {
    Holds,
    Warns,
    Fails,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::commands::check) struct FindingView {
    #[serde(serialize_with = "name_of")]
    pub category: Category,
    /// Stable.
    pub check: &'static str,
    pub mark: Mark,
    pub message: String,
    /// What to do next; empty where it holds.
    pub hint: String,
    /// Where to read on.
    pub page: String,
}

fn name_of<S: serde::Serializer>(category: &Category, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{category:?}").to_lowercase())
}

impl FindingView {
    pub(in crate::commands::check) fn new(
        category: Category,
        check: &'static str,
        mark: Mark,
        message: String,
        hint: &str,
    ) -> Self {
        let hint = if mark == Mark::Holds { String::new() } else { hint.to_owned() };
        Self { category, check, mark, message, hint, page: format!("docs/check.md#{check}") }
    }

    /// The heading of its category.
    pub(in crate::commands::check) const fn title(&self) -> &'static str {
        match self.category {
            Category::Quorum => "quorum",
            Category::Disk => "disk",
            Category::Clock => "clock",
            Category::Lag => "lag",
            Category::Certificates => "certificates",
            Category::Moves => "moves",
            Category::Orphans => "orphans",
            Category::Audit => "audit",
        }
    }

    /// For people.
    pub(in crate::commands::check) fn lines(&self) -> String {
        let mark = match self.mark {
            Mark::Holds => "√",
            Mark::Warns => "‼",
            Mark::Fails => "×",
        };
        let mut lines = format!("{mark} {}\n", self.message);
        if self.mark != Mark::Holds {
            lines.push_str(&format!("    {}\n    see {}\n", self.hint, self.page));
        }
        lines
    }
}

impl View for FindingView {
    const KIND: &'static str = "Finding";
    const COLUMNS: &'static [&'static str] = &["CATEGORY", "CHECK", "MARK", "MESSAGE"];

    fn row(&self) -> Vec<String> {
        vec![
            self.title().into(),
            self.check.into(),
            format!("{:?}", self.mark).to_lowercase(),
            self.message.clone(),
        ]
    }

    fn name(&self) -> String {
        format!("finding/{}", self.check)
    }
}
