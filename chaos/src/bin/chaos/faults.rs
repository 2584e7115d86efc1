//! The faults: which there are, how one is drawn, injected and mended.
//!
//! Three lanes inject at the same time: what happens to servers, to processes, and on the network. Within a lane one
//! fault is mended before the next one comes. Each lane draws from a generator of its own, so that what it does next
//! does not depend on how fast the others are.

use std::time::Duration;

use anyhow::Result;
use demo::seed::random::Random;
use serde_json::json;
use testenv::proxy::{Announced, CommitCut, ElasticProxy, Fault, Gateway, Rule};

use crate::say;
use crate::stage::{Bell, Member, Stage};

/// A lane: a list of faults that may be drawn.
#[derive(Debug, Clone, Copy)]
pub enum Lane {
    Servers,
    Processes,
    Network,
}

/// What happens to a server.
#[derive(Debug, Clone, Copy)]
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
#[derive(Debug, Clone, Copy)]
enum Process {
    Kill,
    Stop,
    Pause,
}

/// What happens to what a process says and hears.
#[derive(Debug, Clone, Copy)]
enum Network {
    Elastic(usize),
    CutConnections,
    PostgresCut,
    PostgresRefuse,
    PostgresStall,
    PostgresSwallow,
    CommitBefore,
    CommitAfter,
    Delay,
    Bandwidth,
}

const SERVERS: [Server; 8] = [
    Server::KillSource,
    Server::KillDestination,
    Server::KillPostgres,
    Server::PauseSource,
    Server::PauseDestination,
    Server::PausePostgres,
    Server::Flood,
    Server::Red,
];
const PROCESSES: [Process; 3] = [Process::Kill, Process::Stop, Process::Pause];

/// How long a process is paused: longer than its leases last.
const PAUSE: Duration = Duration::from_secs(24);
/// The kinds of [`elastic_fault`].
const ELASTIC: usize = 13;

impl Lane {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Servers, Self::Processes, Self::Network];

    /// Injects fault after fault until the bell rings.
    pub fn run(self, stage: &Stage<'_>, seed: u64, bell: &Bell) -> Result<()> {
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
                Self::Servers => server(stage, &mut random, bell)?,
                Self::Processes => process(stage, &mut random, bell)?,
                Self::Network => network(stage, &mut random, bell),
            }
        }
    }
}

fn server(stage: &Stage<'_>, random: &mut Random, bell: &Bell) -> Result<()> {
    let fault = SERVERS[random.below(SERVERS.len())];
    let lasts = Duration::from_millis(500 + random.below(9_000) as u64);
    let (source, destination) = (stage.merge.source, stage.merge.destination);
    let postgres = &stage.parts.postgres;
    let begin = |name: &'static str| {
        say(&format!("{name}, for {:.1} s", lasts.as_secs_f64()));
        stage.tally.injected(name, 1);
    };
    match fault {
        Server::KillSource | Server::KillDestination => {
            let (server, name) = match fault {
                Server::KillSource => (source, "kill -9 of the source Elasticsearch"),
                _ => (destination, "kill -9 of the destination Elasticsearch"),
            };
            begin(name);
            server.kill_9()?;
            bell.wait(lasts);
            server.restart()
        }
        Server::KillPostgres => {
            begin("kill -9 of Postgres");
            postgres.kill_9()?;
            bell.wait(lasts);
            postgres.restart()
        }
        Server::PauseSource | Server::PauseDestination => {
            let (server, name) = match fault {
                Server::PauseSource => (source, "source Elasticsearch paused"),
                _ => (destination, "destination Elasticsearch paused"),
            };
            begin(name);
            server.pause()?;
            bell.wait(lasts);
            server.resume()
        }
        Server::PausePostgres => {
            begin("Postgres paused");
            postgres.pause()?;
            bell.wait(lasts);
            postgres.resume()
        }
        Server::Flood => {
            let path = format!("/{}/_settings", stage.merge.index);
            let block = |on: Option<bool>| {
                destination.call("PUT", &path, Some(&json!({"index.blocks.read_only_allow_delete": on})))
            };
            // Not before there is a destination.
            if block(Some(true))?.0 == 200 {
                begin("disk-flood block on the destination");
                bell.wait(lasts);
                block(None)?;
            }
            Ok(())
        }
        Server::Red => red(stage, lasts, bell),
    }
}

/// A source index without an active shard, which comes back.
fn red(stage: &Stage<'_>, lasts: Duration, bell: &Bell) -> Result<()> {
    let source = stage.merge.source;
    let index = &stage.red_index;
    let away = |node: Option<&str>| {
        let settings = json!({"index.routing.allocation.require._name": node});
        source.call("PUT", &format!("/{index}/_settings"), Some(&settings))
    };
    if away(Some("nowhere"))?.0 != 200 {
        return Ok(());
    }
    let name = "red index in the source";
    say(&format!("{name} ({index}), for {:.1} s", lasts.as_secs_f64()));
    stage.tally.injected(name, 1);
    for step in ["_close", "_open"] {
        source.call("POST", &format!("/{index}/{step}?wait_for_active_shards=0"), None)?;
    }
    bell.wait(lasts);
    away(None)?;
    Ok(())
}

