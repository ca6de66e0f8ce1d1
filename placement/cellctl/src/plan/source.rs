//! A fleet from a file: one JSON document, or a directory with two tables. What is wrong is said with its line.

use std::fs::File;
use std::io::{Read, Take};
use std::path::Path;

use cell_model::Revision;
use cell_planner::{Fleet, FleetDocument, FleetError, FleetTables, Place, Problem};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::failure::Failure;

/// The largest file that is read: a fleet of the size that the planner takes fits.
const FILE_MAX: u64 = 8 << 30;
const CELLS: &str = "cells.csv";
const TENANTS: &str = "tenants.csv";
const NO_FLEET: &str =
    "give a fleet that is there and that you may read, or leave it out to ask the control plane alone";

/// Reads a fleet.
///
/// # Errors
/// The file cannot be read, or is no fleet: each problem with its place and its remedy.
pub(super) fn read(path: &Path) -> Result<Fleet, Failure> {
    if path.is_dir() {
        let (cells, tenants) = (table_of(&path.join(CELLS))?, table_of(&path.join(TENANTS))?);
        let built = FleetTables::read(cells, tenants, Revision(0));
        return built.map_err(|error| refused(path, &error, |place| of_table(path, place)));
    }
    if path.extension().is_some_and(|extension| extension == "csv") {
        let message = format!("{} is one table, a fleet has two", path.display());
        return Err(Failure::usage(message, format!("give the directory that holds {CELLS} and {TENANTS}")));
    }
    let text = text_of(path).map_err(|failure| Failure { hint: NO_FLEET.into(), ..failure })?;
    let built = FleetDocument::from_json(&text).and_then(|document| document.build());
    built.map_err(|error| {
        let lines = Lines::of(&text);
        refused(path, &error, |place| lines.told(path, place))
    })
}

/// Writes a fleet: as a document, or as tables where the name ends with '/' or is a directory.
///
/// # Errors
/// It cannot be written.
pub(super) fn write(path: &Path, document: &FleetDocument) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        let error = anyhow::Error::from(error).context(format!("cannot write {}", path.display()));
        Failure::local("FILE_WRITE", &error, "choose another --to")
    };
    let put = |path: &Path, text: &str| std::fs::write(path, text).map_err(|error| failed(path, error));
    if !path.is_dir() && !path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return put(path, &document.to_json());
    }
    std::fs::create_dir_all(path).map_err(|error| failed(path, error))?;
    let tables = FleetTables::write(document);
    put(&path.join(CELLS), &tables.cells)?;
    put(&path.join(TENANTS), &tables.tenants)
}

fn unreadable(path: &Path, reason: &str, hint: &str) -> Failure {
    Failure::usage(format!("cannot read {}: {reason}", path.display()), hint)
}

/// A table, to be read as it is packed.
fn table_of(path: &Path) -> Result<Take<File>, Failure> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    match opened.map_err(|error| unreadable(path, &error.to_string(), NO_FLEET))? {
        (length, _) if length > FILE_MAX => Err(unreadable(path, &too_large(), NO_FLEET)),
        (_, file) => Ok(file.take(FILE_MAX)),
    }
}

fn too_large() -> String {
    format!("it is larger than {} GiB", FILE_MAX >> 30)
}

/// The text of a file; `-` is standard input.
pub(super) fn text_of(path: &Path) -> Result<String, Failure> {
    let unreadable = |reason: String| unreadable(path, &reason, "give a file that is there and that you may read");
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_MAX).read_to_string(&mut text)
    } else {
        let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
        file.take(FILE_MAX).read_to_string(&mut text)
    };
    let length = read.map_err(|error| unreadable(error.to_string()))?;
    if length as u64 == FILE_MAX {
        return Err(unreadable(too_large()));
    }
    // Some editors mark a text as UTF-8 by what no reader of JSON takes.
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

fn refused(path: &Path, error: &FleetError, place: impl Fn(Place) -> String) -> Failure {
    let tell = |problem: &Problem| {
        let place = place(problem.place);
        format!("\n  {place}: {} ({}); {}", problem.sentence, problem.code.as_str(), problem.remedy)
    };
    let mut message = match error.problems.len() + error.unlisted {
        1 => format!("{} is no fleet", path.display()),
        count => format!("{} is no fleet, {count} things are wrong", path.display()),
    };
    message.extend(error.problems.iter().map(tell));
    if error.unlisted > 0 {
        message.push_str(&format!("\n  and {} more", error.unlisted));
    }
    let code = error.problems.first().map_or("FLEET_SYNTAX", |problem| problem.code.as_str());
    Failure::new(code, message, "correct the fleet and run the command again; docs/placement.md describes the file")
}

