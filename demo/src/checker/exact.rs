//! JSON values that keep what was written: a number is its digits, not a float.
//!
//! The usual parsed value would turn 9007199254740993 written with a point into another number, and a feature
//! that keeps digits would change the JSON library for every crate built together with this one.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// A JSON value.
#[derive(Debug, Clone)]
pub enum Exact {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number as it is written.
    Number(String),
    /// A string, decoded.
    Text(String),
    /// A list.
    List(Vec<Exact>),
    /// An object.
    Object(BTreeMap<String, Exact>),
    /// A string that is not Unicode (half of a surrogate pair).
    Unreadable,
}

impl Exact {
    /// Parses what a JSON parser accepted as a value already.
    #[must_use]
    pub fn parse(raw: &RawValue) -> Self {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'{') => match serde_json::from_str::<BTreeMap<String, &RawValue>>(text) {
                Ok(fields) => {
                    Self::Object(fields.into_iter().map(|(key, value)| (key, Self::parse(value))).collect())
                }
                Err(_) => Self::Unreadable,
            },
            Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(text) {
                Ok(items) => Self::List(items.into_iter().map(Self::parse).collect()),
                Err(_) => Self::Unreadable,
            },
            Some(b'"') => serde_json::from_str(text).map_or(Self::Unreadable, Self::Text),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number(text.to_owned()),
        }
    }

    /// The same value. Integers agree in every digit. Where a point or an exponent is written, two numbers agree
    /// also when they are the same double: a server that rewrites `_source` prints them so.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => same_number(a, b),
            (Self::List(a), Self::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b)),
            (Self::Object(a), Self::Object(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|((ka, va), (kb, vb))| ka == kb && va.same(vb))
            }
            _ => false,
        }
    }
}

fn same_number(a: &str, b: &str) -> bool {
    if Decimal::parse(a).is_some_and(|a| Decimal::parse(b) == Some(a)) {
        return true;
    }
    let fractional = |text: &str| text.contains(['.', 'e', 'E']);
    // Bits, so that -0.0 and 0.0 are told apart only by their decimals above.
    (fractional(a) || fractional(b))
        && matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a.to_bits() == b.to_bits())
}

/// A decimal number: `digits * 10^exponent`, without zeros at either end of the digits; zero has none.
#[derive(Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Reads a JSON number; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, power) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, power)) => (mantissa, power.parse::<i64>().ok()?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        if whole.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits = all.trim_start_matches('0');
        let significant = digits.trim_end_matches('0');
        if significant.is_empty() {
            return Some(Self { negative: false, digits: String::new(), exponent: 0 });
        }
        let dropped = i64::try_from(digits.len() - significant.len()).ok()?;
        let exponent = power.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(dropped)?;
        Some(Self { negative, digits: significant.to_owned(), exponent })
    }

    /// The value, if it is an integer that fits.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        (self.exponent >= 0).then(|| self.floor(0)).flatten()
    }

    /// `value * 10^places`, rounded towards minus infinity, if it fits.
    #[must_use]
    pub fn floor(&self, places: i64) -> Option<i64> {
        if self.digits.is_empty() {
            return Some(0);
        }
        let shift = self.exponent.checked_add(places)?;
        let digits: i128 = self.digits.get(..self.digits.len().min(36))?.parse().ok()?;
        let signed = if self.negative { -digits } else { digits };
        // Digits beyond the 36th only matter below every place that is asked for here.
        let shift = shift + i64::try_from(self.digits.len().saturating_sub(36)).ok()?;
        let result = if shift >= 0 {
            signed.checked_mul(10_i128.checked_pow(u32::try_from(shift).ok()?)?)?
        } else {
            match 10_i128.checked_pow(u32::try_from(-shift).ok()?) {
                Some(divisor) => signed.div_euclid(divisor),
                None => -i128::from(self.negative),
            }
        };
        i64::try_from(result).ok()
    }

    /// True within ±9999999999999999, what the application's readers take.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let length = i64::try_from(self.digits.len()).unwrap_or(i64::MAX);
        let whole_digits = length.saturating_add(self.exponent);
        if whole_digits != 16 {
            return whole_digits < 16;
        }
        // Sixteen nines is the limit itself; anything after the point is above it.
        !(self.exponent < 0 && self.digits.bytes().take(16).all(|digit| digit == b'9'))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        let parse = |text: &str| Exact::parse(&serde_json::from_str::<Box<RawValue>>(text).unwrap());
        parse(a).same(&parse(b))
    }

    #[test]
    fn tells_neighbouring_integers_apart_and_spellings_of_one_number_not() {
        assert!(!same("9007199254740993", "9007199254740992"));
        assert!(same("1.50", "1.5") && same("1e2", "100") && same("-0", "0"));
        assert!(same("0.1000000000000000055", "0.1"));
        assert!(!same("0.1", "0.2") && !same("\"1\"", "1") && !same("[1]", "1") && !same("null", "false"));
        assert!(same("{\"a\":[1,null],\"b\":\"é\"}", "{\"b\":\"\\u00e9\",\"a\":[1.0,null]}"));
    }

    #[test]
    fn knows_which_numbers_readers_take() {
        let readable = |text: &str| Decimal::parse(text).unwrap().is_readable();
        assert!(
            readable("9999999999999999") && readable("-9999999999999999") && readable("9999999999999998.5")
        );
        assert!(readable("0") && readable("1e15") && readable("1e-300"));
        assert!(
            !readable("10000000000000000")
                && !readable("9999999999999999.5")
                && !readable("1e16")
                && !readable("1e300")
        );
    }

    #[test]
    fn rounds_down() {
        assert_eq!(Decimal::parse("1700000000.2567").unwrap().floor(3), Some(1_700_000_000_256));
        assert_eq!(Decimal::parse("-0.5").unwrap().floor(0), Some(-1));
        assert_eq!(Decimal::parse("12.0").unwrap().integer(), Some(12));
        assert_eq!(Decimal::parse("12.5").unwrap().integer(), None);
        assert_eq!(Decimal::parse("1e300").unwrap().integer(), None);
    }
}
