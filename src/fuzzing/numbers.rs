//! Fast paths beside the plain ones: both must say the same of any text.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::choice;
use crate::chunk::internals::{
    is_same_number, is_within, printed_length, read_date, read_decimal, read_float, read_integer, read_vector,
};

/// Standard alphabet, with or without padding.
const PLAIN: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Embeddings in base64: what the fast decoder takes, the plain one takes, bit by bit; and the other way around.
pub fn vector(data: &[u8]) {
    let (chosen, rest) = choice(data);
    let Ok(text) = std::str::from_utf8(rest) else { return };
    // The size that fits the text, or one beside it.
    let fitting = text.trim_end_matches('=').len() * 3 / 16;
    let size = (fitting + usize::from(chosen % 3)).saturating_sub(1);
    let is_hexadecimal = text.len() == size * 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let plain =
        PLAIN.decode(text).ok().filter(|bytes| bytes.len() == size * 4 && size > 0 && !is_hexadecimal);
    let expected: Option<Vec<u32>> = plain.map(|bytes| {
        let (fours, _) = bytes.as_chunks::<4>();
        fours.iter().map(|four| u32::from_be_bytes(*four)).collect()
    });
    let read = read_vector(text, size);
    if let Some(read) = &read {
        assert_eq!(read.len(), size);
        assert!(read.iter().all(|bits| f32::from_bits(*bits).is_finite()));
    }
    let is_usable = |bits: &Vec<u32>| {
        let values = bits.iter().map(|bits| f64::from(f32::from_bits(*bits)));
        let length: f64 = values.map(|value| value * value).sum();
        length.is_finite() && (1e-30..1e38).contains(&length)
    };
    match expected {
        Some(expected) if is_usable(&expected) => assert_eq!(read, Some(expected), "{text}"),
        Some(expected) => assert!(read.is_none_or(|read| read == expected), "{text}"),
        None => {}
    }
}

/// Numbers of JSON: floats and decimals beside the standard library.
pub fn number(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    float(text);
    let (one, other) = text.split_once(' ').unwrap_or((text, text));
    decimal(one);
    assert_eq!(is_same_number(one, other), is_same_number(other, one), "{one} {other}");
    if let Ok(raw) = serde_json::to_string(text) {
        date(&raw);
    }
}

fn float(text: &str) {
    let is_number = is_json_number(text);
    match read_float(text.as_bytes(), 0) {
        Some((value, end)) => {
            let number = text.get(..end).unwrap_or_default();
            assert!(is_json_number(number), "{number}");
            let expected = number.parse::<f32>().map(f32::to_bits).ok();
            assert_eq!(Some(value.to_bits()), expected, "{number}");
            assert!(!is_number || end == text.len(), "{text}: read up to {end}");
        }
        None => assert!(!is_number, "{text}"),
    }
}

/// By the grammar, not by the size.
fn is_json_number(text: &str) -> bool {
    let begins_so = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let ends_so = text.ends_with(|c: char| c.is_ascii_digit());
    begins_so && ends_so && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}

fn decimal(text: &str) {
    if is_json_number(text) {
        assert!(is_within(text, i64::MAX).is_some(), "{text}");
        assert!(is_same_number(text, text));
    }
    let is_integer = !text.contains(['.', 'e', 'E', '+']);
    if is_integer && let Ok(value) = text.parse::<i64>() {
        assert_eq!(read_integer(text), Some(value), "{text}");
        assert_eq!(is_within(text, 1_000), Some((-1_000..=1_000).contains(&value)), "{text}");
    }
    if let Some((floor, is_exact)) = read_decimal(text, 0)
        && let Ok(double) = text.parse::<f64>()
        && double.abs() < 1e15
    {
        #[allow(clippy::cast_precision_loss)]
        let difference = double - floor as f64;
        assert!((-1e-1..=1.1).contains(&difference), "{text}: {floor}");
        assert!(!is_exact || difference.abs() < 1e-1, "{text}: {floor}");
    }
    if let Some(length) = printed_length(text) {
        assert!(length >= text.len());
    }
}

/// A date is written so that it reads as itself.
fn date(raw: &str) {
    let Some(written) = read_date(raw) else { return };
    assert!((20..=24).contains(&written.len()), "{written}");
    assert_eq!(read_date(&format!("\"{written}\"")).as_ref(), Some(&written), "{raw}");
}
