//! The faults: which there are, how one is drawn, injected and mended.
//!
//! Three lanes inject at the same time: what happens to servers, to processes, and on the network. Within a lane one
//! fault is mended before the next one comes. Each lane draws from a deck and a generator of its own, so that what it
//! does next does not depend on how fast the others are. The decks last for the whole run: see `deck.rs`.

use std::time::Duration;

use anyhow::Result;
use demo::seed::random::Random;
use serde_json::json;
use testenv::proxy::{Announced, CommitCut, ElasticProxy, Fault, Gateway, PostgresProxy, Rule};

use crate::deck::Deck;
use crate::say;
use crate::stage::{Bell, Member, Stage};

/// A lane: a list of faults that may be drawn.
#[derive(Debug, Clone, Copy)]
pub enum Lane {
    Servers,
    Processes,
    Network,
}

/// The faults of all lanes, in the order in which they come in a run.
#[derive(Debug)]
pub struct Decks {
    servers: Deck<Server>,
    processes: Deck<Process>,
    network: Deck<Network>,
}

/// What happens to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    KillSource,
    KillDestination,
    KillPostgres,
    PauseSource,
    PauseDestination,
    PausePostgres,
    Flood,
    Red,
}

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Kill,
    Stop,
    Pause,
}

/// What happens to what a process says and hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// One of [`elastic_fault`].
    Elastic(usize),
    CutConnections,
    PostgresCut,
    PostgresRefuse,
    PostgresStall,
    PostgresSwallow,
    Commits(CommitCut),
    Delay,
    Bandwidth,
}

/// How long a process is paused: longer than its leases last.
const PAUSE: Duration = Duration::from_secs(24);
/// The kinds of [`elastic_fault`].
const ELASTIC: usize = 13;
/// Commits of each process at which its connection is cut.
const COMMITS: u64 = 2;

impl Server {
    const ALL: [Self; 8] = [
        Self::KillSource,
        Self::KillDestination,
        Self::KillPostgres,
        Self::PauseSource,
        Self::PauseDestination,
        Self::PausePostgres,
        Self::Flood,
        Self::Red,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::KillSource => "kill -9 of the source Elasticsearch",
            Self::KillDestination => "kill -9 of the destination Elasticsearch",
            Self::KillPostgres => "kill -9 of Postgres",
            Self::PauseSource => "source Elasticsearch paused",
            Self::PauseDestination => "destination Elasticsearch paused",
            Self::PausePostgres => "Postgres paused",
            Self::Flood => "disk-flood block on the destination",
            Self::Red => "red index in the source",
        }
    }
}

impl Process {
    const ALL: [Self; 3] = [Self::Kill, Self::Stop, Self::Pause];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of a process",
            Self::Stop => "SIGTERM of a process",
            Self::Pause => "process paused beyond its lease",
        }
    }
}

impl Network {
    const OTHERS: [Self; 9] = [
        Self::CutConnections,
        Self::PostgresCut,
        Self::PostgresRefuse,
        Self::PostgresStall,
        Self::PostgresSwallow,
        Self::Commits(CommitCut::Before),
        Self::Commits(CommitCut::After),
        Self::Delay,
        Self::Bandwidth,
    ];

    fn all() -> Vec<Self> {
        (0..ELASTIC).map(Self::Elastic).chain(Self::OTHERS).collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Elastic(kind) => elastic_fault(kind, Duration::ZERO).name(),
            Self::CutConnections => "all connections to an Elasticsearch cut",
            Self::PostgresCut => "Postgres: all connections cut",
            Self::PostgresRefuse => "Postgres: connections refused",
            Self::PostgresStall => "Postgres: connections stalled",
            Self::PostgresSwallow => "Postgres: connections gone silent",
            Self::Commits(cut) => cut.name(),
            Self::Delay => "every answer late",
            Self::Bandwidth => "narrow network",
        }
    }
}

impl Decks {
    /// The order of a run follows from its seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            servers: Deck::new(Server::ALL.to_vec(), random.bits()),
            processes: Deck::new(Process::ALL.to_vec(), random.bits()),
            network: Deck::new(Network::all(), random.bits()),
        }
    }
}

