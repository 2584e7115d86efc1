//! What the faults of one round act upon: the servers, the processes with their proxies, and the bell that ends it.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use chaos::merge::{Merge, Tuning, Ways};
use chaos::parts::Parts;
use chaos::program::Program;
use testenv::proxy::ElasticProxy;

use crate::tally::Tally;

/// Something that rings once, and can be waited for.
#[derive(Debug, Default)]
pub struct Bell {
    rang: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    /// It rings; who waits goes on.
    pub fn ring(&self) {
        *self.rang.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Whether it rang.
    pub fn rang(&self) -> bool {
        *self.rang.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for it at most so long; whether it rang.
    pub fn wait(&self, limit: Duration) -> bool {
        let rang = self.rang.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(rang, limit, |rang| !*rang);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// One process of the merge.
pub struct Member {
    /// Its name in what is said.
    pub name: String,
    /// Its own ways to the servers.
    pub ways: Ways,
    /// Held by whoever kills and starts it.
    pub program: Mutex<Program>,
}

/// Everything of one round.
pub struct Stage<'a> {
    pub parts: &'a Arc<Parts>,
    pub merge: &'a Merge<'a>,
    pub members: Vec<Member>,
    pub tally: &'a Tally,
    /// The source index that loses its shards now and then.
    pub red_index: String,
}

impl<'a> Stage<'a> {
    /// Starts the processes.
    pub fn new(
        parts: &'a Arc<Parts>,
        merge: &'a Merge<'a>,
        tally: &'a Tally,
        binary: &Path,
        members: usize,
        seed: u64,
        red_index: String,
    ) -> Result<Self> {
        let source = Arc::new(ElasticProxy::start(&merge.source.url, seed)?);
        let members = (0..members)
            .map(|at| {
                let name = format!("process {}", at + 1);
                let ways = merge.ways_beside(&source, seed.wrapping_add(at as u64))?;
                let manifest = merge.manifest(&ways, &held());
                let program = Mutex::new(Program::start(binary, "es-index-merge", &manifest)?);
                Ok(Member { name, ways, program })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { parts, merge, members, tally, red_index })
    }

    /// Lets the cutover come: every process is killed and started with a manifest that does not hold it.
    pub fn release(&self) -> Result<()> {
        for member in &self.members {
            let program = member.lock();
            program.set_manifest(&self.merge.manifest(&member.ways, &released()))?;
            program.kill_9()?;
            program.restart()?;
        }
        Ok(())
    }

    /// Starts what has ended by itself, and tells when that was not after a positive verdict.
    pub fn look_after(&self) -> Result<()> {
        for member in &self.members {
            // Whoever holds it is about to kill or start it.
            let Ok(program) = member.program.try_lock() else { continue };
            if let Some(status) = program.ended(Duration::ZERO)?
                && !status.success()
            {
                let output = program.output();
                let last: Vec<&str> = output.lines().rev().take(3).collect();
                self.tally.failed(&format!(
                    "{} gave up ({status}): {}",
                    member.name,
                    last.into_iter().rev().collect::<Vec<_>>().join(" / ")
                ));
                program.restart()?;
            }
        }
        Ok(())
    }

    /// Waits until every process has ended by itself.
    pub fn all_ended(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        for member in &self.members {
            let left = deadline.saturating_duration_since(Instant::now());
            let program = member.lock();
            if program.runs() && program.ended(left)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Nothing is spoiled any more; what was, is counted.
    pub fn heal(&self) {
        for member in &self.members {
            for proxy in [&*member.ways.source, &member.ways.destination] {
                proxy
                    .take_injected()
                    .into_iter()
                    .for_each(|(fault, times)| self.tally.injected(fault, times));
            }
            member.ways.clear();
        }
    }

    /// The last lines of each process.
    pub fn last_words(&self) -> String {
        let words = self.members.iter().map(|member| {
            let output = member.lock().output();
            let last: Vec<&str> = output.lines().rev().take(4).collect();
            format!("\n  {}:\n    {}", member.name, last.into_iter().rev().collect::<Vec<_>>().join("\n    "))
        });
        words.collect()
    }
}

impl Member {
    /// Takes the process, to kill and start it.
    pub fn lock(&self) -> std::sync::MutexGuard<'_, Program> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How every round ends: faster than the live writer, or the cutover would never come.
fn released() -> Tuning {
    Tuning { documents_per_second: Some(1_000), ..Tuning::default() }
}

/// How every round begins: slow enough to be met by faults in each phase, and staying `Synced`.
fn held() -> Tuning {
    Tuning { hold: true, documents_per_second: Some(120), ..Tuning::default() }
}
