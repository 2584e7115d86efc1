//! A scanner over JSON text that gives byte ranges instead of values.
//!
//! It skips what is not asked for with `memchr`, so a page of megabytes of floats costs little more than reading its
//! memory. It checks the structure that it walks, not the inside of skipped values: those are parsed later by whoever uses
//! them. On failure it says what it expected and where.
//!
//! Documents may hold comments, `/* */` and `//`: the server takes them in what it is sent, and gives them back. They may
//! hold quotes and brackets, so they are passed over as the server does it, and end where they end for it.

use std::ops::Range;

/// Where and why a text is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} at byte {at}")]
pub(super) struct Malformed {
    pub expected: &'static str,
    pub at: usize,
}

type Scanned<T> = Result<T, Malformed>;

/// A string as it stands in the text, without its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawString {
    pub range: Range<usize>,
    /// Whether it holds a backslash, so that it is not its own value.
    pub escaped: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn wrong<T>(&self, expected: &'static str) -> Scanned<T> {
        Err(Malformed { expected, at: self.at })
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next byte that is not white space, without taking it.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Scanned<()> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        self.wrong(expected)
    }

    /// After the last value: nothing but white space.
    pub(super) fn end(&mut self) -> Scanned<()> {
        if self.peek().is_none() { Ok(()) } else { self.wrong("the end of the text") }
    }

    /// Walks an object: calls `on_key` at each value, which must take the value.
    ///
    /// Keys with escapes are passed as they stand: no key this room looks for has any.
    pub(super) fn object<E: From<Malformed>>(
        &mut self,
        mut on_key: impl FnMut(&mut Self, &'a [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.take(b'{', "an object")?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.take(b':', "a colon")?;
            on_key(self, self.text.get(key.range).unwrap_or_default())?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.wrong("a comma or the end of an object").map_err(E::from),
            }
        }
    }

    /// Walks an array: calls `on_item` at each item, which must take it.
    pub(super) fn array<E: From<Malformed>>(
        &mut self,
        mut on_item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.take(b'[', "an array")?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            on_item(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.wrong("a comma or the end of an array").map_err(E::from),
            }
        }
    }

    /// Takes a string.
    pub(super) fn string(&mut self) -> Scanned<RawString> {
        self.take(b'"', "a string")?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match memchr::memchr2(b'"', b'\\', self.rest()) {
                Some(offset) => {
                    let end = self.at + offset;
                    if self.text.get(end) == Some(&b'"') {
                        self.at = end + 1;
                        return Ok(RawString { range: start..end, escaped });
                    }
                    escaped = true;
                    // The character after a backslash is never the end of the string.
                    self.at = end + 2;
                }
                None => return self.wrong("the end of a string"),
            }
        }
    }

    /// Takes an integer.
    pub(super) fn integer(&mut self) -> Scanned<i64> {
        self.peek();
        let length =
            self.rest().iter().position(|b| !matches!(b, b'-' | b'0'..=b'9')).unwrap_or(self.rest().len());
        let digits = self.rest().get(..length).unwrap_or_default();
        let is_whole = !matches!(self.rest().get(length), Some(b'.' | b'e' | b'E'));
        let value = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        match value {
            Some(value) if is_whole => {
                self.at += length;
                Ok(value)
            }
            _ => self.wrong("an integer"),
        }
    }

    /// Takes `true` or `false`.
    pub(super) fn boolean(&mut self) -> Scanned<bool> {
        self.peek();
        for (word, value) in [(b"true".as_slice(), true), (b"false".as_slice(), false)] {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.wrong("true or false")
    }

    /// Takes any value and gives its range.
    pub(super) fn value(&mut self) -> Scanned<Range<usize>> {
        match self.peek() {
            Some(b'"') => {
                let start = self.at;
                self.string()?;
                Ok(start..self.at)
            }
            Some(b'{') => self.nested(b'{', b'}'),
            Some(b'[') => self.nested(b'[', b']'),
            Some(_) => self.plain(),
            None => self.wrong("a value"),
        }
    }

    /// Takes a document as it was sent to the server, and gives the range of its value: comments may stand before and
    /// behind it, too.
    pub(super) fn document(&mut self) -> Scanned<Range<usize>> {
        while self.peek() == Some(b'/') {
            self.comment()?;
        }
        let value = self.value()?;
        // Of the other kind nobody knows the end: the line goes on with what the server writes.
        while self.peek() == Some(b'/') && self.rest().starts_with(b"/*") {
            self.comment()?;
        }
        Ok(value)
    }

    /// Passes over a comment.
    fn comment(&mut self) -> Scanned<()> {
        let (start, inside) = self.rest().split_at_checked(2).unwrap_or_default();
        let length = match start {
            b"/*" => memchr::memmem::find(inside, b"*/").map(|end| end + 2),
            b"//" => memchr::memchr2(b'\n', b'\r', inside).map(|end| end + 1),
            _ => return self.wrong("a comment"),
        };
        let Some(length) = length else { return self.wrong("the end of a comment") };
        self.at += start.len() + length;
        Ok(())
    }

    /// Skips an object or an array. Its own brackets are enough to find its end: in JSON the other kind is balanced
    /// inside.
    fn nested(&mut self, open: u8, close: u8) -> Scanned<Range<usize>> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.find(open, close)? {
                b'"' => {
                    self.string()?;
                }
                byte if byte == open => {
                    depth += 1;
                    self.at += 1;
                }
                _ => {
                    depth -= 1;
                    self.at += 1;
                    if depth == 0 {
                        return Ok(start..self.at);
                    }
                }
            }
        }
    }

    /// Goes on to the next quote, or the next of these brackets, outside of comments.
    fn find(&mut self, open: u8, close: u8) -> Scanned<u8> {
        let mut found = None;
        loop {
            let next = match found.filter(|&next| next >= self.at) {
                Some(next) => next,
                None => match memchr::memchr3(b'"', open, close, self.rest()) {
                    Some(offset) => self.at + offset,
                    None => return self.wrong("the end of an object or array"),
                },
            };
            // Outside of strings nothing but a comment has it.
            let between = self.text.get(self.at..next).unwrap_or_default();
            let Some(offset) = memchr::memchr(b'/', between) else {
                self.at = next;
                return self.text.get(next).copied().map_or_else(|| self.wrong("a byte"), Ok);
            };
            self.at += offset;
            self.comment()?;
            // Nothing is searched twice, however many comments there are.
            found = Some(next);
        }
    }

    /// Skips a number or a literal.
    fn plain(&mut self) -> Scanned<Range<usize>> {
        let start = self.at;
        let length = self
            .rest()
            .iter()
            .position(|b| !matches!(b, b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E'))
            .unwrap_or(self.rest().len());
        if length == 0 {
            return self.wrong("a value");
        }
        self.at += length;
        Ok(start..self.at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn taken(text: &str) -> Scanned<&str> {
        let mut scanner = Scanner::new(text.as_bytes());
        let range = scanner.value()?;
        scanner.end()?;
        Ok(&text[range])
    }

    #[test]
    fn values_are_taken_whole_whatever_their_strings_hold() {
        for text in [
            r#"{"a":"}]\"{","b":[{"c":"\\"},[]],"d":{}}"#,
            r#"["]","\\\"]",{"x":"["}]"#,
            r#""é\u00e9 \\""#,
            "-1.5e+10",
            "true",
            "null",
            "{}",
            "[]",
        ] {
            assert_eq!(taken(text).unwrap(), text);
        }
    }

    #[test]
    fn comments_are_passed_over_whatever_they_hold() {
        for text in [
            r#"{"id":1, /* don"t */ "content":"x"}"#,
            r#"{"id":1, /* } ]"_seq_no":7,{ */ "content":"x"}"#,
            "{\"id\":1, // don\"t }\n\"content\":\"x\"}",
            "{\"id\":[1,// ]\r2]//\n}",
            "{/**/}",
            "[/*/ ] */]",
            "{/* * / ** } **/\"a\"/*\"*/:/*\"*/1/*\"*/}",
            r#"{"url":"https://x/*","more":"*/ // {"}"#,
        ] {
            assert_eq!(taken(text).unwrap(), text);
        }
        for text in ["{/}", "{/*}", "{/*/}", "{//}", "{/ /}\n", "[1/2]"] {
            assert!(taken(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_document_is_its_value_without_the_comments_around_it() {
        let text = "/* \" */ // {\n {\"a\":1} /* } */ /**/,2";
        let mut scanner = Scanner::new(text.as_bytes());
        assert_eq!(&text[scanner.document().unwrap()], "{\"a\":1}");
        assert_eq!(scanner.peek(), Some(b','));
        // Where it ends the server does not tell.
        let mut scanner = Scanner::new(b"{} // x,2}\n,3");
        assert_eq!(scanner.document(), Ok(0..2));
        assert_eq!(scanner.peek(), Some(b'/'));
    }

    #[test]
    fn a_text_that_breaks_off_is_malformed() {
        for text in ["", "{", "[1", r#"{"a":"b"#, r#""a\"#, r#""a\""#, r#"{"a":"}"#, ",", "1 2"] {
            assert!(taken(text).is_err(), "{text}");
        }
    }

    #[test]
    fn integers_are_exact_and_nothing_else() {
        assert_eq!(Scanner::new(b" 9223372036854775807,").integer(), Ok(i64::MAX));
        assert_eq!(Scanner::new(b"-2").integer(), Ok(-2));
        for bad in ["1.5", "1e3", "\"1\"", "", "-", "9223372036854775808"] {
            assert!(Scanner::new(bad.as_bytes()).integer().is_err(), "{bad}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            r#"[\\"{}\[\]a,:]*"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(r#"[\\"{}a:é]{0,4}"#, inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn any_comment() -> impl Strategy<Value = String> {
        let inside = r#"[\\"{}\[\]a,: /]{0,12}"#;
        prop_oneof![
            Just(String::new()),
            r"[ \n\t]{0,2}",
            inside.prop_map(|text| format!("/*{text}**/")),
            inside.prop_map(|text| format!("//{text}*/\n")),
        ]
    }

    /// Appends a value with the next of these comments between each two of its parts.
    fn commented(value: &Value, comments: &mut dyn Iterator<Item = &String>, text: &mut String) {
        match value {
            Value::Array(items) => {
                text.push('[');
                for (number, item) in items.iter().enumerate() {
                    text.push_str(if number > 0 { "," } else { "" });
                    text.extend(comments.next().cloned());
                    commented(item, comments, text);
                    text.extend(comments.next().cloned());
                }
                text.extend(comments.next().cloned());
                text.push(']');
            }
            Value::Object(fields) => {
                text.push('{');
                for (number, (key, item)) in fields.iter().enumerate() {
                    text.push_str(if number > 0 { "," } else { "" });
                    text.extend(comments.next().cloned());
                    text.push_str(&Value::from(key.as_str()).to_string());
                    text.extend(comments.next().cloned());
                    text.push(':');
                    text.extend(comments.next().cloned());
                    commented(item, comments, text);
                    text.extend(comments.next().cloned());
                }
                text.extend(comments.next().cloned());
                text.push('}');
            }
            plain => text.push_str(&plain.to_string()),
        }
    }

    proptest! {
        #[test]
        fn a_document_is_taken_whole_wherever_comments_stand_in_it(
            fields in prop::collection::hash_map("[a-z/]{1,4}", any_json(), 0..5), comments in prop::collection::vec(any_comment(), 1..8)
        ) {
            let document = Value::Object(fields.into_iter().collect());
            let mut text = String::new();
            commented(&document, &mut comments.iter().cycle(), &mut text);
            let all = format!("[{text},\"behind\"]");
            let mut scanner = Scanner::new(all.as_bytes());
            let mut found = Vec::new();
            scanner.array::<Malformed>(|s| { found.push(&all[s.document()?]); Ok(()) }).unwrap();
            prop_assert_eq!(found, [text.as_str(), "\"behind\""]);
        }

        #[test]
        fn any_json_value_is_taken_whole(value in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            prop_assert_eq!(taken(&text).unwrap(), text.as_str());
        }

        #[test]
        fn no_text_makes_it_fail_otherwise_than_by_its_error(text in ".*") {
            let _ = taken(&text);
        }

        #[test]
        fn the_items_of_an_array_are_each_taken(values in prop::collection::vec(any_json(), 0..8)) {
            let text = serde_json::to_string(&values).unwrap();
            let mut scanner = Scanner::new(text.as_bytes());
            let mut found = Vec::new();
            scanner.array::<Malformed>(|s| {
                let range = s.value()?;
                found.push(serde_json::from_str::<Value>(&text[range]).unwrap());
                Ok(())
            }).unwrap();
            let expected: Vec<Value> = values.iter().map(|v| serde_json::from_str(&v.to_string()).unwrap()).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
