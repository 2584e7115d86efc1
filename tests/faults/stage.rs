//! The servers of all tests of this program, and one merge of a test.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chaos::merge::{Merge, Tuning, Ways};
use chaos::parts::Parts;
use chaos::program::Program;
use demo::seed::bulk::Bulk;
use demo::seed::odd;
use demo::seed::random::{Random, any_seed};
use demo::seed::writer::Writer;
use serde_json::Value;
use testenv::elasticsearch::Elasticsearch;
use tokio::sync::{Mutex, MutexGuard};

/// A merge that nothing disturbs any more ends within this time.
pub const PATIENCE: Duration = Duration::from_mins(4);
/// A fault is felt within this time.
pub const SOON: Duration = Duration::from_mins(1);

/// The servers, and leave to disturb them: one test at a time.
pub struct Stage {
    pub parts: &'static Parts,
    _alone: MutexGuard<'static, ()>,
}

/// What the things of a scene that are random follow from.
pub struct Seeds {
    pub data: u64,
    pub writer: u64,
    pub proxies: u64,
}

/// A merge with data, an application that writes, and ways to the servers.
pub struct Scene<'a> {
    pub merge: Merge<'a>,
    pub ways: Ways,
    filled: odd::Model,
    writer: Option<Writer>,
}

impl Seeds {
    /// Those of this run. They do not depend on which tests are run, nor on their order.
    pub fn of_this_run() -> Seeds {
        static SEED: OnceLock<u64> = OnceLock::new();
        let seed = *SEED.get_or_init(|| match std::env::var("FAULTS_SEED") {
            Ok(given) => given.parse().expect("FAULTS_SEED is a number"),
            Err(_) => any_seed(),
        });
        eprintln!("FAULTS_SEED={seed} gives the same data, writer and proxies again");
        let mut random = Random::new(seed);
        Seeds { data: random.bits(), writer: random.bits(), proxies: random.bits() }
    }
}

impl Stage {
    pub async fn take() -> Stage {
        static ALONE: Mutex<()> = Mutex::const_new(());
        static PARTS: OnceLock<Parts> = OnceLock::new();
        let alone = ALONE.lock().await;
        let parts =
            tokio::task::block_in_place(|| PARTS.get_or_init(|| Parts::start().expect("the servers start")));
        Stage { parts, _alone: alone }
    }

    /// From 8.19 to 9.4, with hostile data and a live writer.
    pub async fn scene(&self) -> Scene<'_> {
        self.scene_to(&self.parts.nine).await
    }

    /// The same, with a destination of the test's own.
    pub async fn scene_to<'a>(&'a self, destination: &'a Elasticsearch) -> Scene<'a> {
        self.scene_between(&self.parts.eight, destination).await
    }

    /// The same, with a source and a destination that may be the test's own.
    pub async fn scene_between<'a>(
        &'a self,
        source: &'a Elasticsearch,
        destination: &'a Elasticsearch,
    ) -> Scene<'a> {
        static NUMBER: AtomicI64 = AtomicI64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let merge =
            Merge::new(source, destination, &self.parts.postgres, number).await.expect("the servers answer");
        let seeds = Seeds::of_this_run();
        let options = odd::Options { seed: seeds.data, documents: 10, chunks: 16, ..odd::Options::default() };
        let filled = merge.fill(&options).await.expect("the source is filled");
        // Slower than the slowest merge here copies: it must be able to catch up.
        let writer = Some(merge.write(seeds.writer, 3));
        let ways = merge.ways(seeds.proxies).expect("the proxies start");
        Scene { merge, ways, filled, writer }
    }
}

