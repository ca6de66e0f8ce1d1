//! Reads the corpus: one message a line, `status CODE | name | message`, with the message escaped. Shared by the test that
//! sends each to a running router and by what mutates them (`fuzzing`).

use std::path::Path;

/// One line of the corpus.
pub(crate) struct Message {
    pub(crate) file: String,
    pub(crate) name: String,
    pub(crate) expected: String,
    pub(crate) bytes: Vec<u8>,
}

/// The messages of the files that are wanted, in the order of their names.
pub(crate) fn corpus(wanted: impl Fn(&str) -> bool) -> Vec<Message> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = std::fs::read_dir(dir).expect("the corpus is part of the sources");
    let mut files: Vec<_> =
        files.map(|entry| entry.expect("a directory that is there can be read").path()).collect();
    files.sort();
    let mut messages = Vec::new();
    for path in files {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if !file.ends_with(".txt") || !wanted(&file) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a file of the corpus is text");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut parts = line.splitn(3, " | ");
            let mut next = || parts.next().expect("a line has three parts").to_owned();
            let (expected, name, bytes) = (next(), next(), unescaped(&next()));
            messages.push(Message { file: file.clone(), name, expected, bytes });
        }
    }
    messages
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| {
        let digit = byte.and_then(|byte| char::from(byte).to_digit(16)).expect("two hexadecimal digits follow");
        u8::try_from(digit).expect("a digit is below 16")
    };
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().expect("something follows a backslash") {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'x' => digit(rest.next()) * 16 + digit(rest.next()),
                same @ (b'\\' | b'"') => same,
                other => panic!("there is no escape \\{}", char::from(other)),
            },
            same => same,
        });
    }
    bytes
}
