//! A strict JSON scanner that splits a text into raw slices and builds no tree.
//!
//! Invariants: what it accepts is JSON by RFC 8259 (no comments, no trailing commas, no control
//! characters in strings); it never recurses, so depth costs no stack, and it gives up at
//! [`MOST_NESTED`], which is also the server's own limit; slices begin and end at ASCII bytes.
//! Failure: [`Malformed`] with the position; nothing is repaired.

use super::{
    refusal::{Refusal, RefusalClass},
    text::Text,
};

/// How deep lists and objects may nest: Elasticsearch's JSON parser refuses more, too.
pub(super) const MOST_NESTED: usize = 1000;

/// The text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    what: &'static str,
    at: usize,
}

impl From<Malformed> for Refusal {
    fn from(fault: Malformed) -> Self {
        Self::new(RefusalClass::NotJson, format!("{} at byte {} of _source", fault.what, fault.at))
    }
}

/// A value as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(Text<'a>),
    List(&'a str),
    Object(&'a str),
}

impl<'a> Value<'a> {
    pub(super) fn raw(self) -> &'a str {
        match self {
            Self::Null => "null",
            Self::Bool(true) => "true",
            Self::Bool(false) => "false",
            Self::Number(raw) | Self::List(raw) | Self::Object(raw) => raw,
            Self::Text(text) => text.raw,
        }
    }
}

/// A position in a text.
pub(super) struct Scanner<'a> {
    text: &'a str,
    pub(super) at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes().get(self.at).copied()
    }

    pub(super) fn slice(&self, from: usize) -> &'a str {
        &self.text[from..self.at]
    }

    fn fault(&self, what: &'static str) -> Malformed {
        Malformed { what, at: self.at }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return Err(self.fault(what));
        }
        self.at += 1;
        Ok(())
    }

    /// The whole text is one object; `member` is called at each value and must consume it.
    pub(super) fn document<E: From<Malformed>>(
        &mut self,
        member: impl FnMut(&mut Self, Text<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.space();
        self.object(member)?;
        self.space();
        if self.peek().is_some() { Err(self.fault("more after the end").into()) } else { Ok(()) }
    }

    /// One object; `member` is called at each value and must consume it.
    pub(super) fn object<E: From<Malformed>>(
        &mut self,
        mut member: impl FnMut(&mut Self, Text<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{', "no object")?;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.key()?;
            member(self, key)?;
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.fault("no comma or brace after a value").into()),
            }
        }
    }

    /// The elements of one list.
    pub(super) fn list(&mut self) -> Result<Vec<Value<'a>>, Malformed> {
        let mut elements = Vec::new();
        self.expect(b'[', "no list")?;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(elements);
        }
        loop {
            elements.push(self.value()?);
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b']') => {
                    self.at += 1;
                    return Ok(elements);
                }
                _ => return Err(self.fault("no comma or bracket after an element")),
            }
        }
    }

    fn key(&mut self) -> Result<Text<'a>, Malformed> {
        let key = self.string()?;
        self.space();
        self.expect(b':', "no colon after a key")?;
        self.space();
        Ok(key)
    }

    /// One value of any kind; lists and objects are checked and given as they stand.
    pub(super) fn value(&mut self) -> Result<Value<'a>, Malformed> {
        match self.peek() {
            Some(b'{') => Ok(Value::Object(self.composite()?)),
            Some(b'[') => Ok(Value::List(self.composite()?)),
            _ => self.scalar(),
        }
    }

    /// As [`Scanner::value`], but of a list of scalars only the end is looked for: whoever reads it finds what is wrong
    /// in it.
    pub(super) fn skipped(&mut self) -> Result<Value<'a>, Malformed> {
        if self.peek() == Some(b'[') {
            let start = self.at;
            let inner = &self.bytes()[start + 1..];
            if let Some(end) = memchr::memchr(b']', inner)
                && memchr::memchr3(b'[', b'{', b'"', &inner[..end]).is_none()
            {
                self.at = start + 1 + end + 1;
                return Ok(Value::List(self.slice(start)));
            }
        }
        self.value()
    }

    fn scalar(&mut self) -> Result<Value<'a>, Malformed> {
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => Ok(Value::Number(self.number()?)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            _ => Err(self.fault("no value")),
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Malformed> {
        if !self.bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.fault("no value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<&'a str, Malformed> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(self.slice(start))
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("a number without digits")) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<Text<'a>, Malformed> {
        let start = self.at;
        self.expect(b'"', "no string")?;
        let mut escaped = false;
        loop {
            self.at += plain_run(&self.bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Text::new(self.slice(start), escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.fault("a control character in a string")),
                None => return Err(self.fault("a string without end")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let digits = self.bytes().get(self.at + 1..self.at + 5);
                if !digits.is_some_and(|four| four.iter().all(u8::is_ascii_hexdigit)) {
                    return Err(self.fault("an escape without four hexadecimal digits"));
                }
                self.at += 5;
            }
            _ => return Err(self.fault("an unknown escape")),
        }
        Ok(())
    }

    /// A list or an object, with all that is in it.
    fn composite(&mut self) -> Result<&'a str, Malformed> {
        let start = self.at;
        let mut open = Nesting::default();
        loop {
            if let Some(opening @ (b'{' | b'[')) = self.peek() {
                let is_object = opening == b'{';
                if !open.push(is_object) {
                    return Err(self.fault("nested too deep"));
                }
                self.at += 1;
                self.space();
                let is_empty = self.peek() == Some(if is_object { b'}' } else { b']' });
                if !is_empty {
                    if is_object {
                        self.key()?;
                    }
                    continue;
                }
            } else {
                self.scalar()?;
            }
            // Behind a value, or before the bracket that closes an empty list or object.
            loop {
                self.space();
                match (self.peek(), open.in_object()) {
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        open.pop();
                        if open.depth == 0 {
                            return Ok(self.slice(start));
                        }
                    }
                    (Some(b','), in_object) => {
                        self.at += 1;
                        self.space();
                        if in_object {
                            self.key()?;
                        }
                        break;
                    }
                    _ => return Err(self.fault("no comma or bracket after a value")),
                }
            }
        }
    }
}

