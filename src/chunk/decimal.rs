//! Decimal numbers as they are written, so that no digit is lost in a float.
//!
//! Invariants: exact at any length; exponents saturate and so are compared, never expanded.

use std::cmp::Ordering;

/// A number as written, split up. Built from text only.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: i64,
    /// Without point and exponent: what JSON parsers read as an integer.
    is_integer_literal: bool,
}

/// Sign, digits without zeros at either end, and the power of ten in `0.DIGITS * 10^power`.
/// Zero is no digits at all, without sign.
#[derive(PartialEq, Eq)]
struct Normal {
    negative: bool,
    digits: Vec<u8>,
    power: i64,
}

impl<'a> Decimal<'a> {
    /// JSON's grammar, but leading zeros are taken too.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
            Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
            None => (unsigned, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, Some(fraction)),
            Some(_) => return None,
            None => (mantissa, None),
        };
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_digits(whole) || !fraction.is_none_or(is_digits) {
            return None;
        }
        let is_integer_literal = exponent.is_none() && fraction.is_none();
        let exponent = exponent.map_or(Some(0), parse_exponent)?;
        Some(Self { negative, whole, fraction: fraction.unwrap_or_default(), exponent, is_integer_literal })
    }

    fn normal(&self) -> Normal {
        let mut digits: Vec<u8> = self.whole.bytes().chain(self.fraction.bytes()).collect();
        let leading = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..leading);
        let trailing = digits.iter().rev().take_while(|digit| **digit == b'0').count();
        digits.truncate(digits.len() - trailing);
        if digits.is_empty() {
            return Normal { negative: false, digits, power: 0 };
        }
        let power = self.exponent.saturating_add(signed(self.whole.len())).saturating_sub(signed(leading));
        Normal { negative: self.negative, digits, power }
    }

    /// The value times `10^places`, rounded towards minus infinity, and whether that was exact.
    /// `None` beyond 30 digits.
    pub(super) fn floor(&self, places: u32) -> Option<(i128, bool)> {
        let Normal { negative, digits, power } = self.normal();
        let whole_digits = power.saturating_add(i64::from(places));
        if whole_digits > 30 {
            return None;
        }
        let whole_digits = usize::try_from(whole_digits).unwrap_or(0);
        let is_exact = digits.len() <= whole_digits;
        let padded = digits.into_iter().chain(std::iter::repeat(b'0')).take(whole_digits);
        let magnitude = padded.fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0'));
        let floor = match (negative, is_exact) {
            (false, _) => magnitude,
            (true, true) => -magnitude,
            (true, false) => -magnitude - 1,
        };
        // Digits behind a power below zero are a remainder, however many places were asked for.
        Some((floor, is_exact))
    }

    /// The value, if it is an integer.
    pub(super) fn integer(&self) -> Option<i64> {
        let (value, is_exact) = self.floor(0)?;
        is_exact.then(|| i64::try_from(value).ok()).flatten()
    }

    /// Whether the value lies within `-limit..=limit`.
    pub(super) fn is_within(&self, limit: i64) -> bool {
        let Some((floor, is_exact)) = self.floor(0) else { return false };
        let limit = i128::from(limit);
        floor >= -limit && (floor < limit || (floor == limit && is_exact))
    }
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Where exponents saturate: far beyond any text's length, and still far from overflow.
const MOST_EXPONENT: i64 = 1 << 40;

fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value =
        digits.bytes().fold(0_i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(MOST_EXPONENT));
    Some(if negative { -value } else { value })
}

/// Whether a server that was given `written` may answer `read`.
///
/// Servers keep integers exactly, but read and print what has a point or an exponent as a double.
pub(super) fn is_same_number(written: &str, read: &str) -> bool {
    if written == read {
        return true;
    }
    let (Some(mine), Some(theirs)) = (Decimal::parse(written), Decimal::parse(read)) else { return false };
    if mine.normal() == theirs.normal() {
        return true;
    }
    let as_double = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
    !mine.is_integer_literal
        && !theirs.is_integer_literal
        && matches!((as_double(written), as_double(read)),
            (Some(a), Some(b)) if a.partial_cmp(&b) == Some(Ordering::Equal))
}

/// How many characters Python's `str()` needs for a number, at most.
///
/// `None` for one that no double can hold: readers and servers make an infinity of it.
pub(super) fn printed_length(number: &str) -> Option<usize> {
    let double: f64 = number.parse().ok()?;
    if !double.is_finite() {
        return None;
    }
    // Two more than Rust needs: Python writes exponents with a sign and two digits. Some parsers take
    // `-0` for a float, to keep its sign.
    let is_float = number.contains(['.', 'e', 'E']) || number == "-0";
    let printed = if is_float { format!("{double:?}").len() + 2 } else { 0 };
    Some(number.len().max(printed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::{Decimal, is_same_number, printed_length};

    #[test]
    fn floors_exactly() {
        for (text, places, expected) in [
            ("0", 0, Some((0, true))),
            ("-0", 3, Some((0, true))),
            ("12", 0, Some((12, true))),
            ("12.0", 0, Some((12, true))),
            ("12.9", 0, Some((12, false))),
            ("-12.1", 0, Some((-13, false))),
            ("1.2e1", 0, Some((12, true))),
            ("120e-1", 0, Some((12, true))),
            ("0.0005", 3, Some((0, false))),
            ("-0.0005", 3, Some((-1, false))),
            ("0.0005", 4, Some((5, true))),
            ("1e-99999999999999999999", 3, Some((0, false))),
            ("1e29", 0, Some((10_i128.pow(29), true))),
            ("1e30", 0, None),
            ("1e99999999999999999999", 0, None),
            ("0e99999999999999999999", 0, Some((0, true))),
        ] {
            assert_eq!(Decimal::parse(text).unwrap().floor(places), expected, "{text}");
        }
        for text in ["", "-", "+1", ".5", "1.", "1.e1", "1e", "1e+", "0x1", "1_0", " 1", "1 ", "NaN", "١"] {
            assert!(Decimal::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn numbers_are_the_same_by_value_or_by_what_a_double_makes_of_them() {
        for (written, read, expected) in [
            ("1.0", "1", true),
            ("1", "1.0", true),
            ("1.10", "1.1", true),
            ("1e2", "100.0", true),
            ("-0.0", "0", true),
            ("1e-99999999999", "1e-99999999999", true),
            ("9007199254740993", "9007199254740992", false),
            ("9007199254740993", "9.007199254740992E15", false),
            ("9007199254740993.0", "9.007199254740992E15", true),
            ("0.12345678901234567890", "0.12345678901234568", true),
            ("0.1", "0.10000000000000002", false),
            ("1e400", "1e401", false),
            ("1", "-1", false),
            ("1", "10", false),
        ] {
            assert_eq!(is_same_number(written, read), expected, "{written} {read}");
        }
    }

    #[test]
    fn lengths_are_never_below_what_python_prints() {
        for (number, python) in [("1", 1), ("1.50", 3), ("1e5", 8), ("1e16", 5), ("0.00001", 5), ("1e-5", 5)]
        {
            assert!(printed_length(number).unwrap() >= python, "{number}");
        }
        assert_eq!(printed_length("1e400"), None);
    }
}
