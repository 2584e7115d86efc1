//! The cases, and the contestants taking turns in them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use testenv::elasticsearch::Flavor;
use testenv::postgres::Postgres;

use crate::corpus::Corpus;
use crate::ours::{self, Ran};
use crate::peers::{Elasticdump, Script, limit, reindex};
use crate::process::Cpu;
use crate::report::report;
use crate::server::Server;
use crate::{Case, Cli, Contestant, destination, source};

/// Dimensions of an embedding.
const DIMENSIONS: usize = 1024;

/// One turn of one contestant.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Who.
    pub contestant: Contestant,
    /// Until everything was copied.
    pub load: Duration,
    /// Until the final state.
    pub total: Duration,
    /// Processor time of the servers.
    pub servers: Cpu,
    /// What our program says of itself.
    pub ours: Option<Ran>,
}

/// Everything that was measured in one case with one pair of versions.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The case.
    pub case: Case,
    /// Version of the source and of the destination.
    pub pair: (Flavor, Flavor),
    /// Collections and chunks.
    pub size: (usize, u64),
    /// All turns, in order.
    pub turns: Vec<Turn>,
    /// Segments of the shards, and how many vectors a query compared, after the last turn.
    pub proof: destination::Proof,
}

/// The digit of a flavour.
pub fn major(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::V8 => "8",
        Flavor::V9 => "9",
    }
}

/// Runs what was asked for.
pub async fn run(cli: &Cli, postgres: &Postgres) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for pair in [(Flavor::V9, Flavor::V9), (Flavor::V8, Flavor::V9), (Flavor::V8, Flavor::V8)] {
        let name = format!("{}-{}", major(pair.0), major(pair.1));
        if !wanted(&cli.pair, &name, || !cli.quick || name != "8-8") {
            continue;
        }
        let from = Server::start(pair.0, &cli.heap).await?;
        let to = if pair.0 == pair.1 { None } else { Some(Server::start(pair.1, &cli.heap).await?) };
        for case in [Case::Large, Case::Mixed, Case::Tiny] {
            if wanted(&cli.case, &case, || !cli.quick || name == "9-9" || case == Case::Large) {
                let to = to.as_ref().unwrap_or(&from);
                measured.push(measure(cli, case, pair, (&from, to), postgres).await?);
                crate::save(cli, &report(cli, &measured))?;
            }
        }
    }
    Ok(measured)
}

fn wanted<T: PartialEq>(asked: &[T], this: &T, or_else: impl Fn() -> bool) -> bool {
    if asked.is_empty() { or_else() } else { asked.contains(this) }
}

async fn measure(
    cli: &Cli,
    case: Case,
    pair: (Flavor, Flavor),
    servers: (&Server, &Server),
    postgres: &Postgres,
) -> Result<Measured> {
    let corpus = Arc::new(corpus(cli, case, pair));
    eprintln!(
        "bench: {case:?}, {} -> {}: {} chunks in {} collections",
        pair.0.version(),
        pair.1.version(),
        corpus.chunks(),
        corpus.collections.len()
    );
    let start = Instant::now();
    destination::remove(servers.1).await?;
    source::fill(servers.0, &corpus).await?;
    eprintln!("bench: the sources are filled ({:.0} s)", start.elapsed().as_secs_f64());
    let contestants = contestants(cli, case, pair);
    let mut setting =
        Setting { servers, corpus, postgres, bodies: Vec::new(), elasticdump: None, script: None };
    setting.prepare(&contestants).await?;
    // The first work of a server that was just started is slow, whoever asks for it: this turn does not count.
    if let Some(&first) = contestants.first() {
        setting.turn(first).await?;
    }
    let mut turns = Vec::new();
    let mut proof = None;
    let rounds = cli.rounds.unwrap_or(if cli.quick { 1 } else { 3 });
    for round in 0..rounds {
        // Each in its turn after another one: what a server still does for the last one is in nobody's time alone.
        for number in 0..contestants.len() {
            let contestant = contestants[(number + round) % contestants.len()];
            let (turn, proven) = setting.turn(contestant).await?;
            eprintln!(
                "bench: round {}, {contestant:?}: {:.1} s, of it {:.1} s to load; servers used {:.1} s",
                round + 1,
                turn.total.as_secs_f64(),
                turn.load.as_secs_f64(),
                turn.servers.total().as_secs_f64(),
            );
            if let Some(ran) = &turn.ours {
                for phase in &ran.phases {
                    eprintln!(
                        "bench:    {:<12} {:7.2} s, cpu {:.2} + {:.2} s",
                        phase.phase,
                        phase.took.as_secs_f64(),
                        phase.cpu.user.as_secs_f64(),
                        phase.cpu.system.as_secs_f64()
                    );
                }
                eprintln!("bench:    peak memory {} MiB", ran.memory >> 20);
            }
            turns.push(turn);
            proof = Some(proven);
        }
    }
    let size = (setting.corpus.collections.len(), setting.corpus.chunks());
    Ok(Measured { case, pair, size, turns, proof: proof.context("at least one turn")? })
}

