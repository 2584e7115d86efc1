//! `run`: the whole merge in this process, with progress bars (plain lines where there is no terminal).

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::manifest::Job;
use super::process_name;
use crate::merge::{Engine, MergeError, Next, Phase, Report, secrets};

/// The longest pause between two steps.
const LONGEST: Duration = Duration::from_secs(5);
/// The first pause after a failed step; doubled at each further one in a row.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest pause after failed steps.
const RETRY_MAX: Duration = Duration::from_mins(1);
/// How often a plain line is printed while nothing but the numbers change.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Runs to the verdict, or to the signal.
pub(super) async fn run(job: Job, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let secrets = secrets::resolve(&job.resource.spec, &job.secrets).await?;
    let engine = Engine::open(job.merge, secrets, process_name()).await?;
    let mut display = Display::new();
    let mut failures = 0_u32;
    loop {
        let wait = match engine.step(Timestamp::now()).await {
            Ok(report) => {
                failures = 0;
                display.show(&report);
                if let Some(code) = ending(&report) {
                    engine.stop().await;
                    display.end(&report);
                    return Ok(code);
                }
                match report.next {
                    Next::Now => continue,
                    Next::After(pause) => pause.min(LONGEST),
                    Next::Settled => LONGEST,
                }
            }
            Err(error) => {
                failures += 1;
                give_up_on(&error)?;
                let pause = RETRY_FIRST.saturating_mul(1 << failures.min(6)).min(RETRY_MAX);
                display.say(&format!("{error}; tried again in {} s", pause.as_secs()));
                pause
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {
                engine.stop().await;
                display.say("stopped at a checkpoint; run the same command again to go on");
                return Ok(ExitCode::from(130));
            }
            () = tokio::time::sleep(wait) => {}
            () = engine.progressed(), if failures == 0 => {}
        }
    }
}

/// What a person must mend is not retried on a command line.
fn give_up_on(error: &MergeError) -> anyhow::Result<()> {
    match error {
        MergeError::Problems { .. } | MergeError::DestinationLost(_) | MergeError::Internal(_) => {
            anyhow::bail!("{error}")
        }
        _ => Ok(()),
    }
}

/// The exit code, when there is nothing more to do.
fn ending(report: &Report) -> Option<ExitCode> {
    match report.phase {
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
    last_line: Option<std::time::Instant>,
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
            self.last_line = Some(std::time::Instant::now());
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
        if report.quarantined > 0 {
            println!("{} chunks are in quarantine", report.quarantined);
        }
        for attention in &report.attention {
            println!("collection {}: {}: {}", attention.collection, attention.reason, attention.message);
        }
        let more = report.attention_total.saturating_sub(report.attention.len() as u64);
        if more > 0 {
            println!("and {more} more collections that need attention");
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