/// The names of all faults.
pub fn names() -> impl Iterator<Item = &'static str> {
    let servers = Server::ALL.into_iter().map(Server::name);
    let processes = Process::ALL.into_iter().map(Process::name);
    servers.chain(processes).chain(Network::all().into_iter().map(Network::name))
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Servers, Self::Processes, Self::Network];

    /// Injects fault after fault until the bell rings.
    pub fn run(self, stage: &Stage<'_>, decks: &Decks, seed: u64, bell: &Bell) -> Result<()> {
        let mut random = Random::new(seed ^ (self as u64 + 1).wrapping_mul(0x9e37_79b9));
        loop {
            let calm = match self {
                Self::Servers => 2_000 + random.below(6_000),
                Self::Processes => 1_000 + random.below(5_000),
                Self::Network => random.below(1_500),
            };
            let draw = random.bits();
            if bell.wait(Duration::from_millis(calm as u64)) {
                return Ok(());
            }
            let mut random = Random::new(draw);
            match self {
                Self::Servers => play(&decks.servers, |fault| server(fault, stage, &mut random, bell))?,
                Self::Processes => play(&decks.processes, |fault| process(fault, stage, &mut random, bell))?,
                Self::Network => play(&decks.network, |fault| Ok(network(fault, stage, &mut random, bell)))?,
            }
        }
    }
}

/// Draws a fault and injects it, which says whether it hit anything.
fn play<T: Copy + PartialEq>(deck: &Deck<T>, inject: impl FnOnce(T) -> Result<bool>) -> Result<()> {
    let Some(fault) = deck.draw() else { return Ok(()) };
    if !inject(fault)? {
        deck.missed(fault);
    }
    Ok(())
}

fn server(fault: Server, stage: &Stage<'_>, random: &mut Random, bell: &Bell) -> Result<bool> {
    let lasts = Duration::from_millis(500 + random.below(9_000) as u64);
    let (source, destination) = (stage.merge.source, stage.merge.destination);
    let postgres = &stage.parts.postgres;
    let begin = || {
        say(&format!("{}, for {:.1} s", fault.name(), lasts.as_secs_f64()));
        stage.tally.injected(fault.name(), 1);
    };
    match fault {
        Server::KillSource | Server::KillDestination => {
            let server = if fault == Server::KillSource { source } else { destination };
            begin();
            server.kill_9()?;
            bell.wait(lasts);
            server.restart()?;
        }
        Server::KillPostgres => {
            begin();
            postgres.kill_9()?;
            bell.wait(lasts);
            postgres.restart()?;
        }
        Server::PauseSource | Server::PauseDestination => {
            let server = if fault == Server::PauseSource { source } else { destination };
            begin();
            server.pause()?;
            bell.wait(lasts);
            server.resume()?;
        }
        Server::PausePostgres => {
            begin();
            postgres.pause()?;
            bell.wait(lasts);
            postgres.resume()?;
        }
        Server::Flood => {
            let path = format!("/{}/_settings", stage.merge.index);
            let block = |on: Option<bool>| {
                destination.call("PUT", &path, Some(&json!({"index.blocks.read_only_allow_delete": on})))
            };
            // Not before there is a destination.
            if block(Some(true))?.0 != 200 {
                return Ok(false);
            }
            begin();
            bell.wait(lasts);
            block(None)?;
        }
        Server::Red => return red(stage, lasts, bell),
    }
    Ok(true)
}

/// A source index without an active shard, which comes back.
fn red(stage: &Stage<'_>, lasts: Duration, bell: &Bell) -> Result<bool> {
    let source = stage.merge.source;
    let index = &stage.red_index;
    let away = |node: Option<&str>| {
        let settings = json!({"index.routing.allocation.require._name": node});
        source.call("PUT", &format!("/{index}/_settings"), Some(&settings))
    };
    if away(Some("nowhere"))?.0 != 200 {
        return Ok(false);
    }
    let name = Server::Red.name();
    say(&format!("{name} ({index}), for {:.1} s", lasts.as_secs_f64()));
    stage.tally.injected(name, 1);
    for step in ["_close", "_open"] {
        source.call("POST", &format!("/{index}/{step}?wait_for_active_shards=0"), None)?;
    }
    bell.wait(lasts);
    away(None)?;
    Ok(true)
}

fn process(fault: Process, stage: &Stage<'_>, random: &mut Random, bell: &Bell) -> Result<bool> {
    let Some(member) = random.pick(&stage.members) else { return Ok(false) };
    let away = Duration::from_millis(random.below(4_000) as u64);
    let program = member.lock();
    if !program.runs() {
        return Ok(false);
    }
    say(&format!("{}: {}", fault.name(), member.name));
    stage.tally.injected(fault.name(), 1);
    match fault {
        Process::Kill => {
            program.kill_9()?;
            bell.wait(away);
            program.restart()?;
        }
        Process::Stop => {
            program.stop()?;
            bell.wait(away);
            program.restart()?;
        }
        Process::Pause => {
            program.pause()?;
            bell.wait(PAUSE);
            program.resume()?;
        }
    }
    Ok(true)
}