impl Scene<'_> {
    /// Starts the program.
    pub fn run(&self, tuning: &Tuning) -> Program {
        let binary = Path::new(env!("CARGO_BIN_EXE_es-index-merge"));
        Program::start(binary, "es-index-merge", &self.merge.manifest(&self.ways, tuning))
            .expect("the program starts")
    }

    /// Starts a program that was held again, without the hold.
    pub fn let_go(&self, program: &Program) {
        program.stop().expect("it stops");
        self.start_again(program, &Tuning::default());
    }

    /// Starts a program that was stopped again.
    pub fn start_again(&self, program: &Program, tuning: &Tuning) {
        program.set_manifest(&self.merge.manifest(&self.ways, tuning)).expect("a file");
        program.restart().expect("it starts");
    }

    /// Waits for a phase.
    pub async fn reaches(&self, phases: &[&str]) -> String {
        self.merge.reaches(phases, PATIENCE).await.expect("the merge goes on")
    }

    /// Waits until a pass that began after this moment is copied, compared, and its deletions are followed.
    pub async fn makes_a_whole_pass(&self) {
        let taken =
            "SELECT floor(extract(epoch FROM (memo->>'pass_taken_at')::timestamptz) * 1000000)::bigint
                     FROM es_index_merge.merge";
        let deadline = Instant::now() + PATIENCE;
        // The pass under way may have read its ends already: the one after it has not, and is done when the next begins.
        for _ in 0..2 {
            let before = self.merge.number(taken).await.expect("Postgres answers");
            while self.merge.number(taken).await.expect("Postgres answers") == before {
                assert!(Instant::now() < deadline, "the sources are not followed");
                // Another process follows: there is no event to wait for.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Adds a chunk with this content to a source.
    pub async fn poison(&self, content: &str) {
        let (index, chunk) = self.another_chunk(content).await;
        let path = format!("/{index}/_doc?refresh=true");
        self.merge.source_client.post(&path, &chunk).await.expect("it is taken");
    }

    /// Adds that many chunks to a source.
    pub async fn burst(&self, chunks: usize) {
        let (index, mut chunk) = self.another_chunk("one of many at once").await;
        let mut bulk = Bulk::default();
        for _ in 0..chunks {
            chunk["id"] = next_chunk().into();
            bulk.index(&index, None, &chunk.to_string());
        }
        bulk.send(&self.merge.source_client).await.expect("they are taken");
    }

    /// A source and a chunk for it, with this content: otherwise it is like one of its neighbours.
    async fn another_chunk(&self, content: &str) -> (String, Value) {
        let index = self.merge.large_source().await.expect("a source");
        let path = format!("/{index}/_search?size=1");
        let found = self.merge.source_client.get(&path).await.expect("a neighbour");
        let mut chunk = found["hits"]["hits"][0]["_source"].clone();
        chunk["id"] = next_chunk().into();
        chunk["content"] = content.into();
        (index, chunk)
    }

    /// Chunks in quarantine as the server failed at them.
    pub async fn failed_chunks(&self) -> i64 {
        let query = "SELECT count(*) FROM es_index_merge.quarantine WHERE class = 'Refused' AND reason LIKE 'HTTP 500, null_pointer_exception: %'";
        self.merge.number(query).await.expect("Postgres answers")
    }

    /// The application stops writing.
    pub async fn falls_silent(&mut self) {
        self.writer.take().expect("a writer").stop().await.expect("the writer did its work");
    }

    /// The program must end with a negative verdict; returns what it said.
    pub async fn ends_badly(self, program: &Program) -> String {
        let status = tokio::task::block_in_place(|| program.wait(PATIENCE)).expect("it ends");
        let output = program.output();
        assert!(!status.success(), "{output}");
        self.merge.clean().await.expect("the servers answer");
        output
    }

    /// The program must end with a positive verdict, and the checker must agree.
    pub async fn ends_well(mut self, program: &Program) {
        let status = tokio::task::block_in_place(|| program.wait(PATIENCE)).expect("it ends");
        eprintln!("{}", program.output());
        assert!(status.success(), "{}", program.output());
        let written = self.writer.take().expect("a writer").stop().await.expect("the writer did its work");
        let checked = self.merge.check(&self.filled, &written).await;
        let verdict = checked.expect("no collection is forgotten, and both sides can be read");
        assert!(verdict.is_good(), "{written:?}\n{verdict}");
        assert!(verdict.destination_documents > 0);
        self.merge.clean().await.expect("the servers answer");
    }
}

/// The `id` of a chunk that no other one of its document has.
fn next_chunk() -> i64 {
    static NUMBER: AtomicI64 = AtomicI64::new(1_000_000);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// Slow enough to be met in the phase that is meant.
pub fn slow() -> Tuning {
    Tuning { documents_per_second: Some(150), ..Tuning::default() }
}
