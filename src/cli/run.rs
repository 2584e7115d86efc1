//! `run`: the whole merge in this process, with progress bars (plain lines where there is no terminal).

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::manifest::Job;
use super::process_name;
use crate::merge::{Engine, MergeError, Next, Phase, Report, SourceDeletionReport, UNITS_FAILING, secrets};

/// The longest pause between two steps.
const LONGEST: Duration = Duration::from_secs(5);
/// The first pause after a failed step; doubled at each further one in a row.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest pause after failed steps.
const RETRY_MAX: Duration = Duration::from_mins(1);
/// How often a plain line is printed while nothing but the numbers change.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How often the secrets are compared with those in use; at once after a failure.
const SECRETS_EVERY: Duration = Duration::from_secs(30);

/// Runs to the verdict, or to the signal.
pub(super) async fn run(job: Job, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let mut display = Display::new();
    let Some(mut session) = Box::pin(begin(job, &display, &shutdown)).await? else {
        return Ok(ExitCode::from(130));
    };
    let mut failures = 0_u32;
    loop {
        let wait = match session.step().await {
            Ok(report) => {
                failures = 0;
                display.show(&report);
                if let Some(code) = ending(&report) {
                    session.engine.stop().await;
                    display.end(&report);
                    return Ok(code);
                }
                match report.next {
                    Next::Now if !shutdown.is_cancelled() => continue,
                    Next::Now => Duration::ZERO,
                    Next::After(pause) => pause.min(LONGEST),
                    Next::Settled => LONGEST,
                }
            }
            Err(Stopped::ForGood(error)) => {
                session.engine.stop().await;
                return Err(error.into());
            }
            Err(Stopped::ForNow(error)) => {
                failures += 1;
                display.again(&error, failures)
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                session.engine.stop().await;
                display.say("stopped at a checkpoint; run the same command again to go on");
                return Ok(ExitCode::from(130));
            }
            () = tokio::time::sleep(wait) => {}
            () = session.engine.progressed(), if failures == 0 => {}
        }
    }
}

/// Connects and checks everything, again and again while the only obstacles are servers that do not answer now.
/// `None` when it was told to end meanwhile.
async fn begin(
    job: Job,
    display: &Display,
    shutdown: &CancellationToken,
) -> Result<Option<Session>, MergeError> {
    let mut failures = 0_u32;
    loop {
        let error = match Box::pin(Session::begin(job.clone())).await {
            Ok(session) => return Ok(Some(session)),
            Err(error) if error.may_pass() => error,
            Err(error) => return Err(error),
        };
        failures += 1;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(display.again(&error, failures)) => {}
        }
    }
}

/// The merge, connected with the secrets as they are now.
struct Session {
    job: Job,
    worker: String,
    engine: Engine,
    /// The fingerprint of the secrets in use.
    secrets: u64,
    /// When they were last compared with those in use; `None`: to be done before the next step.
    looked: Option<Instant>,
}

/// Why there was no step.
enum Stopped {
    /// What a person must mend is not retried on a command line.
    ForGood(MergeError),
    /// It is tried again.
    ForNow(MergeError),
}

impl Session {
    async fn begin(job: Job) -> Result<Session, MergeError> {
        let worker = process_name();
        let found = secrets::resolve(&job.resource.spec, &job.secrets).await?;
        let secrets = found.fingerprint();
        let engine = Engine::open(job.merge.clone(), found, worker.clone()).await?;
        Ok(Session { job, worker, engine, secrets, looked: Some(Instant::now()) })
    }

    /// One step, with an engine that has the present secrets.
    async fn step(&mut self) -> Result<Report, Stopped> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= SECRETS_EVERY) {
            // A secret that is being replaced may be half there, and its server may not know it yet.
            self.take_new_secrets().await.map_err(Stopped::ForNow)?;
        }
        match self.engine.step(Timestamp::now()).await {
            Ok(report) => {
                if report.waiting.as_ref().is_some_and(|waiting| waiting.reason == UNITS_FAILING) {
                    self.looked = None;
                }
                Ok(report)
            }
            Err(error) => {
                self.looked = None;
                Err(match error {
                    MergeError::Problems { .. }
                    | MergeError::DestinationLost(_)
                    | MergeError::Internal(_) => Stopped::ForGood(error),
                    _ => Stopped::ForNow(error),
                })
            }
        }
    }

    /// Connects anew if a secret has changed. Until that works, no step is made.
    async fn take_new_secrets(&mut self) -> Result<(), MergeError> {
        let found = secrets::resolve(&self.job.resource.spec, &self.job.secrets).await?;
        let fingerprint = found.fingerprint();
        if fingerprint != self.secrets {
            self.engine.stop().await;
            self.looked = None;
            self.engine = Engine::open(self.job.merge.clone(), found, self.worker.clone()).await?;
            self.secrets = fingerprint;
        }
        self.looked = Some(Instant::now());
        Ok(())
    }
}

