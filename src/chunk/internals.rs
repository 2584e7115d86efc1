//! What the fuzz targets reach into: the fast paths, beside the plain ones that they must agree with.

use super::date::Moment;
use super::decimal::{self, Decimal};
use super::float;
use super::scan::Value;
use super::text::Text;
use super::vector::Vector;

/// The nearest `f32` to the JSON number that begins at `at`, and where that ends.
#[must_use]
pub fn read_float(bytes: &[u8], at: usize) -> Option<(f32, usize)> {
    float::read(bytes, at)
}

/// The value of a decimal number times `10^places`, rounded down, and whether that was exact; `None` if it is no number
/// or has more than 30 digits.
#[must_use]
pub fn read_decimal(text: &str, places: u32) -> Option<(i128, bool)> {
    Decimal::parse(text)?.floor(places)
}

/// The value of a decimal number, if it is an integer.
#[must_use]
pub fn read_integer(text: &str) -> Option<i64> {
    Decimal::parse(text)?.integer()
}

/// Whether the value of a decimal number lies within `-limit..=limit`; `None` if it is no number.
#[must_use]
pub fn is_within(text: &str, limit: i64) -> Option<bool> {
    Some(Decimal::parse(text)?.is_within(limit))
}

/// Whether a server that was given `written` may answer `read`.
#[must_use]
pub fn is_same_number(written: &str, read: &str) -> bool {
    decimal::is_same_number(written, read)
}

/// How many characters the application needs to print a number, at most.
#[must_use]
pub fn printed_length(number: &str) -> Option<usize> {
    decimal::printed_length(number)
}

/// The bits of an encoded embedding; `None` if it is refused.
#[must_use]
pub fn read_vector(text: &str, size: usize) -> Option<Vec<u32>> {
    let vector = Vector::read_encoded(text, size).ok()?;
    Some(vector.values.iter().map(|value| value.to_bits()).collect())
}

/// The date that a string (as JSON, with its quotes) says, as it is written.
#[must_use]
pub fn read_date(raw: &str) -> Option<String> {
    Moment::read(Value::Text(Text::scanned(raw))).map(Moment::to_iso)
}
