//! What must be on the machine, and the command that installs what is not. All that is missing is named at once,
//! before anything is fetched or built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::elasticsearch::Flavor;
use crate::{Part, elasticsearch, helm, kubernetes, postgres};

/// The program of that name on the `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// An error which names all that is missing to start these parts.
pub fn check(parts: &[Part]) -> Result<()> {
    let mut missing = Vec::new();
    let mut need = |missing_now: bool, line: &str| {
        if missing_now && !missing.contains(&line.to_owned()) {
            missing.push(line.to_owned());
        }
    };
    for part in parts {
        match part {
            Part::Elasticsearch8 | Part::Elasticsearch9 => {
                let flavor = if *part == Part::Elasticsearch8 { Flavor::V8 } else { Flavor::V9 };
                if let Err(error) = elasticsearch::find_java(flavor) {
                    need(true, &error.to_string());
                }
                if !elasticsearch::present(flavor)? && elasticsearch::local_archive(flavor).is_none() {
                    need(find_program("mvn").is_none(), "mvn (fetches Elasticsearch): apt-get install maven");
                }
            }
            Part::Kubernetes if !kubernetes::present()? => need(!go_is_recent(), GO),
            Part::Helm if !helm::present()? => need(!go_is_recent(), GO),
            Part::Kubernetes | Part::Helm => {}
            Part::Postgres => {
                need(
                    postgres::programs().is_err(),
                    "postgres (initdb, postgres, psql): apt-get install postgresql",
                );
            }
        }
    }
    if !missing.is_empty() {
        bail!("missing on this machine:\n  - {}", missing.join("\n  - "));
    }
    Ok(())
}

const GO: &str = "go, 1.21 or newer (builds Kubernetes and Helm; fetches Go 1.26 by itself): apt-get install golang-go \
                  (on Debian 12 that one is too old: take golang-go from bookworm-backports)";

/// From 1.21 on, Go fetches the newer Go that a module asks for.
fn go_is_recent() -> bool {
    let Ok(output) = Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output()
    else {
        return false;
    };
    let version = String::from_utf8_lossy(&output.stdout);
    let mut numbers =
        version.trim().trim_start_matches("go").split('.').map(|number| number.parse::<u32>().ok());
    matches!((numbers.next().flatten(), numbers.next().flatten()), (Some(1), Some(minor)) if minor >= 21)
}
