//! Metadata as users really write it, and worse.
//!
//! Values are raw JSON text, so that a number keeps the digits it is given. An index with dynamic mapping fixes
//! the type of a key at its first value, so each key has one type; only an index that does not map its
//! metadata is given keys and values that no mapping would take.

use serde_json::Value;

use crate::seed::random::Random;

/// Metadata entries in the order in which they are written.
pub type Entries = Vec<(String, String)>;

/// Some entries that any dynamic mapping accepts.
pub fn mappable(random: &mut Random) -> Entries {
    let mut entries = Entries::new();
    let mut maybe = |random: &mut Random, key: &str, values: &[&str]| {
        if random.one_in(3)
            && let Some(value) = random.pick(values)
        {
            entries.push((key.to_owned(), (*value).to_owned()));
        }
    };
    maybe(random, "page", &["1", "0", "-7", "2147483648"]);
    maybe(random, "score", &["0.1", "-0.5", "1.25", "100.0", "3.0e2", "0.30000000000000004"]);
    maybe(
        random,
        "big",
        &[
            "9007199254740993",
            "9999999999999999",
            "-9999999999999999",
            "10000000000000000",
            "9223372036854775807",
        ],
    );
    maybe(random, "flag", &["true", "false"]);
    maybe(random, "nothing", &["null"]);
    maybe(random, "numbers", &["[1,2,3]", "[]", "[9007199254740993]", "7"]);
    maybe(random, "flags", &["[true,false]", "[true]"]);
    maybe(random, "nested", &["{\"inner\":{\"deep\":1}}", "{}"]);
    maybe(random, "objects", &["[{\"a\":1},{\"a\":2}]"]);
    maybe(random, "matrix", &["[[1,2],[3]]"]);
    maybe(random, "day", &["\"2024-05-01\"", "\"1999-12-31\""]);
    if random.one_in(2) {
        entries.push(("title".to_owned(), text(random)));
    }
    if random.one_in(3) {
        let tags: Vec<String> = (0..random.below(5)).map(|_| text(random)).collect();
        entries.push(("tags".to_owned(), format!("[{}]", tags.join(","))));
    }
    for (key, times) in [("clé", 4), ("ключ", 4), ("my key", 5), ("文書", 5), ("dotted.key", 5), ("😀", 6)]
    {
        if random.one_in(times) {
            entries.push((key.to_owned(), text(random)));
        }
    }
    if random.one_in(4) {
        // More entries than either contract allows, not in the order of their keys.
        for at in [7, 3, 11, 0, 9, 1, 10, 5, 2, 8, 4, 6] {
            entries.push((format!("extra_{at:02}"), Value::from(format!("value {at}")).to_string()));
        }
    }
    entries
}

/// Some entries for an index whose metadata is not mapped: anything that JSON can say.
pub fn anything(random: &mut Random) -> Entries {
    let mut entries = mappable(random);
    let letters = |count: usize| "k".repeat(count);
    let keys = [
        letters(255),
        letters(256),
        "é".repeat(255),
        format!("  {}  ", letters(255)),
        " padded ".to_owned(),
        String::new(),
        "   ".to_owned(),
        ".starts".to_owned(),
        "ends.".to_owned(),
        "two..dots".to_owned(),
        "embedding".to_owned(),
        "id".to_owned(),
        "content".to_owned(),
        "metadata".to_owned(),
        "quote\"and\\slash".to_owned(),
    ];
    let values = [
        "\"\"",
        "\" \"",
        "\"mixed types under one key\"",
        "17",
        "1e15",
        "1E+2",
        "-0",
        "0.0",
        "-9999999999999999",
        "99999999999999999999999999999999999",
        "1e300",
        "[1,\"a\",true]",
        "[\"\",\"\"]",
        "[\"\"]",
        "{\"embedding\":[1,2]}",
        "[[]]",
        "\"line\\nbreak \\u0001 \\u2028 \\\"quoted\\\"\"",
        "\"\\ud83d\\ude00 escaped pair\"",
    ];
    for _ in 0..random.below(4) {
        if let (Some(key), Some(value)) = (random.pick(&keys).cloned(), random.pick(&values))
            && entries.iter().all(|(known, _)| *known != key)
        {
            entries.push((key, (*value).to_owned()));
        }
    }
    if random.one_in(6) {
        // Joined by commas just inside and just outside of 255 characters.
        let count = 127 + random.below(3);
        entries.push(("long_list".to_owned(), format!("[{}]", vec!["\"x\""; count].join(","))));
    }
    entries
}

/// A JSON string: many scripts, and lengths at the limit of what readers take.
pub fn text(random: &mut Random) -> String {
    let value = match random.below(14) {
        0 => "e\u{301}te\u{301} in NFD".to_owned(),
        1 => "été in NFC".to_owned(),
        2 => "👩\u{200d}👩\u{200d}👧 family".to_owned(),
        3 => "שלום עולם \u{202e}reversed".to_owned(),
        4 => "tab\tquote\"back\\slash/é".to_owned(),
        5 => "x".repeat(255),
        6 => "x".repeat(256),
        7 => "😀".repeat(255),
        8 => "a long text ".repeat(400),
        9 => format!("   {}   ", "p".repeat(250)),
        10 => "   ".to_owned(),
        11 => String::new(),
        12 => "日本語の題名".to_owned(),
        _ => format!("title {}", random.below(1000)),
    };
    Value::from(value).to_string()
}

/// The entries as a JSON object.
#[must_use]
pub fn object(entries: &[(String, String)]) -> String {
    let mut out = String::from("{");
    for (at, (key, value)) in entries.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(&Value::from(key.as_str()).to_string());
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn is_always_an_object_without_duplicate_keys() {
        let mut random = Random::new(3);
        for _ in 0..2000 {
            let entries = anything(&mut random);
            let parsed: serde_json::Map<String, Value> = serde_json::from_str(&object(&entries)).unwrap();
            assert_eq!(parsed.len(), entries.len());
        }
    }

    #[test]
    fn meets_every_kind_of_json() {
        let mut random = Random::new(1);
        let all: String = (0..500).map(|_| object(&anything(&mut random))).collect();
        for wanted in [
            "null",
            "true",
            "9007199254740993",
            "{\"inner\"",
            "[[1,2]",
            "e\u{301}",
            "😀",
            "extra_11",
            "1e300",
        ] {
            assert!(all.contains(wanted), "{wanted} never comes");
        }
    }
}