fn network(fault: Network, stage: &Stage<'_>, random: &mut Random, bell: &Bell) -> bool {
    let lasts = Duration::from_millis(1_500 + random.below(6_000) as u64);
    let share = 0.1 + random.below(60) as f64 / 100.0;
    let hit: Vec<&Member> = if random.one_in(2) {
        stage.members.iter().collect()
    } else {
        random.pick(&stage.members).into_iter().collect()
    };
    let to_source = random.one_in(2);
    let proxies: Vec<&ElasticProxy> = hit
        .iter()
        .map(|member| if to_source { &*member.ways.source } else { &member.ways.destination })
        .collect();
    let whom = match hit.as_slice() {
        [one] => one.name.clone(),
        _ => "all processes".to_owned(),
    };
    let name = fault.name();
    say(&format!("{name}: {whom}, for {:.1} s", lasts.as_secs_f64()));
    let counted_before = counted(&proxies, name);
    let elastic = |spoil: &dyn Fn(&ElasticProxy)| proxies.iter().for_each(|proxy| spoil(proxy));
    let postgres =
        |spoil: &dyn Fn(&PostgresProxy)| hit.iter().for_each(|member| spoil(&member.ways.postgres));
    match fault {
        Network::Elastic(kind) => {
            let fault = elastic_fault(kind, lasts);
            elastic(&|proxy| proxy.set(vec![Rule::new(fault.clone()).share(share)]));
        }
        Network::CutConnections => elastic(&ElasticProxy::cut_all),
        Network::PostgresCut => postgres(&PostgresProxy::cut_all),
        Network::PostgresRefuse => postgres(&|proxy| {
            proxy.refuse();
            proxy.cut_all();
        }),
        Network::PostgresStall => postgres(&PostgresProxy::stall),
        Network::PostgresSwallow => postgres(&PostgresProxy::swallow),
        Network::Commits(cut) => postgres(&|proxy| proxy.cut_commits(cut, COMMITS)),
        Network::Delay => {
            let delay = Duration::from_millis(20 + random.below(180) as u64);
            elastic(&|proxy| proxy.set_delay(delay));
        }
        Network::Bandwidth => elastic(&|proxy| proxy.set_bandwidth(Some(200_000))),
    }
    bell.wait(lasts);
    let came = match fault {
        Network::Elastic(_) => counted(&proxies, name) - counted_before,
        Network::Commits(cut) => {
            hit.iter().map(|member| COMMITS - member.ways.postgres.commits_left(cut)).sum::<u64>()
        }
        Network::CutConnections
        | Network::PostgresCut
        | Network::PostgresRefuse
        | Network::PostgresStall
        | Network::PostgresSwallow
        | Network::Delay
        | Network::Bandwidth => hit.len() as u64,
    };
    // What a proxy counts goes into the tally from there, with what comes until the rules are gone.
    if !matches!(fault, Network::Elastic(_)) {
        stage.tally.injected(name, came);
    }
    for member in &hit {
        member.ways.clear();
    }
    came > 0
}

/// How often the proxies have injected that.
fn counted(proxies: &[&ElasticProxy], fault: &str) -> u64 {
    proxies.iter().filter_map(|proxy| proxy.injected().get(fault).copied()).sum()
}

fn elastic_fault(kind: usize, lasts: Duration) -> Fault {
    match kind {
        0 => Fault::Refuse(Gateway::TooManyRequests),
        1 => Fault::Refuse(Gateway::Unavailable),
        2 => Fault::Refuse(Gateway::BadGateway),
        3 => Fault::Refuse(Gateway::GatewayUnavailable),
        4 => Fault::TooLarge(8_000),
        5 => Fault::HalfAnswer(Announced::Whole),
        6 => Fault::HalfAnswer(Announced::Half),
        7 => Fault::DropBefore,
        8 => Fault::DropAfter,
        9 => Fault::HoldRequest(lasts),
        10 => Fault::HoldAnswer(lasts),
        11 => Fault::ZeroShards,
        _ => Fault::RejectItems(0.3),
    }
}
