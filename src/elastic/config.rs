//! How to reach a cluster: addresses, credentials, trust. Parsed and checked before the first request.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use elasticsearch::http::headers::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::error::{CONFIGURATION, ElasticError, ErrorCategory, Result};

/// Who we are for the cluster.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// No credentials: a cluster without security.
    Anonymous,
    /// A user of a realm.
    Basic {
        /// Name without a colon.
        username: String,
        /// Its password.
        password: SecretString,
    },
    /// An API key: either `id:key`, or the `encoded` form the server gives. Space around it is ignored.
    ApiKey(SecretString),
}

/// How to reach one cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// One or more nodes of the same cluster, `http` or `https`, with a path if a gateway needs one; no user or
    /// password in it.
    pub urls: Vec<Url>,
    /// Who we are.
    pub credentials: Credentials,
    /// Certificates of authorities to trust in addition to the well-known public ones (the compiled-in list of Mozilla), in PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Our certificate and its key, both in PEM, for a cluster that asks its clients for one.
    pub identity_pem: Option<SecretString>,
    /// Whether the server's certificate is not verified at all. Only for tests.
    pub insecure_skip_verify: bool,
    /// Time limit of one attempt of a request, from its connection to the end of its answer.
    pub request_timeout: Duration,
}

impl ClusterConfig {
    /// Default time limit of one attempt.
    pub const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

    /// A configuration with the defaults: no credentials, public authorities only, 60 seconds.
    #[must_use]
    pub fn new(urls: Vec<Url>) -> Self {
        Self {
            urls,
            credentials: Credentials::Anonymous,
            ca_pem: None,
            identity_pem: None,
            insecure_skip_verify: false,
            request_timeout: Self::REQUEST_TIMEOUT,
        }
    }

    /// Parses addresses separated by commas, for instance `https://a:9200,https://b:9200`.
    pub fn parse_urls(text: &str) -> Result<Vec<Url>> {
        let urls = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| Url::parse(part).map_err(|e| wrong("an address cannot be parsed").with_source(e)))
            .collect::<Result<Vec<_>>>()?;
        check_urls(&urls)?;
        Ok(urls)
    }
}

/// What is being done while a configuration is checked.
pub(super) const CONFIGURING: &str = "set up the connection to Elasticsearch";

fn wrong(reason: &str) -> ElasticError {
    ElasticError::new(ErrorCategory::Invalid, CONFIGURING, reason).with_kind(CONFIGURATION)
}

/// Addresses that this room can use; the message never repeats what may hold a password.
pub(super) fn check_urls(urls: &[Url]) -> Result<()> {
    if urls.is_empty() {
        return Err(wrong("no address is given"));
    }
    for url in urls {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("an address must start with http:// or https://"));
        }
        if url.host_str().is_none() {
            return Err(wrong("an address has no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("an address holds a user or a password; put them into the credentials Secret"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("an address must not have a query or a fragment"));
        }
    }
    Ok(())
}

/// The `Authorization` header of the credentials.
///
/// Built here, because the client library panics on a key that cannot be in a header.
pub(super) fn authorization(credentials: &Credentials) -> Result<Option<HeaderValue>> {
    let text = match credentials {
        Credentials::Anonymous => return Ok(None),
        Credentials::Basic { username, password } => {
            if username.is_empty() || username.contains(':') {
                return Err(wrong("the username is empty or holds a colon"));
            }
            format!("Basic {}", BASE64.encode(format!("{username}:{}", password.expose_secret())))
        }
        Credentials::ApiKey(key) => format!("ApiKey {}", encoded_key(key.expose_secret())?),
    };
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| wrong("the credentials cannot be sent in a header"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn encoded_key(key: &str) -> Result<String> {
    let key = key.trim();
    if key.is_empty() {
        return Err(wrong("the API key is empty"));
    }
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong("the API key holds a space, a line break or a character outside ASCII"));
    }
    if key.contains(':') {
        return Ok(BASE64.encode(key));
    }
    let pair = BASE64.decode(key).ok().is_some_and(|decoded| decoded.contains(&b':'));
    if pair { Ok(key.to_owned()) } else { Err(wrong("the API key is neither `id:key` nor its encoded form")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(text: &str) -> Result<Option<HeaderValue>> {
        authorization(&Credentials::ApiKey(SecretString::from(text.to_owned())))
    }

    #[test]
    fn both_forms_of_an_api_key_give_the_same_header() {
        let plain = key(" id:secret\n").unwrap().unwrap();
        let encoded = key(&format!("{}\n", BASE64.encode("id:secret"))).unwrap().unwrap();
        assert_eq!(plain, encoded);
        assert!(plain.is_sensitive());
    }

    #[test]
    fn a_key_that_cannot_be_in_a_header_is_refused_without_showing_it() {
        for bad in ["", "a b", "id:se\ncret", "not-encoded", "é:x"] {
            let error = key(bad).unwrap_err();
            assert_eq!(error.category(), ErrorCategory::Invalid, "{bad:?}");
            assert!(error.remedy().contains("credentialsSecretRef"), "{}", error.remedy());
            assert!(bad.is_empty() || !error.to_string().contains(bad));
        }
    }

    #[test]
    fn addresses_with_passwords_or_other_schemes_are_refused_without_showing_them() {
        for bad in ["", "ftp://a", "https://u:geheim@a:9200", "https://a?x=geheim", "nonsense"] {
            let error = ClusterConfig::parse_urls(bad).unwrap_err();
            assert!(!error.to_string().contains("geheim"));
        }
        assert_eq!(ClusterConfig::parse_urls("https://a:9200, http://b:9200/es").unwrap().len(), 2);
    }
}
