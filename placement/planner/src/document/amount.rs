//! Amounts as they are written. What is there and is no number is read as one that no fleet takes: the builder then tells
//! of it with tenant, field and what is allowed, which a parser does not know.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Hourly;

/// One amount.
struct Amount(f64);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Amounts).map(|hourly| match hourly {
            Hourly::Flat(value) => Self(value),
            Hourly::ByHour(_) => Self(f64::NAN),
        })
    }
}

impl<'de> Deserialize<'de> for Hourly {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Amounts)
    }
}

struct Amounts;

impl<'de> Visitor<'de> for Amounts {
    type Value = Hourly;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one amount, or 24")
    }

    fn visit_f64<E>(self, value: f64) -> Result<Hourly, E> {
        Ok(Hourly::Flat(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "what is so large is refused")]
    fn visit_u64<E>(self, value: u64) -> Result<Hourly, E> {
        Ok(Hourly::Flat(value as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "what is negative is refused")]
    fn visit_i64<E>(self, value: i64) -> Result<Hourly, E> {
        Ok(Hourly::Flat(value as f64))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Hourly, E> {
        Ok(Hourly::Flat(f64::NAN))
    }

    fn visit_str<E>(self, _: &str) -> Result<Hourly, E> {
        Ok(Hourly::Flat(f64::NAN))
    }

    fn visit_unit<E>(self) -> Result<Hourly, E> {
        Ok(Hourly::Flat(f64::NAN))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hourly, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Hourly::Flat(f64::NAN))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Hourly, A::Error> {
        let mut hours = Vec::with_capacity(crate::resource::HOURS);
        while let Some(Amount(value)) = values.next_element()? {
            hours.push(value);
        }
        Ok(Hourly::ByHour(hours))
    }
}

/// What to say where a text stops being JSON at a word that other languages have for a number. Line and column count
/// from 1.
pub(super) fn no_number_at(text: &str, line: usize, column: usize) -> Option<String> {
    let row = text.lines().nth(line.checked_sub(1)?)?;
    let begin = row.as_ptr() as usize - text.as_ptr() as usize;
    let words = ["NaN", "nan", "Infinity", "-Infinity", "inf", "-inf"];
    // The parser names the first character that cannot be, or the one before it.
    let (at, word) = (column.saturating_sub(2)..=column).find_map(|at| {
        let rest = row.get(at..)?;
        words.into_iter().find(|word| rest.starts_with(word)).map(|word| (at, word))
    })?;
    let before = &text[..begin + at];
    let tenant = quoted_after(before, "\"id\"");
    let tenant = tenant.map(|id| format!(" of {id}")).unwrap_or_default();
    let field = ["\"mean\"", "\"deviation\"", "\"reserve\"", "\"cpu\"", "\"connections\"", "\"storage\""];
    let last = field.into_iter().filter_map(|name| Some((before.rfind(name)?, name))).max();
    let field = last.map_or_else(|| "an amount".to_owned(), |(_, name)| name.trim_matches('"').to_owned());
    Some(format!("{field}{tenant} is {word}, which JSON does not have"))
}

/// The text in quotes that follows the last such key.
fn quoted_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = text.get(text.rfind(key)? + key.len()..)?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_amount_and_24_are_read_and_what_is_no_number_is_kept_apart() {
        let read = |text: &str| serde_json::from_str::<Hourly>(text).unwrap();
        assert_eq!([read("3"), read("2.5"), read("-1")].map(|of| of), [3.0, 2.5, -1.0].map(Hourly::Flat));
        assert_eq!(read("[1, 2.5]"), Hourly::ByHour(vec![1.0, 2.5]));
        for odd in ["null", "\"much\"", "true", "{\"a\":[1]}"] {
            assert!(matches!(read(odd), Hourly::Flat(value) if value.is_nan()), "{odd}");
            let within = format!("[1, {odd}]");
            assert!(matches!(read(&within), Hourly::ByHour(values) if values[1].is_nan()), "{odd}");
        }
        assert!(serde_json::from_str::<Hourly>("[1").is_err());
    }

    #[test]
    fn a_word_for_no_number_is_told_with_its_field_and_its_tenant() {
        let text = "{\"tenants\":[\n{\"id\": \"acme\", \"demand\":{\"cpu\":{\"mean\": NaN}}}]}";
        let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
        let told = no_number_at(text, error.line(), error.column());
        assert_eq!(told.as_deref(), Some("mean of acme is NaN, which JSON does not have"));
        assert_eq!(no_number_at("{\"a\": x}", 1, 7), None);
        assert_eq!(no_number_at("", 1, 0), None);
    }
}
