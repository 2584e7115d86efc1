//! The program at work while a test looks at it: started, waited for in a phase, stopped, killed.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::scene::Scene;
use crate::scene::program::{Run, ended, start};

/// How long a phase or a change in the destination is waited for.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// A running `es-index-merge run`.
pub struct Session {
    pid: u32,
    said: watch::Receiver<String>,
    end: JoinHandle<Run>,
}

impl Session {
    pub async fn start(manifest: &str) -> Session {
        let child = start("run", manifest).await;
        let pid = child.id().expect("it runs");
        let (tell, said) = watch::channel(String::new());
        Session { pid, said, end: tokio::spawn(ended_telling(child, tell)) }
    }

    /// Waits until it has said that.
    pub async fn says(&mut self, words: &str) {
        let heard = self.said.wait_for(|text| text.contains(words));
        tokio::time::timeout(PATIENCE, heard)
            .await
            .expect("it says so in time")
            .expect("it says so before it ends");
    }

    /// Waits for its end by itself.
    pub async fn end(self) -> Run {
        self.end.await.expect("it was waited for")
    }

    /// Ends it at its next checkpoint, unless it ends by itself in this very moment.
    pub async fn stop(self) -> Run {
        let _was_there = self.signal("TERM");
        self.end().await
    }

    /// Ends it at once, wherever it is.
    pub async fn kill(self) {
        assert!(self.signal("KILL"), "the program ended before its time");
        self.end().await;
    }

    /// False if there is no such process any more.
    fn signal(&self, name: &str) -> bool {
        let done = std::process::Command::new("kill")
            .args([format!("-{name}"), self.pid.to_string()])
            .status()
            .expect("kill runs");
        done.success()
    }
}

/// Its end, while what it says on the way can be read in `said`.
async fn ended_telling(mut child: tokio::process::Child, said: watch::Sender<String>) -> Run {
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let said = tokio::spawn(async move {
        while let Some(line) = lines.next_line().await.expect("what it says can be read") {
            eprintln!("{line}");
            said.send_modify(|text| {
                text.push_str(&line);
                text.push('\n');
            });
        }
        said.borrow().clone()
    });
    let mut run = ended(child).await;
    run.output += &said.await.expect("it was read");
    run
}

impl Scene {
    /// Waits until `look` gives something.
    pub async fn wait_for<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let waited = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                // Another process changes what is looked at: there is no event to wait for.
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    /// The stored phase; `None` before there is a merge.
    pub async fn phase(&self) -> Option<String> {
        if !self.state_exists().await {
            return None;
        }
        let row =
            sqlx::query_scalar("SELECT phase FROM es_index_merge.merge").fetch_optional(&self.pool).await;
        // The schema is there a moment before its tables.
        row.ok().flatten()
    }

    pub async fn wait_for_phase(&self, wanted: &str) {
        self.wait_for(wanted, async || self.phase().await.filter(|phase| phase == wanted)).await;
    }

    /// Chunks in quarantine.
    pub async fn quarantined(&self) -> i64 {
        let query = "SELECT count(*) FROM es_index_merge.quarantine";
        sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until a pass that began after this moment is copied, compared, and its deletions are followed.
    pub async fn wait_for_a_whole_pass(&self) {
        let taken = "SELECT memo->>'pass_taken_at' FROM es_index_merge.merge";
        let now: String = sqlx::query_scalar(taken).fetch_one(&self.pool).await.unwrap();
        // The pass under way may have read its ends already: the one after it has not.
        for _ in 0..2 {
            let before: String = sqlx::query_scalar(taken).fetch_one(&self.pool).await.unwrap();
            assert!(before >= now);
            self.wait_for("the next pass", async || {
                let after: String = sqlx::query_scalar(taken).fetch_one(&self.pool).await.unwrap();
                (after != before).then_some(())
            })
            .await;
        }
        let open = "SELECT EXISTS (SELECT FROM es_index_merge.unit WHERE state = 'open')
                 OR EXISTS (SELECT FROM es_index_merge.shard h JOIN es_index_merge.source s ON s.id = h.source
                            WHERE s.state = 'active' AND (h.verify_planned_to < h.copy_planned_to
                               OR h.keys_checked_to IS DISTINCT FROM h.copy_planned_to))";
        self.wait_for("the end of the pass", async || {
            let is_open: bool = sqlx::query_scalar(open).fetch_one(&self.pool).await.unwrap();
            (!is_open).then_some(())
        })
        .await;
    }
}