/// The exit code, when there is nothing more to do.
fn ending(report: &Report) -> Option<ExitCode> {
    match report.phase {
        // While source indices are being deleted it goes on; their time of retention is not waited for.
        Phase::Completed if report.next == Next::Now => None,
        Phase::Completed => Some(ExitCode::SUCCESS),
        Phase::Failed if report.next == Next::Settled => Some(ExitCode::FAILURE),
        Phase::Suspended => Some(ExitCode::from(2)),
        _ => None,
    }
}

/// A bar for each phase on a terminal, plain lines elsewhere.
struct Display {
    terminal: bool,
    phase: Option<Phase>,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    last_wait: Option<String>,
}

impl Display {
    fn new() -> Display {
        let terminal = std::io::stderr().is_terminal();
        Display { terminal, phase: None, bar: None, last_line: None, last_wait: None }
    }

    fn show(&mut self, report: &Report) {
        if self.phase != Some(report.phase) {
            self.enter(report);
        }
        if let Some(waiting) = &report.waiting
            && self.last_wait.as_ref() != Some(&waiting.message)
        {
            self.last_wait = Some(waiting.message.clone());
            self.say(&waiting.message);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(report.progress.documents.max(1));
            bar.set_position(report.progress.documents_done);
            bar.set_message(numbers(report));
            return;
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if due && matches!(report.phase, Phase::Copying | Phase::Indexing | Phase::Verifying) {
            self.last_line = Some(Instant::now());
            self.say(&format!("{:<12} {:>5.1} % {}", report.phase, report.progress.percent, numbers(report)));
        }
    }

    fn enter(&mut self, report: &Report) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
        self.phase = Some(report.phase);
        self.last_line = None;
        let walks = matches!(report.phase, Phase::Copying | Phase::Verifying);
        if self.terminal && walks {
            let bar = ProgressBar::new(1);
            if let Ok(style) = ProgressStyle::with_template("{prefix:<12} [{wide_bar}] {pos}/{len} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(report.phase.as_str());
            self.bar = Some(bar);
        } else {
            self.say(&format!("{:<12} {}", report.phase, report.message));
        }
    }

    /// Says why it is tried again, and gives the pause before that.
    fn again(&self, error: &MergeError, failures: u32) -> Duration {
        let pause = RETRY_FIRST.saturating_mul(1 << failures.min(6)).min(RETRY_MAX);
        self.say(&format!("{error}; tried again in {} s", pause.as_secs()));
        pause
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn end(&mut self, report: &Report) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
        println!("{}: {}", report.phase, report.message);
        let is_ahead = |deletion: &SourceDeletionReport| deletion.from.is_some() && deletion.remaining > 0;
        if report.source_deletion.as_ref().is_some_and(is_ahead) {
            println!("run the same command again after that time: it deletes them");
        }
        if report.quarantined > 0 {
            println!("{} chunks are in quarantine", report.quarantined);
        }
        for attention in &report.attention {
            println!("collection {}: {}: {}", attention.collection, attention.reason, attention.message);
        }
        let more = report.attention_total.saturating_sub(report.attention.len() as u64);
        if more > 0 {
            println!("and {more} more entries");
        }
    }
}

fn numbers(report: &Report) -> String {
    let progress = &report.progress;
    let rate = progress.rate.map_or_else(String::new, |rate| format!(" {rate:.0}/s"));
    let eta = progress.eta.map_or_else(String::new, |eta| format!(" until {}", eta.strftime("%H:%M:%SZ")));
    format!(
        "{}/{} collections, {}/{} chunks, {}{rate}{eta}",
        progress.collections_done,
        progress.collections,
        progress.documents_done,
        progress.documents,
        HumanBytes(progress.bytes_done)
    )
}
