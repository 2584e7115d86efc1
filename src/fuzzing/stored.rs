//! What is stored in Postgres, or says how to reach it.

use secrecy::SecretString;

use super::choice;
use crate::elastic::{IndexName, Version};
use crate::merge::{Memo, Phase};
use crate::postgres::{Login, options};

/// A password that the corpus has in its URLs; no error may repeat it.
const PASSWORD: &str = "hunter2hunter2";

/// The URL of a database, the memo and the phase of a merge, names and versions.
pub fn stored(data: &[u8]) {
    let (chosen, rest) = choice(data);
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match chosen % 3 {
        0 => {
            let login = Login::from(&SecretString::from(text.to_owned()));
            if let Err(error) = options(&login) {
                assert!(!format!("{error:?} {error}").contains(PASSWORD));
            }
        }
        1 => memo(rest),
        _ => {
            assert!(Phase::parse(text).is_none_or(|phase| phase.as_str() == text));
            if let Ok(name) = IndexName::parse(text) {
                assert_eq!(name.as_str(), text);
            }
            if let Some(version) = Version::parse(text) {
                assert_eq!(Version::parse(&version.to_string()), Some(version));
            }
        }
    }
}

/// What is read can be stored again.
fn memo(stored: &[u8]) {
    let Ok(memo) = serde_json::from_slice::<Memo>(stored) else { return };
    let again = serde_json::to_value(&memo).and_then(serde_json::from_value::<Memo>);
    assert!(again.is_ok(), "{memo:?}");
}
