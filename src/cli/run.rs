//! `run`: the whole merge in this process, with progress bars (plain lines where there is no terminal).

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::manifest::Job;
use super::process_name;
use crate::merge::{
    Engine, MergeCategory, MergeError, Next, Phase, Report, SourceDeletionReport, UNITS_FAILING, secrets,
};

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

/// How long connecting with new secrets may take, while no step is made.
const CONNECT: Duration = Duration::from_secs(20);
/// How long giving a cutover up may take at the end.
const LEAVE: Duration = Duration::from_secs(30);

/// Runs to the verdict, or to the signal.
pub(super) async fn run(job: Job, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let mut display = Display::new();
    let Some(mut session) = Box::pin(begin(job, &display, &shutdown)).await? else {
        return Ok(ExitCode::from(130));
    };
    match Box::pin(walk(&mut session, &mut display, &shutdown)).await {
        End::Done(report, code) => {
            session.engine.stop().await;
            display.end(&report);
            Ok(code)
        }
        End::Told => {
            leave(&session.engine, &display, "the process that made it was told to end").await;
            display.say("stopped at a checkpoint; run the same command again to go on");
            Ok(ExitCode::from(130))
        }
        End::Stuck(error) => {
            leave(&session.engine, &display, &error.to_string()).await;
            Err(error.into())
        }
    }
}

/// How the steps of a merge came to an end.
enum End {
    /// There is nothing more to do.
    Done(Box<Report>, ExitCode),
    /// By a signal, before the merge did.
    Told,
    /// A person must mend something first.
    Stuck(MergeError),
}

