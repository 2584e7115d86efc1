//! A Postgres URL as applications write it, turned into connect options.
//!
//! Accepted: `postgresql://` and `postgres://`, also with a driver (`postgresql+asyncpg://`), which is
//! dropped, and asyncpg's `ssl=` for `sslmode=`. Parameters that only some client library knows are left
//! out rather than refused, because the URL is usually shared with the application. Several hosts, of which a client library
//! would look for the primary, are refused.
//!
//! A certificate authority may come beside the URL, as text: in a pod, a path in `sslrootcert` leads nowhere. Whoever
//! gives one wants the server's certificate verified, so a mode that would not do that is raised.
//!
//! A URL is a secret: no error made here repeats any part of it but the scheme.

use secrecy::{ExposeSecret, SecretString};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::{Url, form_urlencoded};

use super::error::Failure;

/// The parameters that reach the connection; all others belong to some client library.
const KNOWN_PARAMETERS: [&str; 11] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "options",
];

/// How to reach a database.
#[derive(Debug, Clone)]
pub struct Login {
    /// The URL, with the password in it.
    pub url: SecretString,
    /// The authority that signed the server's certificate, PEM; without it what the URL says.
    pub ca_pem: Option<Vec<u8>>,
}

impl From<&SecretString> for Login {
    fn from(url: &SecretString) -> Self {
        Self { url: url.clone(), ca_pem: None }
    }
}

impl From<&Login> for Login {
    fn from(login: &Login) -> Self {
        login.clone()
    }
}

/// Reads a login. Statement logging is off: statements are ours, and their noise would bury the rest.
pub(crate) fn options(login: &Login) -> Result<PgConnectOptions, Failure> {
    let parsed = parse(login.url.expose_secret())?;
    let options = PgConnectOptions::from_url(&parsed)
        .map_err(|_| invalid("a parameter of the URL has a value that Postgres does not know"))?
        .disable_statement_logging()
        // A start-up parameter that PgBouncer refuses by default. It is about numbers as text, of which none is read.
        .extra_float_digits(None);
    let Some(pem) = &login.ca_pem else { return Ok(options) };
    let mode = match options.get_ssl_mode() {
        PgSslMode::Disable => {
            return Err(invalid("it says sslmode=disable, although a certificate authority is given"));
        }
        PgSslMode::Allow | PgSslMode::Prefer | PgSslMode::VerifyFull => PgSslMode::VerifyFull,
        // As libpq does where it is given an authority.
        PgSslMode::Require | PgSslMode::VerifyCa => PgSslMode::VerifyCa,
    };
    Ok(options.ssl_mode(mode).ssl_root_cert_from_pem(pem.clone()))
}

fn parse(text: &str) -> Result<Url, Failure> {
    // Secrets made with `echo` end with a line break.
    let text = text.trim();
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(invalid("it does not start with postgresql://"));
    };
    let (base, driver) = scheme.split_once('+').map_or((scheme, None), |(base, driver)| (base, Some(driver)));
    let driver_is_a_word = driver.is_none_or(|name| !name.is_empty() && name.bytes().all(is_word_byte));
    if !matches!(base, "postgres" | "postgresql") || !driver_is_a_word {
        return Err(invalid("its scheme is not postgresql, postgres or postgresql+driver"));
    }
    if has_several_hosts(rest) {
        return Err(several_hosts());
    }
    // `ParseError` names the kind of mistake and nothing of the text.
    let mut parsed = Url::parse(&format!("postgresql://{rest}"))
        .map_err(|error| invalid(&format!("{error}; a password must be percent-encoded")))?;
    let kept: Vec<(String, String)> = parsed
        .query_pairs()
        .filter_map(|(key, value)| match &*key {
            "ssl" | "ssl-mode" => Some(("sslmode".to_owned(), ssl_mode(&value))),
            known if KNOWN_PARAMETERS.contains(&known) => Some((key.into_owned(), value.into_owned())),
            _ => None,
        })
        .collect();
    let named_elsewhere = kept.iter().any(|(key, _)| key == "host" || key == "hostaddr");
    if parsed.host_str().is_none_or(str::is_empty) && !named_elsewhere {
        return Err(invalid("it names no host"));
    }
    parsed.set_query(None);
    if !kept.is_empty() {
        parsed.query_pairs_mut().extend_pairs(kept);
    }
    Ok(parsed)
}

/// Whether a URL without its scheme names several hosts: as a list, also in a parameter, or as parameters of one name.
fn has_several_hosts(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let parameters = rest.split_once('?').map_or("", |(_, parameters)| parameters);
    let is_several = |wanted: &str| {
        let pairs = form_urlencoded::parse(parameters.as_bytes());
        let values: Vec<_> = pairs.filter(|(key, _)| key == wanted).map(|(_, value)| value).collect();
        values.len() > 1 || values.iter().any(|value| value.contains(','))
    };
    hosts.contains(',') || is_several("host") || is_several("hostaddr")
}

