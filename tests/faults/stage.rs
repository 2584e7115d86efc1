//! The servers of all tests of this program, and one merge of a test.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chaos::merge::{Merge, Tuning, Ways};
use chaos::parts::Parts;
use chaos::program::Program;
use demo::seed::{odd, writer::Writer};
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

/// A merge with data, an application that writes, and ways to the servers.
pub struct Scene<'a> {
    pub merge: Merge<'a>,
    pub ways: Ways,
    writer: Option<Writer>,
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
        static NUMBER: AtomicI64 = AtomicI64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let merge = Merge::new(&self.parts.eight, destination, &self.parts.postgres, number)
            .await
            .expect("the servers answer");
        let options = odd::Options { documents: 10, chunks: 16, ..odd::Options::default() };
        merge.fill(&options).await.expect("the source is filled");
        // Slower than the slowest merge here copies: it must be able to catch up.
        let writer = Some(merge.write(11, 3));
        let ways = merge.ways(5).expect("the proxies start");
        Scene { merge, ways, writer }
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
        program.set_manifest(&self.merge.manifest(&self.ways, &Tuning::default())).expect("a file");
        program.restart().expect("it starts");
    }

    /// Waits for a phase.
    pub async fn reaches(&self, phases: &[&str]) -> String {
        self.merge.reaches(phases, PATIENCE).await.expect("the merge goes on")
    }

    /// Adds a chunk with this content to a source: otherwise it is like one of its neighbours.
    pub async fn poison(&self, content: &str) {
        static NUMBER: AtomicI64 = AtomicI64::new(1_000_000);
        let index = self.merge.large_source().await.expect("a source");
        let source = &self.merge.source_client;
        let found = source.get(&format!("/{index}/_search?size=1")).await.expect("a neighbour");
        let mut chunk = found["hits"]["hits"][0]["_source"].clone();
        chunk["id"] = NUMBER.fetch_add(1, Ordering::Relaxed).into();
        chunk["content"] = content.into();
        source.post(&format!("/{index}/_doc?refresh=true"), &chunk).await.expect("it is taken");
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
        let counts = self.writer.take().expect("a writer").stop().await.expect("the writer did its work");
        let verdict = self.merge.check().await.expect("both sides can be read");
        assert!(verdict.is_good(), "{counts:?}\n{verdict}");
        assert!(verdict.destination_documents > 0);
        self.merge.clean().await.expect("the servers answer");
    }
}

/// Slow enough to be met in the phase that is meant.
pub fn slow() -> Tuning {
    Tuning { documents_per_second: Some(150), ..Tuning::default() }
}
