//! The Java for a server: one that is on this machine, of a version which the server takes, with the module
//! `jdk.attach` (a server attaches to itself; runtimes that are not a JDK often lack it).

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::Flavor;
use crate::places;
use crate::prerequisites::find_program;

/// Its folder: of `ES_JAVA_HOME` and `JAVA_HOME` the first that will do, else of `/usr/lib/jvm` and the `PATH` the newest
/// that will: before 21 a server compares vectors without the processor's instructions for that. When the server runs as
/// another user it must be able to read it. The error says how to install one.
pub fn find(flavor: Flavor) -> Result<PathBuf> {
    let (oldest, newest, package) = match flavor {
        Flavor::V8 => (17, 25, "openjdk-21-jdk-headless"),
        Flavor::V9 => (21, 25, "openjdk-21-jdk-headless"),
    };
    let others_read_it = rustix::process::geteuid().is_root();
    let named = ["ES_JAVA_HOME", "JAVA_HOME"].iter().filter_map(std::env::var_os).map(PathBuf::from);
    let installed = fs::read_dir("/usr/lib/jvm").into_iter().flatten();
    let mut installed: Vec<PathBuf> = installed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    installed.extend(
        find_program("java")
            .and_then(|java| java.canonicalize().ok()?.ancestors().nth(2).map(Path::to_owned)),
    );
    // Sorted first: whether one fits is found out by starting it.
    installed.sort_by_key(|home| Reverse(version(home)));
    let fits = |home: &PathBuf| {
        version(home).is_some_and(|version| (oldest..=newest).contains(&version))
            && (!others_read_it || places::readable_by_others(&home.join("bin/java")))
            && attaches(home)
    };
    match named.chain(installed).find(fits) {
        Some(home) => Ok(home),
        None => bail!(
            "java, a JDK of version {oldest} to {newest} (runs Elasticsearch {}): apt-get install {package} \
             (or unpack one below /usr/lib/jvm, or set JAVA_HOME to it)",
            flavor.version()
        ),
    }
}

/// The first number of its version, from the file `release` which each Java has.
fn version(home: &Path) -> Option<u32> {
    let release = fs::read_to_string(home.join("release")).ok()?;
    let version = release.lines().find_map(|line| line.strip_prefix("JAVA_VERSION="))?.trim_matches('"');
    version.split(['.', '+', '-']).next()?.parse().ok()
}

fn attaches(home: &Path) -> bool {
    let modules = Command::new(home.join("bin/java")).arg("--list-modules").output();
    modules.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("jdk.attach@"))
}
