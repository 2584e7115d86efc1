//! Helm, for the tests of the chart: built from its Go module into the cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::gobuild;

/// The pinned version.
pub const VERSION: &str = "v3.19.5";

/// Whether it is in the cache already.
pub fn present() -> Result<bool> {
    Ok(gobuild::path("helm", VERSION)?.exists())
}

/// The program, built if it is not in the cache (two minutes).
pub fn program() -> Result<PathBuf> {
    gobuild::get("helm", VERSION, &format!("building Helm {VERSION}"), |_, bin| {
        let mut go = Command::new("go");
        go.arg("install").arg("-trimpath").arg("-ldflags=-s -w");
        go.arg(format!("helm.sh/helm/v3/cmd/helm@{VERSION}")).env("GOBIN", bin);
        Ok(go)
    })
}
