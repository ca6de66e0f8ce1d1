//! What logical decoding says (`pgoutput`, protocol 1), read. Nothing in it is believed: lengths are checked, and
//! what cannot be read is an error, never a panic.

use bytes::{Buf, Bytes};
use cell_protos::v1 as wire;
use cell_protos::v1::table_value::Value;

/// A message that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of the change stream cannot be read: {0}")]
pub(crate) struct Malformed(&'static str);

/// What a table looked like when the changes after this were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) id: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// Names, in the order of the values.
    pub(crate) columns: Vec<String>,
}

/// A row's values, in the relation's order.
pub(crate) type Tuple = Vec<wire::TableValue>;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    Relation(Relation),
    Insert {
        relation: u32,
        new: Tuple,
    },
    /// `old` only where the key has changed, or where the whole old row is logged.
    Update {
        relation: u32,
        old: Option<Tuple>,
        new: Tuple,
    },
    Delete {
        relation: u32,
        old: Tuple,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Nothing that matters here.
    Other,
}

fn need(data: &Bytes, bytes: usize) -> Result<(), Malformed> {
    if data.len() < bytes { Err(Malformed("it ends too early")) } else { Ok(()) }
}

fn byte(data: &mut Bytes) -> Result<u8, Malformed> {
    need(data, 1)?;
    Ok(data.get_u8())
}

fn short(data: &mut Bytes) -> Result<u16, Malformed> {
    need(data, 2)?;
    Ok(data.get_u16())
}

fn long(data: &mut Bytes) -> Result<u32, Malformed> {
    need(data, 4)?;
    Ok(data.get_u32())
}

fn name(data: &mut Bytes) -> Result<String, Malformed> {
    let end = data.iter().position(|byte| *byte == 0).ok_or(Malformed("a name has no end"))?;
    let name = data.split_to(end);
    data.advance(1);
    String::from_utf8(name.into()).map_err(|_| Malformed("a name is not UTF-8"))
}

fn value(data: &mut Bytes) -> Result<wire::TableValue, Malformed> {
    let value = match byte(data)? {
        b'n' => Value::Null(true),
        b'u' => Value::Unchanged(true),
        b't' => {
            let bytes = usize::try_from(long(data)?).map_err(|_| Malformed("a value is too long"))?;
            need(data, bytes)?;
            let text = String::from_utf8(data.split_to(bytes).into());
            Value::Text(text.map_err(|_| Malformed("a value is not UTF-8"))?)
        }
        _ => return Err(Malformed("a value of an unknown kind")),
    };
    Ok(wire::TableValue { value: Some(value) })
}

fn tuple(data: &mut Bytes) -> Result<Tuple, Malformed> {
    (0..short(data)?).map(|_| value(data)).collect()
}

/// Reads one message.
pub(crate) fn read(mut data: Bytes) -> Result<Message, Malformed> {
    let data = &mut data;
    match byte(data)? {
        b'R' => {
            let (id, schema, table) = (long(data)?, name(data)?, name(data)?);
            byte(data)?;
            let column = |data: &mut Bytes| {
                byte(data)?;
                let column = name(data)?;
                long(data)?;
                long(data)?;
                Ok(column)
            };
            let columns = (0..short(data)?).map(|_| column(data)).collect::<Result<_, _>>()?;
            Ok(Message::Relation(Relation { id, schema, name: table, columns }))
        }
        b'I' => {
            let relation = long(data)?;
            match byte(data)? {
                b'N' => Ok(Message::Insert { relation, new: tuple(data)? }),
                _ => Err(Malformed("an insert without a row")),
            }
        }
        b'U' => {
            let relation = long(data)?;
            let mut kind = byte(data)?;
            let mut old = None;
            if matches!(kind, b'K' | b'O') {
                old = Some(tuple(data)?);
                kind = byte(data)?;
            }
            match kind {
                b'N' => Ok(Message::Update { relation, old, new: tuple(data)? }),
                _ => Err(Malformed("an update without a row")),
            }
        }
        b'D' => {
            let relation = long(data)?;
            match byte(data)? {
                b'K' | b'O' => Ok(Message::Delete { relation, old: tuple(data)? }),
                _ => Err(Malformed("a deletion without a key")),
            }
        }
        b'T' => {
            let tables = long(data)?;
            byte(data)?;
            let relations = (0..tables).map(|_| long(data)).collect::<Result<_, _>>()?;
            Ok(Message::Truncate { relations })
        }
        b'Y' | b'O' => Ok(Message::Other),
        _ => Err(Malformed("of an unknown kind")),
    }
}

/// The text of a value that has one.
pub(crate) fn text(value: &wire::TableValue) -> Option<&str> {
    match &value.value {
        Some(Value::Text(text)) => Some(text),
        Some(Value::Unchanged(_) | Value::Null(_)) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(kind in "[RIUDTYOX]", data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let message = [kind.as_bytes(), &data].concat();
            let _read = read(message.into());
        }
    }

    #[test]
    fn an_update_that_moves_a_key_has_both() {
        let mut data = b"U\0\0\0\x07K\0\x02t\0\0\0\x01an".to_vec();
        data.extend(b"N\0\x02t\0\0\0\x01bu");
        let Ok(Message::Update { relation: 7, old: Some(old), new }) = read(data.into()) else { panic!() };
        assert_eq!((text(&old[0]), text(&new[0])), (Some("a"), Some("b")));
        assert_eq!(old[1].value, Some(Value::Null(true)));
        assert_eq!(new[1].value, Some(Value::Unchanged(true)));
    }
}