/// Which of the open lists and objects are objects: one bit each.
#[derive(Default)]
struct Nesting {
    objects: [u64; MOST_NESTED.div_ceil(64)],
    depth: usize,
}

impl Nesting {
    fn push(&mut self, is_object: bool) -> bool {
        if self.depth == MOST_NESTED {
            return false;
        }
        let bit = 1 << (self.depth % 64);
        let word = &mut self.objects[self.depth / 64];
        *word = if is_object { *word | bit } else { *word & !bit };
        self.depth += 1;
        true
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    fn in_object(&self) -> bool {
        let top = self.depth.saturating_sub(1);
        self.objects[top / 64] >> (top % 64) & 1 == 1
    }
}

/// How many bytes from here on are neither quote, backslash nor control character; eight at a time.
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let mut run = 0;
    for eight in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(eight.try_into().unwrap_or_default());
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let found =
            control | has_zero(word ^ (ONES * u64::from(b'"'))) | has_zero(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            // Borrows reach only bytes above the first hit, so the lowest one is exact.
            return run + found.trailing_zeros() as usize / 8;
        }
        run += 8;
    }
    let is_plain = |byte: &&u8| **byte >= 0x20 && **byte != b'"' && **byte != b'\\';
    run + bytes[run..].iter().take_while(is_plain).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::{MOST_NESTED, Scanner, Text, Value, plain_run};

    /// The whole text is one value.
    fn is_json(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.space();
        scanner.value().is_ok() && {
            scanner.space();
            scanner.peek().is_none()
        }
    }

    #[test]
    fn values_are_given_as_they_stand() {
        let text = r#"[1.50, "a\/\u0062", [ {} , 2], {"x":[]}, true, false, null, -0]"#;
        let elements = Scanner::new(text).list().unwrap();
        let raw: Vec<&str> = elements.iter().map(|element| element.raw()).collect();
        assert_eq!(
            raw,
            ["1.50", r#""a\/\u0062""#, "[ {} , 2]", r#"{"x":[]}"#, "true", "false", "null", "-0"]
        );
        assert!(matches!(elements[1], Value::Text(text) if text.decode().unwrap() == "a/b"));
    }

    #[test]
    fn nesting_ends_at_the_servers_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_json(&nested(MOST_NESTED)));
        assert!(!is_json(&nested(MOST_NESTED + 1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn accepts_exactly_what_is_json(text in "[\\[\\]{},:\"\\\\0-9.eE+ \ntrufalsn-]{0,14}") {
            prop_assert_eq!(is_json(&text), serde_json::from_str::<IgnoredAny>(&text).is_ok());
        }
        #[test]
        fn what_is_skipped_ends_where_the_value_ends(text in "[\\[\\]{},:\"0-9.e \\-]{0,14}") {
            let (mut whole, mut skipped) = (Scanner::new(&text), Scanner::new(&text));
            if let Ok(value) = whole.value() {
                prop_assert_eq!(skipped.skipped().unwrap().raw(), value.raw());
                prop_assert_eq!(skipped.at, whole.at);
            }
        }
        #[test]
        fn accepts_exactly_what_is_a_json_string(inner in "([a\"é\u{7f}\u{1f}\n]|\\\\[\"/bfnrtux\\\\]|\\\\u[0-9a-fg]{3,5}){0,12}") {
            let text = format!("\"{inner}\"");
            prop_assert_eq!(is_json(&text), serde_json::from_str::<IgnoredAny>(&text).is_ok());
            if is_json(&text) && let Ok(decoded) = serde_json::from_str::<String>(&text) {
                prop_assert_eq!(Text::scanned(&text).decode().unwrap(), decoded);
            }
        }
        #[test]
        fn a_plain_run_ends_at_the_first_special_byte(bytes in proptest::collection::vec(any::<u8>(), 0..40), at in 0..40_usize) {
            let mut bytes: Vec<u8> = bytes.into_iter().map(|byte| byte | 0x80).collect();
            if at < bytes.len() {
                bytes[at] = [b'"', b'\\', 0, 0x1f][at % 4];
            }
            prop_assert_eq!(plain_run(&bytes), at.min(bytes.len()));
        }
    }
}
