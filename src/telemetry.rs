//! Logs: structured, on standard error, as text for people or as JSON for machines.
//!
//! What is logged is decided by `RUST_LOG` (for instance `info,es_index_merge=debug`). Secrets never reach a log:
//! they travel as `SecretString`, whose `Debug` hides them.

use std::str::FromStr;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("`{other}` is not a log format; use text or json")),
        }
    }
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG is not a filter for logs: {0}; write for instance RUST_LOG=info,es_index_merge=debug")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// It has begun already.
    #[error("logging has been set up twice: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Begins logging. Without `RUST_LOG`, `default_filter` decides (for instance `info`).
pub fn init(format: LogFormat, default_filter: &str) -> Result<(), TelemetryError> {
    let filter = if std::env::var_os(EnvFilter::DEFAULT_ENV).is_some() {
        EnvFilter::try_from_default_env()?
    } else {
        EnvFilter::new(default_filter)
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_log_format_is_text_or_json() {
        assert_eq!("text".parse(), Ok(LogFormat::Text));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("xml".parse::<LogFormat>().unwrap_err().contains("use text or json"));
    }
}
