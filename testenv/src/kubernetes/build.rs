//! The programs of Kubernetes and etcd, built from their Go modules into one binary in the cache. The versions of
//! all modules are pinned by the `go.mod` and `go.sum` in this crate; a change of them, or of `main.go`, builds anew.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::gobuild;

/// The version of Kubernetes.
pub const VERSION: &str = "v1.36.1";

const MAIN: &str = include_str!("../../kubernetes/main.go");
const MODULE: &str = include_str!("../../kubernetes/go.mod");
const SUMS: &str = include_str!("../../kubernetes/go.sum");

fn key() -> String {
    let mut hasher = DefaultHasher::new();
    (MAIN, MODULE, SUMS, VERSION).hash(&mut hasher);
    format!("{VERSION}-{:016x}", hasher.finish())
}

/// Whether it is in the cache already.
pub fn present() -> Result<bool> {
    Ok(gobuild::path("kubernetes", &key())?.exists())
}

/// The binary, built if it is not in the cache (nine minutes on two cores).
pub fn program() -> Result<PathBuf> {
    let message = format!("building Kubernetes {VERSION} (about nine minutes on two cores, once)");
    gobuild::get("kubernetes", &key(), &message, |source, bin| {
        for (name, content) in [("main.go", MAIN), ("go.mod", MODULE), ("go.sum", SUMS)] {
            fs::write(source.join(name), content)?;
        }
        let version = "k8s.io/component-base/version";
        let mut go = Command::new("go");
        go.args(["build", "-mod=readonly", "-trimpath", "-ldflags"])
            // Without its version, kubectl cannot read the server's.
            .arg(format!(
                "-s -w -X {version}.gitVersion={VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor=36"
            ))
            .arg("-o")
            .arg(bin.join("kubernetes"))
            .arg(".");
        Ok(go)
    })
}
