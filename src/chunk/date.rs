//! Dates of chunks: numbers, numeric strings and ISO 8601 in, ISO 8601 in UTC out.
//!
//! Resolution is the millisecond, rounded towards the past: that is what Elasticsearch's `date`
//! keeps, so a finer text would differ from what another server or another run makes of it.
//! Nothing here reads a clock.

use jiff::{SignedDuration, Timestamp, civil::DateTime};

use super::{decimal::Decimal, scan::Value, text::python_strip};

/// From here on a number is milliseconds, below it seconds (which end at the year 5138 then).
const LEAST_MILLISECONDS: i128 = 100_000_000_000;
/// No number of milliseconds has more than 14 digits.
const BEYOND_MILLISECONDS: i128 = 100_000_000_000_000;

/// Date and time in UTC to the millisecond, within the years 1 to 9999.
///
/// Not a `Timestamp`: those end a day before 9999-12-31, which people write for "never".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(DateTime);

impl Moment {
    /// `None` outside the years 1 to 9999, which no ISO date with four digits can say.
    pub(super) fn from_timestamp(timestamp: Timestamp) -> Option<Self> {
        Self::from_milliseconds(timestamp.as_nanosecond().div_euclid(1_000_000))
    }

    fn from_milliseconds(milliseconds: i128) -> Option<Self> {
        let since = SignedDuration::from_millis(i64::try_from(milliseconds).ok()?);
        Self::from_utc(DateTime::constant(1970, 1, 1, 0, 0, 0, 0).checked_add(since).ok()?)
    }

    fn from_utc(utc: DateTime) -> Option<Self> {
        (1..=9999).contains(&utc.year()).then_some(Self(utc))
    }

    /// What a chunk's metadata says, or `None` if it is no date.
    pub(super) fn read(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Number(number) => Self::from_number(&Decimal::parse(number)?),
            Value::Text(text) => {
                let text = text.decode().ok()?;
                let text = python_strip(&text);
                match Decimal::parse(text) {
                    Some(number) => Self::from_number(&number),
                    None => Self::from_iso(text),
                }
            }
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Object(_) => None,
        }
    }

    fn from_number(number: &Decimal<'_>) -> Option<Self> {
        let (whole, _) = number.floor(0)?;
        let milliseconds = match whole.abs() {
            BEYOND_MILLISECONDS.. => return None,
            LEAST_MILLISECONDS.. => whole,
            _ => number.floor(3)?.0,
        };
        Self::from_milliseconds(milliseconds)
    }

    /// `YYYY-MM-DD`, then optionally `T` or a space, `HH:MM`, `:SS`, `.FRACTION`, and an offset (`Z`,
    /// `+HH`, `+HHMM`, `+HH:MM`). Without an offset it is UTC.
    fn from_iso(text: &str) -> Option<Self> {
        let mut rest = text;
        let year = digits(&mut rest, 4)?;
        symbol(&mut rest, &['-'])?;
        let month = digits(&mut rest, 2)?;
        symbol(&mut rest, &['-'])?;
        let day = digits(&mut rest, 2)?;
        let (mut hour, mut minute, mut second, mut nanosecond, mut offset) = (0, 0, 0, 0, 0);
        if !rest.is_empty() {
            symbol(&mut rest, &['T', 't', ' '])?;
            hour = digits(&mut rest, 2)?;
            symbol(&mut rest, &[':'])?;
            minute = digits(&mut rest, 2)?;
            if symbol(&mut rest, &[':']).is_some() {
                second = digits(&mut rest, 2)?;
                if symbol(&mut rest, &['.', ',']).is_some() {
                    nanosecond = fraction(&mut rest)?;
                }
            }
            offset = offset_seconds(rest.trim_start_matches(' '))?;
        }
        let civil = DateTime::new(
            i16::try_from(year).ok()?,
            i8::try_from(month).ok()?,
            i8::try_from(day).ok()?,
            i8::try_from(hour).ok()?,
            i8::try_from(minute).ok()?,
            i8::try_from(second).ok()?,
            nanosecond - nanosecond % 1_000_000,
        )
        .ok()?;
        Self::from_utc(civil.checked_sub(SignedDuration::from_secs(offset.into())).ok()?)
    }

    /// `2024-05-01T12:00:00Z`, or with exactly three digits of a fraction where there is one.
    pub(super) fn to_iso(self) -> String {
        let civil = self.0;
        let milliseconds = civil.millisecond();
        let fraction = if milliseconds == 0 { String::new() } else { format!(".{milliseconds:03}") };
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}Z",
            civil.year(),
            civil.month(),
            civil.day(),
            civil.hour(),
            civil.minute(),
            civil.second()
        )
    }
}

fn digits(rest: &mut &str, count: usize) -> Option<i32> {
    let (head, tail) = rest.split_at_checked(count)?;
    if !head.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    *rest = tail;
    head.parse().ok()
}

fn symbol(rest: &mut &str, any_of: &[char]) -> Option<()> {
    *rest = rest.strip_prefix(any_of)?;
    Some(())
}

/// Nanoseconds; digits beyond the ninth are below any resolution of ours.
fn fraction(rest: &mut &str) -> Option<i32> {
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    if length == 0 {
        return None;
    }
    let (written, tail) = rest.split_at(length);
    *rest = tail;
    let nine = written.bytes().chain(std::iter::repeat(b'0')).take(9);
    Some(nine.fold(0, |value, digit| value * 10 + i32::from(digit - b'0')))
}

fn offset_seconds(text: &str) -> Option<i32> {
    let (sign, mut rest) = match text.as_bytes().first() {
        None => return Some(0),
        Some(b'Z' | b'z') => return (text.len() == 1).then_some(0),
        Some(b'+') => (1, &text[1..]),
        Some(b'-') => (-1, &text[1..]),
        Some(_) => return None,
    };
    let hours = digits(&mut rest, 2)?;
    let minutes = if rest.is_empty() {
        0
    } else {
        let _ = symbol(&mut rest, &[':']);
        digits(&mut rest, 2)?
    };
    (rest.is_empty() && hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}