/// Makes step after step.
async fn walk(session: &mut Session, display: &mut Display, shutdown: &CancellationToken) -> End {
    let mut failures = 0_u32;
    loop {
        let stepped = session.step().await;
        // What is wrong with the secrets comes first: it may be why the step failed.
        display.hindered(session.hindrance.as_ref().map(|(error, _)| error));
        let wait = match stepped {
            Ok(report) => {
                failures = 0;
                display.show(&report);
                if let Some(code) = ending(&report) {
                    return End::Done(Box::new(report), code);
                }
                match report.next {
                    Next::Now if !shutdown.is_cancelled() => continue,
                    Next::Now => Duration::ZERO,
                    Next::After(pause) => pause.min(LONGEST),
                    Next::Settled => LONGEST,
                }
            }
            Err(Stopped::ForGood(error)) => return End::Stuck(error),
            Err(Stopped::ForNow(error)) => {
                failures += 1;
                display.again(&error, failures)
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return End::Told,
            () = tokio::time::sleep(wait) => {}
            () = session.engine.progressed(), if failures == 0 => {}
        }
    }
}

/// Stops at a checkpoint. Nobody may be left to end a cutover in time, so it is given up; at once, as whoever ends this
/// process may not be patient, and unless another process goes on with it.
async fn leave(engine: &Engine, display: &Display, why: &str) {
    let mut obstacle = None;
    let giving_up = async {
        loop {
            match engine.leave_cutover(why, Timestamp::now()).await {
                Ok(given_up) => return given_up,
                Err(error) => obstacle = Some(error),
            }
            tokio::time::sleep(RETRY_FIRST).await;
        }
    };
    let ((), given_up) = tokio::join!(engine.stop(), tokio::time::timeout(LEAVE, giving_up));
    let obstacle = match given_up {
        Ok(true) => {
            display.say("the cutover is given up for now, so that no writer of the sources is refused");
            return;
        }
        Ok(false) => return,
        Err(_) => obstacle
            .map_or_else(|| format!("no answer within {} s", LEAVE.as_secs()), |error| error.to_string()),
    };
    if display.may_refuse_writers() {
        display.say(&format!(
            "writers of the sources may be refused, as the cutover cannot be given up: {obstacle}; to end that, run the same command again, or with spec.suspend: true"
        ));
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
        let error = match Box::pin(Session::begin(job.clone(), shutdown.clone())).await {
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
    /// Why they could not be taken then, and how often in a row.
    hindrance: Option<(MergeError, u32)>,
    shutdown: CancellationToken,
}

/// Why there was no step.
enum Stopped {
    /// What a person must mend is not retried on a command line.
    ForGood(MergeError),
    /// It is tried again.
    ForNow(MergeError),
}

impl Session {
    async fn begin(job: Job, shutdown: CancellationToken) -> Result<Session, MergeError> {
        let worker = process_name();
        let found = secrets::resolve(&job.resource.spec, &job.secrets).await?;
        let secrets = found.fingerprint();
        let engine = Engine::open(job.merge.clone(), found, worker.clone()).await?;
        Ok(Session { job, worker, engine, secrets, looked: Some(Instant::now()), hindrance: None, shutdown })
    }

    /// One step, with an engine that has the present secrets, if they can be taken. What runs goes on meanwhile: not to step
    /// it would mean that nothing ends a cutover in time.
    async fn step(&mut self) -> Result<Report, Stopped> {
        if self.secrets_are_due() {
            // A secret that is being replaced may be half there, and its server may not know it yet.
            let taken = Box::pin(self.take_new_secrets()).await;
            let times = self.hindrance.as_ref().map_or(0, |(_, times)| *times);
            self.hindrance = taken.err().map(|error| (error, times.saturating_add(1)));
            self.looked = Some(Instant::now());
        }
        match self.engine.step(Timestamp::now()).await {
            Ok(report) => {
                if report.waiting.as_ref().is_some_and(|waiting| waiting.reason == UNITS_FAILING) {
                    self.suspect_secrets();
                }
                Ok(report)
            }
            Err(error) => {
                self.suspect_secrets();
                Err(match error {
                    MergeError::Problems { .. }
                    | MergeError::DestinationLost(_)
                    | MergeError::Internal(_) => Stopped::ForGood(error),
                    _ => Stopped::ForNow(error),
                })
            }
        }
    }

    /// Looked at less and less often while they cannot be taken: a password that is refused again and again may lock its
    /// user out.
    fn secrets_are_due(&self) -> bool {
        let wait = match &self.hindrance {
            Some((_, times)) => pause_after(*times, RETRY_MAX),
            None => SECRETS_EVERY,
        };
        self.looked.is_none_or(|looked| looked.elapsed() >= wait)
    }

    /// They may be why something failed. If it is known what is wrong with them, that has its own time.
    fn suspect_secrets(&mut self) {
        if self.hindrance.is_none() {
            self.looked = None;
        }
    }

    /// Connects anew if a secret has changed. What runs is stopped when everything answers.
    async fn take_new_secrets(&mut self) -> Result<(), MergeError> {
        let found = secrets::resolve(&self.job.resource.spec, &self.job.secrets).await?;
        let fingerprint = found.fingerprint();
        if fingerprint == self.secrets {
            return Ok(());
        }
        let connecting = async {
            let connected = Engine::connect(self.job.merge.clone(), found, self.worker.clone()).await?;
            connected.check_claim().await?;
            Ok::<_, MergeError>(connected)
        };
        let connected = tokio::select! {
            connected = connecting => connected?,
            // What runs is ended first.
            () = self.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(CONNECT) => {
                let text = format!("nothing is known of the new secrets after {} s", CONNECT.as_secs());
                return Err(MergeError::problem(MergeCategory::ChecksFailed, "spec", text));
            }
        };
        // Whoever claims takes what this process holds back.
        self.engine.stop().await;
        self.engine = connected.claim().await?;
        self.secrets = fingerprint;
        Ok(())
    }
}

/// The pause after so many failures in a row.
fn pause_after(failures: u32, longest: Duration) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.min(6)).min(longest)
}

/// The exit code, when there is nothing more to do.
fn ending(report: &Report) -> Option<ExitCode> {
    match report.phase {
        // While source indices are being deleted it goes on; their time of retention is not waited for.
        Phase::Completed if report.next == Next::Now => None,
        Phase::Completed => Some(ExitCode::SUCCESS),
        Phase::Failed if report.next == Next::Settled => Some(ExitCode::FAILURE),
        // Another process may have to give a cutover up first, and die before it does.
        Phase::Suspended if report.next == Next::Settled => Some(ExitCode::from(2)),
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
    last_hindrance: Option<String>,
}

impl Display {
    fn new() -> Display {
        let terminal = std::io::stderr().is_terminal();
        Display { terminal, phase: None, bar: None, last_line: None, last_wait: None, last_hindrance: None }
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

    /// Says once why the secrets in use are not the present ones.
    fn hindered(&mut self, hindrance: Option<&MergeError>) {
        let why = hindrance.map(ToString::to_string);
        if let Some(text) = &why
            && self.last_hindrance != why
        {
            self.say(&format!("{text}; the merge goes on with the secrets it has"));
        }
        self.last_hindrance = why;
    }

    /// Whether a cutover may be under way, as far as the last good step knows.
    fn may_refuse_writers(&self) -> bool {
        self.phase.is_none_or(|phase| phase >= Phase::Synced)
    }

    /// Says why it is tried again, and gives the pause before that. In a cutover only a step sees that its time is over.
    fn again(&self, error: &MergeError, failures: u32) -> Duration {
        let longest = if self.phase == Some(Phase::CuttingOver) { LONGEST } else { RETRY_MAX };
        let pause = pause_after(failures, longest);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_pause_which_stays_short_in_a_cutover() {
        let pauses = |longest| [1, 2, 3, 6, 100].map(|failures| pause_after(failures, longest).as_secs());
        assert_eq!(pauses(RETRY_MAX), [2, 4, 8, 60, 60]);
        assert_eq!(pauses(LONGEST), [2, 4, 5, 5, 5]);
    }
}
