//! Amounts of bytes (`64Mi`) and durations (`30s`, `1m30s`) as they stand in the resource.
//!
//! Pure. What these functions accept is what the patterns and CEL rules of the definition accept; they are
//! called again because the command line reads manifests that no API server has seen.

use std::time::Duration;

/// Why a text is no amount or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number followed by a unit.
    #[error("`{text}` is not {expected}")]
    Form {
        /// The text as written.
        text: String,
        /// What would have been right, with an example.
        expected: &'static str,
    },
    /// More than 64 bits.
    #[error("`{text}` is too large")]
    TooLarge {
        /// The text as written.
        text: String,
    },
}

const BYTES: &str =
    "an amount of bytes; write a whole number and one of k, M, G, Ki, Mi, Gi, for instance 64Mi";
const DURATION: &str = "a duration; write whole numbers with h, m, s or ms, for instance 30s or 1m30s";

/// Bytes of a text such as `64Mi`, `500M` or `1048576`.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    let (digits, unit) = split_number(text);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(form(text, BYTES)),
    };
    number(text, digits, BYTES)?.checked_mul(factor).ok_or_else(|| too_large(text))
}

/// The duration of a text such as `30s`, `5m`, `1h` or `1m30s`.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    if text.is_empty() {
        return Err(form(text, DURATION));
    }
    let mut rest = text;
    let mut milliseconds: u64 = 0;
    while !rest.is_empty() {
        let (digits, tail) = split_number(rest);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(form(text, DURATION)),
        };
        milliseconds = number(text, digits, DURATION)?
            .checked_mul(factor)
            .and_then(|part| milliseconds.checked_add(part))
            .ok_or_else(|| too_large(text))?;
        rest = next;
    }
    Ok(Duration::from_millis(milliseconds))
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn number(text: &str, digits: &str, expected: &'static str) -> Result<u64, QuantityError> {
    if digits.is_empty() {
        return Err(form(text, expected));
    }
    // Only digits are left, so the one thing that can go wrong is their number.
    digits.parse().map_err(|_| too_large(text))
}

fn form(text: &str, expected: &'static str) -> QuantityError {
    QuantityError::Form { text: text.to_owned(), expected }
}

fn too_large(text: &str) -> QuantityError {
    QuantityError::TooLarge { text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn amounts_are_read_with_binary_and_decimal_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("64Mi", 64 << 20),
            ("2Gi", 2 << 30),
            ("16Ki", 16_384),
            ("500M", 500_000_000),
            ("3k", 3_000),
            ("1G", 1_000_000_000),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_with_an_example() {
        for text in ["", "Mi", "64 Mi", "-1Mi", "1.5Gi", "64MiB", "64mi", "٣Mi"] {
            let message = parse_bytes(text).unwrap_err().to_string();
            assert!(message.contains("for instance 64Mi"), "{text}: {message}");
        }
        assert_eq!(parse_bytes("18446744073709551615Ki"), Err(too_large("18446744073709551615Ki")));
        assert_eq!(parse_bytes("99999999999999999999"), Err(too_large("99999999999999999999")));
    }

    #[test]
    fn durations_are_read_in_one_or_several_parts() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("250ms", 250),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in ["", "s", "30", "30 s", "-5m", "1.5h", "1d", "5mm"] {
            let message = parse_duration(text).unwrap_err().to_string();
            assert!(message.contains("for instance 30s"), "{text}: {message}");
        }
        assert_eq!(parse_duration("18446744073709551615h"), Err(too_large("18446744073709551615h")));
    }
}
