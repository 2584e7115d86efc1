//! Go programs, built once into the cache: `NAME-KEY/bin/PROGRAM`, where the key covers all that goes into the build.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::places;
use crate::progress::{Step, run};

/// One at a time: each uses all cores by itself.
const LOCK: &str = "go-build";

/// Where the program lies once it is built.
pub fn path(name: &str, key: &str) -> Result<PathBuf> {
    Ok(places::cache()?.join(format!("{name}-{key}")).join("bin").join(name))
}

/// The program `name`, built in an empty folder by `build` (which is told where to put it) if it is not there.
pub fn get(
    name: &str,
    key: &str,
    message: &str,
    build: impl FnOnce(&Path, &Path) -> Result<Command>,
) -> Result<PathBuf> {
    let program = path(name, key)?;
    if program.exists() {
        return Ok(program);
    }
    let _lock = places::cache_lock(LOCK)?;
    if program.exists() {
        return Ok(program);
    }
    let finished = places::cache()?.join(format!("{name}-{key}"));
    let unfinished = finished.with_extension("unfinished");
    places::remove(&unfinished)?;
    let (source, bin) = (unfinished.join("source"), unfinished.join("bin"));
    for folder in [&source, &bin] {
        places::open_folder(folder)?;
    }
    let step = Step::begin(name, message);
    let mut command = build(&source, &bin)?;
    command.current_dir(&source).env_remove("GOFLAGS");
    run(&mut command, &unfinished.join("build.log"))?;
    std::fs::rename(&unfinished, &finished)?;
    step.end("built");
    Ok(program)
}