/// asyncpg also takes booleans.
fn ssl_mode(value: &str) -> String {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" => "require".to_owned(),
        "false" | "0" => "disable".to_owned(),
        other => other.to_owned(),
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn several_hosts() -> Failure {
    invalid("it names several hosts").with_remedy(
        "name one host, that of the primary, or a service or proxy that always leads there: \
         postgresql://user:password@host:5432/database, with a percent-encoded password",
    )
}

fn invalid(reason: &str) -> Failure {
    Failure::invalid(
        "reading the Postgres URL",
        format!("the URL cannot be used: {reason}"),
        "write it as postgresql://user:password@host:5432/database",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::postgres::Category;
    use sqlx::postgres::PgSslMode;

    fn read(url: &str) -> PgConnectOptions {
        options(&Login::from(&SecretString::from(url))).unwrap()
    }

    #[test]
    fn with_an_authority_the_certificate_is_verified_whatever_the_mode_was() {
        let mode = |parameters: &str| {
            let url = SecretString::from(format!("postgresql://u:p@h/d{parameters}"));
            options(&Login { url, ca_pem: Some(b"authority".to_vec()) }).map(|options| options.get_ssl_mode())
        };
        for (parameters, verifies_names) in
            [("", true), ("?sslmode=prefer", true), ("?sslmode=verify-full", true), ("?ssl=require", false)]
        {
            let mode = mode(parameters).unwrap();
            assert_eq!(matches!(mode, PgSslMode::VerifyFull), verifies_names, "{parameters}");
            assert!(verifies_names || matches!(mode, PgSslMode::VerifyCa), "{parameters}");
        }
        assert_eq!(mode("?sslmode=disable").unwrap_err().category(), Category::Invalid);
    }

    #[test]
    fn drops_the_driver_and_the_line_break_of_a_secret() {
        let options = read("postgresql+asyncpg://albert:p%40ss@db.internal:5433/gateway\n");
        assert_eq!(options.get_host(), "db.internal");
        assert_eq!(options.get_port(), 5433);
        assert_eq!(options.get_username(), "albert");
        assert_eq!(options.get_database(), Some("gateway"));
    }

    #[test]
    fn understands_the_ssl_parameter_of_asyncpg_and_ignores_what_only_a_driver_knows() {
        let options =
            read("postgresql+asyncpg://u:p@h/d?ssl=require&prepared_statement_cache_size=0&sslpassword=x");
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Require));
        assert!(matches!(read("postgres://u@h/d?sslmode=verify-full").get_ssl_mode(), PgSslMode::VerifyFull));
    }

    #[test]
    fn several_hosts_are_refused_with_the_remedy() {
        for url in [
            "postgresql://u:hunter2@one,two/d",
            "postgresql+asyncpg://u:hunter2@one:5432,two:5433/d?target_session_attrs=read-write",
            "postgres://one,two",
            "postgresql:///d?user=u&password=hunter2&host=one,two",
            "postgresql://u:hunter2@/d?host=one%2Ctwo&port=5432,5433",
            "postgresql+asyncpg://u:hunter2@/d?host=one:5432&host=two:5432",
            "postgresql://u:hunter2@one/d?hostaddr=10.0.0.1,10.0.0.2",
        ] {
            let failure = options(&Login::from(&SecretString::from(url))).expect_err(url);
            assert_eq!((failure.category(), failure.is_transient()), (Category::Invalid, false), "{url}");
            assert!(failure.to_string().contains("several hosts"), "{url}: {failure}");
            assert!(failure.remedy().contains("that of the primary"), "{url}: {}", failure.remedy());
            assert!(!format!("{failure} {failure:?}").contains("hunter2"), "{url}");
        }
        // A comma elsewhere is one of a password or a name.
        assert_eq!(read("postgresql://u:a,b@h/d,e?host=i").get_host(), "i");
    }

    #[test]
    fn a_malformed_url_is_refused_without_repeating_any_of_it() {
        for url in [
            "",
            "hunter2",
            "mysql://u:hunter2@h/d",
            "postgresql+://u:hunter2@h/d",
            "postgresql://u:hunter2@h:port/d",
            "postgresql://u:hunter2@/d",
            "postgresql://u:hunter2@h/d?sslmode=hunter2",
            "postgresql://u:hunter2@h/d?port=hunter2",
            "postgresql:///d?user=u&password=hunter2",
            "postgresql://u:hun#ter2@h/d",
        ] {
            let failure = options(&Login::from(&SecretString::from(url))).expect_err(url);
            assert_eq!(failure.category(), Category::Invalid);
            let shown = format!("{failure} {failure:?} {}", failure.remedy());
            assert!(!shown.contains("hunter2") && !shown.contains("ter2"), "{shown}");
        }
    }
}