fn process(stage: &Stage<'_>, random: &mut Random, bell: &Bell) -> Result<()> {
    let fault = PROCESSES[random.below(PROCESSES.len())];
    let Some(member) = random.pick(&stage.members) else { return Ok(()) };
    let away = Duration::from_millis(random.below(4_000) as u64);
    let program = member.lock();
    if !program.runs() {
        return Ok(());
    }
    let begin = |name: &'static str| {
        say(&format!("{name}: {}", member.name));
        stage.tally.injected(name, 1);
    };
    match fault {
        Process::Kill => {
            begin("kill -9 of a process");
            program.kill_9()?;
            bell.wait(away);
            program.restart()
        }
        Process::Stop => {
            begin("SIGTERM of a process");
            program.stop()?;
            bell.wait(away);
            program.restart()
        }
        Process::Pause => {
            begin("process paused beyond its lease");
            program.pause()?;
            bell.wait(PAUSE);
            program.resume()
        }
    }
}

fn network(stage: &Stage<'_>, random: &mut Random, bell: &Bell) {
    let fault = match random.below(ELASTIC + 9) {
        kind if kind < ELASTIC => Network::Elastic(kind),
        kind => match kind - ELASTIC {
            0 => Network::CutConnections,
            1 => Network::PostgresCut,
            2 => Network::PostgresRefuse,
            3 => Network::PostgresStall,
            4 => Network::PostgresSwallow,
            5 => Network::CommitBefore,
            6 => Network::CommitAfter,
            7 => Network::Delay,
            _ => Network::Bandwidth,
        },
    };
    let lasts = Duration::from_millis(1_500 + random.below(6_000) as u64);
    let share = 0.1 + random.below(60) as f64 / 100.0;
    let hit: Vec<&Member> = if random.one_in(2) {
        stage.members.iter().collect()
    } else {
        random.pick(&stage.members).into_iter().collect()
    };
    let to_source = random.one_in(2);
    let whom = match hit.as_slice() {
        [one] => one.name.clone(),
        _ => "all processes".to_owned(),
    };
    let begin = |name: &'static str| say(&format!("{name}: {whom}, for {:.1} s", lasts.as_secs_f64()));
    let elastic = |member: &Member, spoil: &dyn Fn(&ElasticProxy)| {
        spoil(if to_source { &member.ways.source } else { &member.ways.destination });
    };
    let counted = |name: &'static str| {
        begin(name);
        stage.tally.injected(name, hit.len() as u64);
    };
    match fault {
        Network::Elastic(kind) => {
            let fault = elastic_fault(kind, lasts);
            begin(fault.name());
            for member in &hit {
                elastic(member, &|proxy| proxy.set(vec![Rule::new(fault.clone()).share(share)]));
            }
        }
        Network::CutConnections => {
            counted("all connections to an Elasticsearch cut");
            for member in &hit {
                elastic(member, &ElasticProxy::cut_all);
            }
        }
        Network::PostgresCut => {
            counted("Postgres: all connections cut");
            for member in &hit {
                member.ways.postgres.cut_all();
            }
        }
        Network::PostgresRefuse => {
            counted("Postgres: connections refused");
            for member in &hit {
                member.ways.postgres.refuse();
                member.ways.postgres.cut_all();
            }
        }
        Network::PostgresStall => {
            counted("Postgres: connections stalled");
            for member in &hit {
                member.ways.postgres.stall();
            }
        }
        Network::PostgresSwallow => {
            counted("Postgres: connections gone silent");
            for member in &hit {
                member.ways.postgres.swallow();
            }
        }
        Network::CommitBefore => cut_commits(&hit, CommitCut::Before, stage, &begin, lasts, bell),
        Network::CommitAfter => cut_commits(&hit, CommitCut::After, stage, &begin, lasts, bell),
        Network::Delay => {
            counted("every answer late");
            let delay = Duration::from_millis(20 + random.below(180) as u64);
            for member in &hit {
                elastic(member, &|proxy| proxy.set_delay(delay));
            }
        }
        Network::Bandwidth => {
            counted("narrow network");
            for member in &hit {
                elastic(member, &|proxy| proxy.set_bandwidth(Some(200_000)));
            }
        }
    }
    bell.wait(lasts);
    for member in &hit {
        member.ways.clear();
    }
}

/// Cuts at the next two commits of each, and counts those that came.
fn cut_commits(
    hit: &[&Member],
    cut: CommitCut,
    stage: &Stage<'_>,
    begin: &dyn Fn(&'static str),
    lasts: Duration,
    bell: &Bell,
) {
    begin(cut.name());
    for member in hit {
        member.ways.postgres.cut_commits(cut, 2);
    }
    bell.wait(lasts);
    let came = hit.iter().map(|member| 2 - member.ways.postgres.commits_left(cut)).sum();
    stage.tally.injected(cut.name(), came);
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
