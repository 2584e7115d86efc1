//! Strings: what their JSON says, and their lengths as the application's readers measure them.
//!
//! A string is decoded only where its meaning matters; what is passed on is passed on as it stands.

use std::borrow::Cow;

/// The longest text of a metadata key or string, in characters, after trimming.
const MOST_CHARACTERS: usize = 255;

/// Without white space at both ends, by Python's `str.strip`: Unicode's white space and the
/// four information separators, which Rust's `trim` keeps.
pub(super) fn python_strip(text: &str) -> &str {
    text.trim_matches(|character: char| character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}'))
}

/// Whether the readers take the text: 1 to 255 characters when trimmed.
///
/// Python's idea of white space and Unicode's differ by four characters, and which one a reader
/// uses depends on its release, so the text must pass by both.
pub(super) fn is_readable(text: &str) -> bool {
    !python_strip(text).is_empty() && text.trim().chars().nth(MOST_CHARACTERS).is_none()
}

/// Whether a length in characters is one that the readers take.
pub(super) fn is_readable_length(characters: usize) -> bool {
    (1..=MOST_CHARACTERS).contains(&characters)
}

/// A string as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    /// With its quotes.
    pub raw: &'a str,
    escaped: bool,
}

/// Half of a surrogate pair, which no Unicode text can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoneSurrogate;

impl<'a> Text<'a> {
    /// A string that the scanner found.
    pub(super) fn new(raw: &'a str, escaped: bool) -> Self {
        Self { raw, escaped }
    }

    /// A string that is known to be well-formed, with its quotes.
    pub(super) fn scanned(raw: &'a str) -> Self {
        Self { raw, escaped: raw.contains('\\') }
    }

    /// Between the quotes, still escaped.
    fn inner(self) -> &'a str {
        &self.raw[1..self.raw.len() - 1]
    }

    pub(super) fn is_empty(self) -> bool {
        self.raw.len() == 2
    }

    /// What the string says.
    pub(super) fn decode(self) -> Result<Cow<'a, str>, LoneSurrogate> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.inner()));
        }
        let mut decoded = String::with_capacity(self.raw.len());
        decode_escapes(self.inner(), &mut decoded)?;
        Ok(Cow::Owned(decoded))
    }

    /// Whether every surrogate in it has its other half; as [`Text::decode`], without the copy.
    pub(super) fn is_unicode(self) -> bool {
        !self.escaped || decode_escapes(self.inner(), &mut Nowhere).is_ok()
    }

    /// Whether both say the same, however they are escaped.
    pub(super) fn says_same(self, other: Text<'_>) -> bool {
        self.raw == other.raw
            || match (self.decode(), other.decode()) {
                (Ok(mine), Ok(theirs)) => mine == theirs,
                _ => false,
            }
    }
}

trait Sink {
    fn push(&mut self, character: char);
    fn push_str(&mut self, text: &str);
}

impl Sink for String {
    fn push(&mut self, character: char) {
        self.push(character);
    }
    fn push_str(&mut self, text: &str) {
        self.push_str(text);
    }
}

struct Nowhere;

impl Sink for Nowhere {
    fn push(&mut self, _: char) {}
    fn push_str(&mut self, _: &str) {}
}

/// `inner` was scanned before, so each backslash begins a whole escape.
fn decode_escapes(inner: &str, into: &mut impl Sink) -> Result<(), LoneSurrogate> {
    let mut rest = inner;
    while let Some(backslash) = memchr::memchr(b'\\', rest.as_bytes()) {
        into.push_str(&rest[..backslash]);
        let kind = rest.as_bytes().get(backslash + 1).copied();
        rest = rest.get(backslash + 2..).unwrap_or_default();
        let character = match kind {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'u') => {
                let mut unit = take_unit(&mut rest);
                if (0xD800..0xDC00).contains(&unit) && rest.starts_with("\\u") {
                    rest = &rest[2..];
                    let low = take_unit(&mut rest);
                    if !(0xDC00..0xE000).contains(&low) {
                        return Err(LoneSurrogate);
                    }
                    unit = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                }
                char::from_u32(unit).ok_or(LoneSurrogate)?
            }
            Some(other) => char::from(other),
            None => break,
        };
        into.push(character);
    }
    into.push_str(rest);
    Ok(())
}

fn take_unit(rest: &mut &str) -> u32 {
    let (digits, after) = rest.split_at_checked(4).unwrap_or((rest, ""));
    *rest = after;
    // Four hexadecimal digits by the scan; the surrogate range makes anything else an error.
    u32::from_str_radix(digits, 16).unwrap_or(0xD800)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::{LoneSurrogate, Text};

    #[test]
    fn surrogates_need_their_other_half() {
        for (raw, decoded) in [
            (r#""\ud83d\ude00""#, Ok("😀")),
            (r#""\uD83D\uDE00x""#, Ok("😀x")),
            (r#""\ud83d""#, Err(LoneSurrogate)),
            (r#""\ude00""#, Err(LoneSurrogate)),
            (r#""\ud83d\ud83d\ude00""#, Err(LoneSurrogate)),
            (r#""\ud83d\\ude00""#, Err(LoneSurrogate)),
            (r#""\ud83d\u0041""#, Err(LoneSurrogate)),
        ] {
            let text = Text::scanned(raw);
            assert_eq!(text.decode().as_deref(), decoded.as_deref(), "{raw}");
            assert_eq!(text.is_unicode(), decoded.is_ok(), "{raw}");
        }
    }
}