fn of_table(directory: &Path, place: Place) -> String {
    match place {
        Place::CellLine(line) => format!("{}:{line}", directory.join(CELLS).display()),
        Place::TenantLine(line) => format!("{}:{line}", directory.join(TENANTS).display()),
        other => format!("{}: {other}", directory.display()),
    }
}

/// At which line each entry of a document begins. Only looked for where something is wrong.
#[derive(Default)]
struct Lines {
    cells: Vec<usize>,
    tenants: Vec<usize>,
}

#[derive(Deserialize)]
struct Entries<'a> {
    #[serde(borrow, default)]
    cells: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    tenants: Vec<&'a RawValue>,
}

impl Lines {
    fn of(text: &str) -> Self {
        let Ok(entries) = serde_json::from_str::<Entries<'_>>(text) else { return Self::default() };
        let lines = |entries: &[&RawValue]| {
            let (mut at, mut line) = (0, 1);
            let begins = |entry: &&RawValue| {
                // The entry is a part of the text: its distance from the beginning is where it is.
                let begin = entry.get().as_ptr() as usize - text.as_ptr() as usize;
                line += text.as_bytes()[at..begin].iter().filter(|byte| **byte == b'\n').count();
                at = begin;
                line
            };
            entries.iter().map(begins).collect()
        };
        Self { cells: lines(&entries.cells), tenants: lines(&entries.tenants) }
    }

    fn told(&self, path: &Path, place: Place) -> String {
        let file = path.display();
        let line = match place {
            Place::Cell(index) => self.cells.get(index),
            Place::Tenant(index) => self.tenants.get(index),
            Place::Text { line, column: 0 } => return format!("{file}:{line}"),
            Place::Text { line, column } => return format!("{file}:{line}:{column}"),
            Place::Fleet | Place::CellLine(_) | Place::TenantLine(_) => None,
        };
        line.map_or_else(|| format!("{file}: {place}"), |line| format!("{file}:{line}: {place}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_document_are_found_by_line() {
        let text = "{\n \"cells\": [\n  {\"id\":\"a\"}, {\"id\":\"b\"},\n  {}],\n\n \"tenants\": [{}\n,{}]}";
        let lines = Lines::of(text);
        assert_eq!((lines.cells, lines.tenants), (vec![3, 3, 4], vec![6, 7]));
        assert!(Lines::of("{\"cells\": [").cells.is_empty(), "what does not parse has no entries");
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_code_and_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("fleet.json");
        std::fs::write(&file, "{\"cells\":[{\"id\":\"c1\"},\n{\"id\":\"c1\"}]}").unwrap();
        let failure = read(&file).unwrap_err();
        assert_eq!(failure.code, "ID_DUPLICATE");
        assert!(failure.message.contains("fleet.json:2: cells[1]: cell c1 is already at"), "{failure}");
    }

    #[test]
    fn a_text_that_an_editor_has_marked_is_read_and_what_is_not_there_says_what_to_give() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("fleet.json");
        std::fs::write(&file, "\u{feff}{\"cells\":[{\"id\":\"c1\"}]}").unwrap();
        assert_eq!(read(&file).unwrap().cells().len(), 1);
        let missing = directory.path().join("missing");
        assert!(read(&missing).unwrap_err().hint.contains("the control plane"));
        // A policy, a plan or a file of usage is nothing that a control plane could be asked for.
        assert!(!text_of(&missing).unwrap_err().hint.contains("the control plane"));
    }

    #[test]
    fn a_fleet_that_was_written_is_read_again_in_both_shapes() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"cells":[{"id":"c1","capacity":{"cpu":4,"connections":9,"storage":7}}],
            "tenants":[{"id":"t1","cell":"c1","demand":{"cpu":{"mean":1.5}}}]}"#;
        let document = FleetDocument::from_json(text).unwrap();
        for name in ["fleet.json", "tables/"] {
            let path = directory.path().join(name);
            write(&path, &document).unwrap();
            assert_eq!(read(&path).unwrap().to_document(), document.build().unwrap().to_document(), "{name}");
        }
    }
}
