//! Real text in several languages: the manual pages of Debian's `manpages*` packages.
//!
//! The packages come from apt (`apt-get download`), are unpacked once into a folder outside the checkout
//! (`${XDG_CACHE_HOME:-~/.cache}/es-index-merge/corpus/PACKAGE_VERSION`) and found there the next time without
//! apt. What apt or dpkg lack is said with the command that installs it. A folder is renamed into place when it
//! is complete, so an interrupted download leaves nothing that a later run would take for whole.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use super::roff;

/// One manual page.
#[derive(Debug, Clone)]
pub struct Page {
    /// The Debian package, for instance `manpages-fr-dev`.
    pub package: String,
    /// The section of the manual, for instance `2`.
    pub section: String,
    /// File name without compression, for instance `open.2`.
    pub name: String,
    /// Its text; never empty.
    pub paragraphs: Vec<String>,
}

/// The packages of the demo: French, English, German, Spanish, Italian, Swedish, Portuguese, Dutch.
pub const PACKAGES: [&str; 13] = [
    "manpages-fr-dev",
    "manpages-fr",
    "manpages",
    "manpages-dev",
    "manpages-de",
    "manpages-de-dev",
    "manpages-es",
    "manpages-es-dev",
    "manpages-it",
    "manpages-it-dev",
    "manpages-sv",
    "manpages-pt-br",
    "manpages-nl",
];

/// Where unpacked packages are kept.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(
            std::env::var_os("HOME")
                .context("HOME is not set; set XDG_CACHE_HOME to a folder for downloads")?,
        )
        .join(".cache"),
    };
    Ok(base.join("es-index-merge").join("corpus"))
}

/// All pages of `packages`, in the order of packages, sections and names; downloads what is not in the cache.
pub fn pages(packages: &[&str]) -> Result<Vec<Page>> {
    let folder = cache()?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create the cache folder {}", folder.display()))?;
    let mut pages = Vec::new();
    for package in packages {
        let unpacked = match unpacked(&folder, package)? {
            Some(found) => found,
            None => fetch(&folder, package)?,
        };
        read_package(package, &unpacked, &mut pages)?;
    }
    if pages.is_empty() {
        bail!("the packages {packages:?} hold no manual page; remove {} and try again", folder.display());
    }
    Ok(pages)
}

/// The folder of a package that an earlier run unpacked (the newest version, should there be several).
fn unpacked(folder: &Path, package: &str) -> Result<Option<PathBuf>> {
    let prefix = format!("{package}_");
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir()
            && path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found.pop())
}

fn fetch(folder: &Path, package: &str) -> Result<PathBuf> {
    let work = tempfile::Builder::new().prefix(".download-").tempdir_in(folder)?;
    if let Err(first) = download(work.path(), package) {
        // Images of containers and fresh machines have empty lists.
        let update = run(Command::new("apt-get").args(["update", "-q"]))?;
        if !update.status.success() {
            bail!(
                "apt-get cannot download {package} and its lists cannot be updated; run `sudo apt-get update` and try again\n{first:#}\n{}",
                tail(&update)
            );
        }
        download(work.path(), package)?;
    }
    let archive = std::fs::read_dir(work.path())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .with_context(|| format!("apt-get downloaded no archive for {package}"))?;
    let name = archive.file_stem().and_then(|name| name.to_str()).unwrap_or(package).to_owned();
    let tree = work.path().join("tree");
    let unpack = run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tree))?;
    if !unpack.status.success() {
        bail!("dpkg-deb cannot unpack {}: {}", archive.display(), tail(&unpack));
    }
    let target = folder.join(name);
    match std::fs::rename(&tree, &target) {
        Ok(()) => Ok(target),
        // Another run was faster: theirs is as good.
        Err(_) if target.is_dir() => Ok(target),
        Err(error) => {
            Err(error).with_context(|| format!("cannot move the unpacked package to {}", target.display()))
        }
    }
}

fn download(into: &Path, package: &str) -> Result<()> {
    let output = run(Command::new("apt-get")
        .current_dir(into)
        // As root apt changes to a user who may not write here.
        .args(["download", "-q", "-o", "APT::Sandbox::User=root", package]))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("apt-get cannot download {package}: {}", tail(&output));
}

fn run(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.env("LC_ALL", "C").stdin(std::process::Stdio::null()).output().with_context(|| {
        format!(
            "cannot run `{program}`: the demo takes its text from Debian's manual pages and needs apt and dpkg; \
             on another system, unpack the packages {PACKAGES:?} yourself into the cache folder, each as PACKAGE_VERSION"
        )
    })
}

fn tail(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Reads `usr/share/man/[LANGUAGE/]manN/*` below `tree`.
fn read_package(package: &str, tree: &Path, pages: &mut Vec<Page>) -> Result<()> {
    let mut folders = vec![tree.join("usr/share/man")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}; remove it and try again", folder.display()))?
        {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    for file in files {
        let Some(page) = read_page(package, &file)? else { continue };
        pages.push(page);
    }
    Ok(())
}

fn read_page(package: &str, file: &Path) -> Result<Option<Page>> {
    let section = file
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix("man"));
    let (Some(section), Some(name)) = (section, file.file_name().and_then(|name| name.to_str())) else {
        return Ok(None);
    };
    let raw = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let bytes = if file.extension().is_some_and(|ending| ending == "gz") {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(raw.as_slice()).read_to_end(&mut text).with_context(|| {
            format!("cannot decompress {}; remove its folder and try again", file.display())
        })?;
        text
    } else {
        raw
    };
    let paragraphs = roff::paragraphs(&String::from_utf8_lossy(&bytes));
    if paragraphs.is_empty() {
        return Ok(None);
    }
    let name = name.strip_suffix(".gz").unwrap_or(name).to_owned();
    Ok(Some(Page { package: package.to_owned(), section: section.to_owned(), name, paragraphs }))
}
