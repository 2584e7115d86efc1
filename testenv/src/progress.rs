//! What the harness says while it works: one line per step on standard error, with the time since the start, and a
//! line now and then while a long step goes on. Programs run here are echoed in full when they fail.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often a step that goes on is mentioned again.
const HEARTBEAT: Duration = Duration::from_secs(20);

static START: OnceLock<Instant> = OnceLock::new();

/// Prints one line about `what`.
pub fn say(what: &str, message: &str) {
    let elapsed = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    eprintln!("testenv [{elapsed:6.1}s] {what}: {message}");
}

/// A step that may take long: it is mentioned every 20 seconds until it ends or is dropped.
#[derive(Debug)]
pub struct Step {
    what: String,
    begun: Instant,
    // Dropping the sender ends the thread.
    bell: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Step {
    /// Says that the step begins.
    pub fn begin(what: &str, message: &str) -> Self {
        say(what, message);
        let begun = Instant::now();
        let (sender, receiver) = channel::<()>();
        let (name, message) = (what.to_owned(), message.to_owned());
        let bell = std::thread::spawn(move || {
            while receiver.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                say(&name, &format!("still {message} ({} s)", begun.elapsed().as_secs()));
            }
        });
        Self { what: what.to_owned(), begun, bell: Some((sender, bell)) }
    }

    /// Says that the step is done, and how long it took.
    pub fn end(self, message: &str) {
        say(&self.what, &format!("{message} ({:.1} s)", self.begun.elapsed().as_secs_f64()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some((sender, bell)) = self.bell.take() {
            drop(sender);
            // The thread only waits and prints; that it panicked is of no use to anybody here.
            let _ = bell.join();
        }
    }
}

/// Runs a program to its end with its output in the file `log`; on failure the error ends with the last lines of it.
pub fn run(command: &mut Command, log: &Path) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status}); the end of {}:\n{}", log.display(), tail(log));
    }
    Ok(())
}

/// The last 30 lines of a log, or why they cannot be read.
pub fn tail(log: &Path) -> String {
    match fs::read(log) {
        Ok(content) => {
            let text = String::from_utf8_lossy(&content);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        }
        Err(error) => format!("(cannot read it: {error})"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_that_fails_is_reported_with_the_end_of_its_output() {
        let log = std::env::temp_dir().join(format!("testenv-run-{}", std::process::id()));
        let error = run(Command::new("sh").args(["-c", "echo the reason; exit 3"]), &log).unwrap_err();
        assert!(error.to_string().contains("the reason"), "{error}");
        fs::remove_file(&log).unwrap();
    }
}
