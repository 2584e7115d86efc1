//! The nearest `f32` to a number in a JSON text, fast: the hot path of every chunk.
//!
//! Invariants: correctly rounded (ties to even), never through a double whose own rounding could
//! show; exactly JSON's grammar; no allocation.
//!
//! How: the digits are gathered in an integer, eight at a time, and scaled by a power of ten in
//! double precision. That is off by less than three units of the double's last place, so it names
//! the right `f32` unless it lies that close to the middle between two of them. Then, as for
//! numbers too long, too large or too small, the standard library's exact parser decides.

/// Powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];
/// Their inverses, each off by at most half a unit of its last place: to multiply is much faster than to divide.
const INVERSES: [f64; 23] = [
    1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15,
    1e-16, 1e-17, 1e-18, 1e-19, 1e-20, 1e-21, 1e-22,
];
/// Powers of ten by the number of digits that are appended.
const TENS: [u64; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];
/// Beyond the error of the scaled double, in units of its last place.
const DOUBT: u64 = 16;

/// Reads the number that begins at `at`; gives it (infinite when too large) and the position
/// behind it, or `None` if there is no JSON number.
#[inline]
pub(super) fn read(bytes: &[u8], at: usize) -> Option<(f32, usize)> {
    let mut cursor = at;
    let negative = bytes.get(cursor) == Some(&b'-');
    cursor += usize::from(negative);

    let mut mantissa = 0_u64;
    let whole = cursor;
    if bytes.get(cursor) == Some(&b'0') && bytes.get(cursor + 1) == Some(&b'.') {
        // So begins nearly every element of a vector of length one.
        cursor += 1;
    } else {
        cursor = gather(bytes, cursor, &mut mantissa);
    }
    let whole_digits = cursor - whole;
    if whole_digits == 0 || (whole_digits > 1 && bytes[whole] == b'0') {
        return None;
    }
    let mut fraction_digits = 0;
    if bytes.get(cursor) == Some(&b'.') {
        let fraction = cursor + 1;
        cursor = gather(bytes, fraction, &mut mantissa);
        fraction_digits = cursor - fraction;
        if fraction_digits == 0 {
            return None;
        }
    }
    let mantissa_end = cursor;
    let mut exponent = 0_i64;
    if matches!(bytes.get(cursor), Some(b'e' | b'E')) {
        (exponent, cursor) = read_exponent(bytes, cursor + 1)?;
    }

    let mut digits = whole_digits + fraction_digits;
    if digits > 19 {
        let is_leading = |byte: &&u8| matches!(**byte, b'0' | b'.');
        let leading = &bytes[whole..mantissa_end];
        let zeros = leading.iter().take_while(is_leading).filter(|byte| **byte == b'0').count();
        digits -= zeros;
    }
    let power = exponent - i64::try_from(fraction_digits).ok()?;
    let quick = if digits <= 19 { scale(mantissa, power) } else { None };
    let magnitude = match quick {
        Some(value) => value,
        // The slice holds ASCII only, and a subset of what the standard parser takes.
        None => std::str::from_utf8(&bytes[whole..cursor]).ok()?.parse().ok()?,
    };
    Some((if negative { -magnitude } else { magnitude }, cursor))
}

/// Appends the digits from `at` on to `mantissa` (wrapping: the caller counts them).
#[inline]
fn gather(bytes: &[u8], at: usize, mantissa: &mut u64) -> usize {
    let mut cursor = at;
    while let Some(eight) = bytes.get(cursor..cursor + 8).and_then(|slice| slice.try_into().ok()) {
        let word = u64::from_le_bytes(eight);
        let count = leading_digits(word);
        if count == 8 {
            *mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(eight_digits(word));
            cursor += 8;
            continue;
        }
        if count > 0 {
            // The digits move behind zeros, so that eight are read and the first ones say nothing.
            let padded = word << (64 - 8 * count) | 0x3030_3030_3030_3030 >> (8 * count);
            *mantissa = mantissa.wrapping_mul(TENS[count]).wrapping_add(eight_digits(padded));
        }
        return cursor + count;
    }
    while let Some(digit @ b'0'..=b'9') = bytes.get(cursor) {
        *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        cursor += 1;
    }
    cursor
}

/// How many of eight bytes, from the lowest on, are ASCII digits before the first that is none.
fn leading_digits(word: u64) -> usize {
    let digits = word ^ 0x3030_3030_3030_3030;
    // The high bit of each byte that is beyond nine. A carry comes only out of such a byte, and reaches only the
    // ones above it.
    let beyond_nine = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
    beyond_nine.trailing_zeros() as usize / 8
}

