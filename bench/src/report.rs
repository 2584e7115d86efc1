//! The report: ratios of medians, in Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use crate::cases::{Measured, Turn};
use crate::{Cli, Contestant};

/// The whole text.
pub fn report(cli: &Cli, results: &[Measured]) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}\n", machine(cli));
    for measured in results {
        table(measured, &mut out);
    }
    out
}

fn machine(cli: &Cli) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    format!(
        "{cores} cores ({model}), {} GiB, shared by the servers, the client and Postgres; heap of each server {}, plain HTTP.",
        kilobytes >> 20,
        cli.heap
    )
}

fn table(measured: &Measured, out: &mut String) {
    let (collections, chunks) = measured.size;
    let _ = writeln!(
        out,
        "### {:?}: {chunks} chunks in {collections} collection(s), {} -> {}\n",
        measured.case,
        measured.pair.0.version(),
        measured.pair.1.version()
    );
    let _ = writeln!(
        out,
        "| | load | to the final state | ours with verification is | ours without | processor time of the servers |\n|---|---|---|---|---|---|"
    );
    let total = |contestant| median(measured, contestant, |turn| turn.total);
    let (full, counts) = (total(Contestant::Ours), total(Contestant::OursCounts));
    for contestant in [
        Contestant::Ours,
        Contestant::OursCounts,
        Contestant::Limit,
        Contestant::Reindex,
        Contestant::ReindexEach,
        Contestant::Script,
        Contestant::Elasticdump,
    ] {
        let Some(took) = total(contestant) else { continue };
        let load = median(measured, contestant, |turn| turn.load).unwrap_or_default();
        let servers = median(measured, contestant, |turn| turn.servers.total()).unwrap_or_default();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            name(contestant),
            seconds(load),
            seconds(took),
            compared(contestant, took, full),
            compared(contestant, took, counts),
            seconds(servers)
        );
    }
    let _ = writeln!(
        out,
        "\nTurns of each: {}. Final state after the last turn: segments of the shards {:?}; one kNN query compared {} of {} vectors.\n",
        measured.turns.iter().filter(|turn| turn.contestant == measured.turns[0].contestant).count(),
        measured.proof.segments,
        measured.proof.compared.0,
        measured.proof.compared.1
    );
    phases(measured, out);
}

/// Where our own time went.
fn phases(measured: &Measured, out: &mut String) {
    for contestant in [Contestant::Ours, Contestant::OursCounts] {
        let runs: Vec<_> = measured
            .turns
            .iter()
            .filter(|turn| turn.contestant == contestant)
            .filter_map(|turn| turn.ours.as_ref())
            .collect();
        let Some(first) = runs.first() else { continue };
        let mut names: Vec<&str> = first.phases.iter().map(|phase| phase.phase.as_str()).collect();
        names.dedup();
        let times: Vec<String> = names
            .iter()
            .map(|name| {
                let mut all: Vec<Duration> = runs.iter().map(|run| run.of(name)).collect();
                format!("{name} {}", seconds(middle(&mut all).unwrap_or_default()))
            })
            .collect();
        let chunks = measured.size.1 as f64;
        let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / chunks;
        let middle_run = runs[runs.len() / 2];
        let copying = middle_run.cpu_of("Copying");
        let memory = runs.iter().map(|run| run.memory).max().unwrap_or(0) >> 20;
        let _ = writeln!(
            out,
            "{}: {}. Our processor time: while copying {:.1} + {:.1} µs a chunk (user + system), in all {:.1} + {:.1} µs; peak memory {memory} MiB.\n",
            name(contestant),
            times.join(", "),
            micros(copying.user),
            micros(copying.system),
            micros(middle_run.cpu.user),
            micros(middle_run.cpu.system)
        );
    }
}

fn name(contestant: Contestant) -> &'static str {
    match contestant {
        Contestant::Ours => "es-index-merge, every chunk compared",
        Contestant::OursCounts => "es-index-merge, counts compared",
        Contestant::Reindex => "`_reindex`, one request",
        Contestant::ReindexEach => "`_reindex`, one request per source",
        Contestant::Elasticdump => "elasticdump",
        Contestant::Script => "the script",
        Contestant::Limit => "the limit: prepared bodies",
    }
}

fn compared(contestant: Contestant, took: Duration, ours: Option<Duration>) -> String {
    let Some(ours) = ours else { return "-".to_owned() };
    let (took, ours) = (took.as_secs_f64(), ours.as_secs_f64());
    match contestant {
        Contestant::Ours | Contestant::OursCounts => String::new(),
        Contestant::Limit => format!("{:.2} times its time", ours / took),
        _ => format!("{:.1} times as fast", took / ours),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn median(measured: &Measured, contestant: Contestant, of: impl Fn(&Turn) -> Duration) -> Option<Duration> {
    let mut all: Vec<Duration> =
        measured.turns.iter().filter(|turn| turn.contestant == contestant).map(of).collect();
    middle(&mut all)
}

fn middle(all: &mut [Duration]) -> Option<Duration> {
    all.sort_unstable();
    all.get(all.len() / 2).copied()
}
