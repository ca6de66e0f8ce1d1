//! The corpus, mutated by a seeded generator, into every entry: so many runs as a test may take.

use super::*;
use crate::context::Dice;

const RUNS: u32 = 8_000;

/// What messages are made of: mutations that bring one of these in get further than those that flip bits.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"0\r\n\r\n",
    b"5\r\n",
    b"ffffffffffffffff\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: t-2.example.com\r\n",
    b"X-Tenant-ID: t-2\r\n",
    b"cell-tenant: t-2\r\n",
    b"X_Tenant_ID: t-2\r\n",
    b"Connection: x-tenant-id\r\n",
    b"Connection: upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"/t/t-2/",
    b"/../",
    b"%2e%2e",
    b"http://t-2.example.com/",
    b"HTTP/1.0",
    b"GET ",
    b"POST ",
];

fn below(dice: &Dice, limit: usize) -> usize {
    usize::try_from(dice.roll() % limit.max(1) as u64).unwrap()
}

/// One to four changes, each at a random place.
fn mutated(dice: &Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[below(dice, seeds.len())].clone();
    for _ in 0..=below(dice, 4) {
        let at = below(dice, bytes.len() + 1);
        let until = at + below(dice, (bytes.len() - at).min(16) + 1);
        match below(dice, 6) {
            0 => bytes[at..until].iter_mut().for_each(|byte| *byte = dice.roll().to_le_bytes()[0]),
            1 => drop(bytes.drain(at..until)),
            2 => drop(bytes.splice(at..at, bytes[at..until].to_vec())),
            3 => drop(bytes.splice(at..until, WORDS[below(dice, WORDS.len())].iter().copied())),
            4 => drop(bytes.splice(at..at, WORDS[below(dice, WORDS.len())].iter().copied())),
            _ => {
                let other = &seeds[below(dice, seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[below(dice, other.len() + 1)..]);
            }
        }
    }
    bytes
}

fn holds(name: &str) {
    let (_, target, seeds) = targets().into_iter().find(|(found, ..)| *found == name).unwrap();
    for seed in &seeds {
        target(seed);
    }
    let dice = Dice::new(2026);
    for _ in 0..RUNS {
        target(&mutated(&dice, &seeds));
    }
}

#[test]
fn what_the_strict_reader_passes_another_parser_reads_the_same() {
    holds("strict");
}

#[test]
fn whoever_a_mutated_head_is_from_is_named_in_it() {
    holds("identify");
}

#[test]
fn no_mutated_context_is_believed() {
    holds("context");
}

#[test]
fn no_mutated_redirect_is_believed_and_none_takes_a_tenant_back() {
    holds("redirect");
}

#[test]
fn a_mutated_answer_is_heard_as_the_library_hears_it() {
    holds("answer");
}