/// Eight ASCII digits, the first in the lowest byte, as a number: pairs, then fours, then eight.
fn eight_digits(word: u64) -> u64 {
    let digits = word ^ 0x3030_3030_3030_3030;
    let pairs = (digits * 10 + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours * 10_000 + (fours >> 32)) & 0xffff_ffff
}

fn read_exponent(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    let signed = negative || bytes.get(at) == Some(&b'+');
    let start = at + usize::from(signed);
    let mut cursor = start;
    let mut value = 0_i64;
    while let Some(digit @ b'0'..=b'9') = bytes.get(cursor) {
        value = (value * 10 + i64::from(digit - b'0')).min(1 << 40);
        cursor += 1;
    }
    (cursor > start).then_some((if negative { -value } else { value }, cursor))
}

/// `mantissa * 10^power`, if that is beyond doubt and within the normal numbers.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn scale(mantissa: u64, power: i64) -> Option<f32> {
    if mantissa == 0 {
        return Some(0.0);
    }
    let factor = |exponent: u64| usize::try_from(exponent).ok().and_then(|index| POWERS.get(index));
    let double = match (power, power.unsigned_abs()) {
        (0.., size) => mantissa as f64 * factor(size)?,
        (_, size @ 0..=22) => mantissa as f64 * INVERSES[usize::try_from(size).ok()?],
        (_, size) => mantissa as f64 / POWERS[22] / factor(size - 22)?,
    };
    // Strictly inside the normal range of f32, with room for the double's own error.
    if !(1.2e-38..3.4e38).contains(&double) {
        return None;
    }
    // A double has 29 more bits of mantissa than an f32; half of their range is the middle.
    let below_middle = (double.to_bits() & 0x1fff_ffff).wrapping_sub(0x1000_0000 - DOUBT);
    (below_middle > 2 * DOUBT).then_some(double as f32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::read;

    fn assert_exact(text: &str) {
        let expected: f32 = text.parse().unwrap();
        let (value, end) = read(text.as_bytes(), 0).unwrap_or_else(|| panic!("{text} is a number"));
        assert_eq!((value.to_bits(), end), (expected.to_bits(), text.len()), "{text}");
    }

    #[test]
    fn reads_the_numbers_at_the_edges_exactly() {
        for text in [
            "0",
            "-0",
            "0.0",
            "-0.0",
            "1",
            "-1",
            "0.1",
            "-0.1",
            "123456789",
            "1e0",
            "1E+2",
            "1e-2",
            "16777217",
            "16777217.0000000000000000001",
            "16777219",
            "3.4028234e38",
            "3.4028235677973366e38",
            "3.4028236e38",
            "1e400",
            "-1e400",
            "1e-400",
            "1.17549435e-38",
            "1.1754942e-38",
            "1e-45",
            "7.006492321624085e-46",
            "7.006492321624086e-46",
            "0.00000000000000000000000000000000012345678901234567890",
            "1e99999999999999999999",
            "0.000000000000000000000000000000000000000000001",
            "18446744073709551615",
            "18446744073709551616",
            "12345678901234567890123",
            "0.01234567890123456789",
            "1.000000059604644775390625",
            "1.0000000596046448",
            "1.00000005960464477539062499999999999999999999999",
            "100000000",
            "12345678",
            "99999999.99999999",
        ] {
            assert_exact(text);
        }
    }

    #[test]
    fn refuses_what_is_no_json_number() {
        for text in
            ["", "-", "+1", ".5", "1.", "1.e5", "01", "-01", "1e", "1e+", "NaN", "inf", "\"1\"", "null"]
        {
            assert_eq!(read(text.as_bytes(), 0), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn agrees_with_the_exact_parser_on_doubles(value in proptest::num::f64::NORMAL) {
            assert_exact(&format!("{value:?}"));
        }
        #[test]
        fn agrees_with_the_exact_parser_on_elements_of_embeddings(value in -1.0..1.0_f64) {
            assert_exact(&format!("{value:?}"));
            assert_exact(&format!("{:e}", value / 1024.0));
        }
        #[test]
        fn agrees_with_the_exact_parser_next_to_the_middle_of_two_floats(
            bits in 0x0080_0000..0x7f00_0000_u32, nudge in -3..=3_i64
        ) {
            let low = f64::from(f32::from_bits(bits));
            let high = f64::from(f32::from_bits(bits + 1));
            let near = f64::from_bits(f64::midpoint(low, high).to_bits().wrapping_add_signed(nudge));
            assert_exact(&format!("{near:?}"));
            assert_exact(&format!("{near:.30}"));
        }
        #[test]
        fn agrees_with_the_exact_parser_on_any_digits(text in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?") {
            assert_exact(&text);
        }
    }
}
