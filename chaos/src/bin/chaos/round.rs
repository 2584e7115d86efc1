//! One round: a merge from its beginning to the checker's verdict, under faults until shortly before its end.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use chaos::merge::Merge;
use chaos::parts::Parts;
use demo::seed::odd;
use tokio::runtime::Runtime;

use crate::faults::{Decks, Lane};
use crate::say;
use crate::stage::{Bell, Stage};
use crate::tally::Tally;

/// Faults while the cutover is held: the merge gets to `Synced` in that time.
const HELD: Duration = Duration::from_secs(65);
/// Faults after that.
const CUTTING: Duration = Duration::from_secs(20);
/// A merge that nothing disturbs any more ends within this time. The longest pauses between attempts are a minute.
const CALM: Duration = Duration::from_mins(4);
/// Processes of a merge: any of them may be the one that steps, all of them work.
const MEMBERS: usize = 4;
/// Operations of the live writer in a second.
const WRITES: u32 = 12;
/// How often it is seen to that every process runs.
const LOOK: Duration = Duration::from_millis(300);

/// What a round is made of.
pub struct Round<'a> {
    pub number: i64,
    pub seed: u64,
    pub binary: &'a Path,
    pub parts: &'a Arc<Parts>,
    pub decks: &'a Decks,
    pub ended: &'a Arc<Bell>,
}

impl Round<'_> {
    /// Runs it to the checker's verdict, which goes into the tally.
    pub fn run(&self, runtime: &Runtime, tally: &Tally) -> Result<()> {
        let failures = tally.failures();
        let result = self.merge(runtime, tally);
        tally.close(result.is_ok() && tally.failures() == failures);
        result
    }

    fn merge(&self, runtime: &Runtime, tally: &Tally) -> Result<()> {
        // Every second round within one cluster, as most applications have it.
        let nine = &self.parts.nine;
        let source = if self.number % 2 == 0 { &self.parts.eight } else { nine };
        say(&format!(
            "round {}: {} to {}, seed {}",
            self.number,
            source.flavor().version(),
            nine.flavor().version(),
            self.seed
        ));
        let merge = runtime.block_on(Merge::new(source, nine, &self.parts.postgres, self.number))?;
        let options = odd::Options {
            seed: self.seed,
            collections: 24,
            documents: 16,
            chunks: 24,
            ..odd::Options::default()
        };
        let model = runtime.block_on(merge.fill(&options))?;
        say(&format!("{} chunks in {} collections", model.good_chunks(), model.collections.len()));
        let red_index = runtime.block_on(merge.large_source())?;
        let writer = {
            let _inside = runtime.enter();
            merge.write(self.seed, WRITES)
        };
        let stage = Stage::new(self.parts, &merge, tally, self.binary, MEMBERS, self.seed, red_index)?;
        self.stir(&stage, HELD, 0)?;
        let phase = runtime.block_on(merge.phase())?.unwrap_or_default();
        say(&format!("the phase is {phase}; the cutover is not held any more"));
        stage.release()?;
        self.stir(&stage, CUTTING, 1)?;
        self.finish(runtime, &stage)?;
        let counts = runtime.block_on(writer.stop())?;
        tally.wrote(&counts);
        say(&format!(
            "live writer: {} inserted, {} updated, {} partly, {} documents deleted, {}+{} collections created and deleted, {} refused, {} failed",
            counts.inserted,
            counts.updated,
            counts.partly_updated,
            counts.documents_deleted,
            counts.collections_created,
            counts.collections_deleted,
            counts.refused,
            counts.failed
        ));
        let verdict = runtime.block_on(merge.check(&model, &counts))?;
        tally.checked(&verdict);
        if !verdict.is_good() {
            bail!("the checker: {verdict}");
        }
        say(&format!("round {}: {} documents, all equal", self.number, verdict.destination_documents));
        drop(stage);
        runtime.block_on(merge.clean())
    }

    /// All lanes at once for that long; afterwards everything runs again and nothing is spoiled.
    fn stir(&self, stage: &Stage<'_>, lasts: Duration, part: u64) -> Result<()> {
        let over = Bell::default();
        let result = std::thread::scope(|scope| {
            let seed = self.seed.rotate_left(17).wrapping_add(part);
            let lanes: Vec<_> = Lane::ALL
                .map(|lane| {
                    scope.spawn({
                        let over = &over;
                        move || lane.run(stage, self.decks, seed, over)
                    })
                })
                .into();
            let deadline = Instant::now() + lasts;
            let mut looked = Ok(());
            while looked.is_ok() && Instant::now() < deadline && !self.ended.wait(LOOK) {
                looked = stage.look_after();
            }
            over.ring();
            let joined = lanes.into_iter().map(|lane| lane.join().ok().context("a lane panicked")?);
            joined.fold(looked, Result::and)
        });
        stage.heal();
        result
    }

    /// Without any further fault the merge must end.
    fn finish(&self, runtime: &Runtime, stage: &Stage<'_>) -> Result<()> {
        say("no more faults");
        let deadline = Instant::now() + CALM;
        loop {
            if self.ended.wait(LOOK) {
                bail!("interrupted");
            }
            stage.look_after()?;
            match runtime.block_on(stage.merge.phase())?.as_deref() {
                Some("Completed") => break,
                Some("Failed") => bail!("the verdict is negative: {}", stage.last_words()),
                phase if Instant::now() > deadline => {
                    bail!(
                        "it did not end within {} s, the phase is {phase:?}: {}",
                        CALM.as_secs(),
                        stage.last_words()
                    )
                }
                _ => {}
            }
        }
        say("Completed");
        // Also those that were paused: what they still had in hand must not change anything.
        if !stage.all_ended(Duration::from_mins(2))? {
            bail!("a process goes on after the merge is complete: {}", stage.last_words());
        }
        Ok(())
    }
}