/// The data of a case: whole on the newest version, less of it for the other pairs, which take as long as that together.
fn corpus(cli: &Cli, case: Case, pair: (Flavor, Flavor)) -> Corpus {
    let (large, mixed, tiny) = match pair {
        _ if cli.quick => (20_000, (10, 1_000), 400),
        (Flavor::V9, Flavor::V9) => (100_000, (20, 2_000), 2_000),
        _ => (30_000, (20, 1_000), 1_000),
    };
    match case {
        Case::Large => Corpus::new(1, cli.chunks.unwrap_or(large), DIMENSIONS),
        Case::Mixed => Corpus::new(mixed.0, mixed.1, DIMENSIONS),
        Case::Tiny => Corpus::new(cli.tiny.unwrap_or(tiny), 10, DIMENSIONS),
    }
}

fn contestants(cli: &Cli, case: Case, pair: (Flavor, Flavor)) -> Vec<Contestant> {
    use Contestant::{Elasticdump, Limit, Ours, OursCounts, Reindex, ReindexEach, Script};
    let all = [Ours, Reindex, OursCounts, Limit, ReindexEach, Script, Elasticdump];
    let usual = |contestant| match contestant {
        ReindexEach => case == Case::Tiny,
        // Half a minute each: once is enough in a quick run.
        Script | Elasticdump => !cli.quick || pair == (Flavor::V9, Flavor::V9),
        _ => true,
    };
    all.into_iter().filter(|contestant| wanted(&cli.run, contestant, || usual(*contestant))).collect()
}

/// What the turns of a case have in common.
struct Setting<'a> {
    servers: (&'a Server, &'a Server),
    corpus: Arc<Corpus>,
    postgres: &'a Postgres,
    bodies: Vec<Bytes>,
    elasticdump: Option<Elasticdump>,
    script: Option<Script>,
}

impl Setting<'_> {
    async fn prepare(&mut self, contestants: &[Contestant]) -> Result<()> {
        if contestants.contains(&Contestant::Limit) {
            self.bodies = limit::prepare(self.servers.1, &self.corpus).await?;
        }
        if contestants.contains(&Contestant::Elasticdump) {
            self.elasticdump = Some(Elasticdump::install().await?);
        }
        if contestants.contains(&Contestant::Script) {
            self.script = Some(Script::install().await?);
        }
        Ok(())
    }

    fn servers_cpu(&self) -> Result<Cpu> {
        let (from, to) = (Cpu::of(self.servers.0.pid)?, Cpu::of(self.servers.1.pid)?);
        if self.servers.0.pid == self.servers.1.pid {
            return Ok(from);
        }
        Ok(Cpu { user: from.user + to.user, system: from.system + to.system })
    }

    async fn turn(&self, contestant: Contestant) -> Result<(Turn, destination::Proof)> {
        let (from, to) = self.servers;
        destination::remove(to).await?;
        // The database of a run is not made in its time.
        let asked = match contestant {
            Contestant::Ours | Contestant::OursCounts => Some(self.asked(contestant)?),
            _ => None,
        };
        let before = self.servers_cpu()?;
        let start = Instant::now();
        let corpus = &*self.corpus;
        let mut load = None;
        let mut ran = None;
        match contestant {
            Contestant::Ours | Contestant::OursCounts => {
                let (_database, manifest) = asked.as_ref().context("a manifest")?;
                let manifest = manifest.clone();
                ran = Some(tokio::task::spawn_blocking(move || ours::run(&manifest)).await??);
            }
            Contestant::Reindex => reindex::run(from, to, corpus, reindex::Requests::One).await?,
            Contestant::ReindexEach => reindex::run(from, to, corpus, reindex::Requests::EachSource).await?,
            Contestant::Elasticdump => {
                self.elasticdump.as_ref().context("installed")?.run(from, to, corpus).await?;
            }
            Contestant::Script => {
                self.script.as_ref().context("installed")?.run(from, to, corpus, 10_000).await?;
            }
            Contestant::Limit => {
                limit::load(to, corpus, &self.bodies).await?;
                load = Some(start.elapsed());
                destination::finish_flat(to, corpus.dimensions, &self.bodies).await?;
            }
        }
        if ran.is_none() && load.is_none() {
            load = Some(start.elapsed());
            destination::finish(to).await?;
        }
        let total = start.elapsed();
        let servers = self.servers_cpu()?.since(before);
        let load = load.or_else(|| ran.as_ref().map(loading)).unwrap_or(total);
        let proof = destination::prove(to, corpus).await.with_context(|| format!("{contestant:?}"))?;
        ensure!(proof.segments.iter().all(|count| *count == 1), "{contestant:?} leaves segments: {proof:?}");
        if ran.is_some() {
            source::unblock(from).await?;
        }
        Ok((Turn { contestant, load, total, servers, ours: ran }, proof))
    }

    fn asked(&self, contestant: Contestant) -> Result<(testenv::postgres::Database, String)> {
        let database = ours::database(self.postgres, &self.corpus)?;
        let ask = ours::Ask {
            verification: if contestant == Contestant::Ours { "Full" } else { "Counts" },
            more: String::new(),
        };
        let (from, to) = self.servers;
        let urls = (from.access.url.clone(), to.access.url.clone());
        let manifest =
            ours::manifest(&urls.0, &urls.1, self.servers, &database, self.corpus.dimensions, &ask);
        Ok((database, manifest))
    }
}

/// Until the workers had nothing left to copy.
fn loading(ran: &Ran) -> Duration {
    ["Starting", "Pending", "Preparing", "Copying"].iter().map(|phase| ran.of(phase)).sum()
}
