//! Names and numbers from outside, parsed once: index names, index uuids, sequence numbers, versions.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// Number of a shard within its index, from 0.
pub type ShardNumber = i32;
/// Sequence number of an operation within its shard, from 0; negative values mean "none".
pub type SeqNo = i64;

/// The name of a concrete index, as the server would accept it for a new one.
///
/// It holds no wildcard, comma or path separator, so a list or a path built from it means exactly these indices.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IndexName(String);

/// A text that cannot be the name of an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` cannot be the name of an index: {reason}")]
pub struct InvalidName {
    /// The text that was given, cut after 300 characters.
    pub name: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

/// Longest name of an index, in bytes (the server's own limit).
const MAX_NAME_BYTES: usize = 255;

impl IndexName {
    /// Parses the name of an index by the server's rules for new indices.
    pub fn parse(name: &str) -> std::result::Result<Self, InvalidName> {
        match broken_rule(name) {
            None => Ok(Self(name.to_owned())),
            Some(reason) => Err(InvalidName { name: name.chars().take(300).collect(), reason }),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn broken_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > MAX_NAME_BYTES {
        return Some("it is longer than 255 bytes");
    }
    if name == "." || name == ".." {
        return Some("it is a path");
    }
    if name.starts_with(['-', '_', '+']) {
        return Some("it starts with -, _ or +");
    }
    if name.contains(['\\', '/', '*', '?', '"', '<', '>', '|', ' ', ',', '#', ':']) {
        return Some("it holds one of \\ / * ? \" < > | space , # :");
    }
    if name.chars().any(char::is_control) {
        return Some("it holds a control character");
    }
    if name.chars().any(char::is_uppercase) {
        return Some("it holds an upper-case letter");
    }
    None
}

impl fmt::Display for IndexName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for IndexName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for IndexName {
    type Err = InvalidName;
    fn from_str(name: &str) -> std::result::Result<Self, InvalidName> {
        Self::parse(name)
    }
}

impl<'de> Deserialize<'de> for IndexName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).map_err(serde::de::Error::custom)
    }
}

/// The uuid of an index: another one means another index, even under the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct IndexUuid(pub String);

impl fmt::Display for IndexUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A version of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// A version from its numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Parses `9.4.3`, `8.19.8-SNAPSHOT` or `9.0`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(['-', '+']).next()?;
        let mut parts = numbers.split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch = parts.next().map_or(Ok(0), str::parse).ok()?;
        parts.next().is_none().then_some(Self { major, minor, patch })
    }

    /// Whether this is `major.minor.0` or later.
    #[must_use]
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_the_server_would_refuse_are_refused() {
        for bad in
            ["", ".", "..", "_all", "-a", "+a", "a,b", "a*", "A", "a b", "a/b", "<a>", "a:b", "a#", "a\n"]
        {
            assert!(IndexName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(IndexName::parse(&"a".repeat(256)).is_err());
        for good in ["42", "opengatellm", ".hidden", "a-b_c.d", "é", "a+b", "a%b"] {
            assert_eq!(IndexName::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn versions_are_parsed_and_ordered() {
        assert_eq!(Version::parse("8.19.8-SNAPSHOT"), Some(Version::new(8, 19, 8)));
        assert_eq!(Version::parse("9.0"), Some(Version::new(9, 0, 0)));
        for bad in ["", "9", "x.1.2", "9.1.2.3"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
        assert!(Version::new(9, 4, 3).at_least(9, 4));
        assert!(Version::new(10, 0, 0).at_least(9, 4));
        assert!(!Version::new(8, 19, 8).at_least(9, 0));
        assert!(Version::new(8, 9, 0) < Version::new(8, 19, 0));
        assert_eq!(Version::new(9, 4, 3).to_string(), "9.4.3");
    }
}
