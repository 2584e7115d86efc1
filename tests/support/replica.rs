//! A server of its own that becomes a replica and the primary again, as the one behind a name does in a fail-over.
//!
//! The replica follows nobody: it stays as it was when it was the primary.

use testenv::Part;
use testenv::postgres::Postgres;
use tokio::task::block_in_place;

use super::Database;

/// Only in a test with several threads.
pub struct Server {
    pub database: Database,
    postgres: Postgres,
}

impl Server {
    pub fn start() -> Self {
        block_in_place(|| {
            let postgres = Postgres::start().expect("a Postgres server");
            let database = Database(postgres.database().expect("a database"));
            Self { database, postgres }
        })
    }

    /// Ends all sessions, and is a replica for new ones.
    pub fn become_replica(&self) {
        block_in_place(|| {
            self.postgres.stop().unwrap();
            let folder = self.postgres.folder().expect("it is a private one");
            let signal = folder.join(Part::Postgres.as_str()).join("data/standby.signal");
            std::fs::write(signal, "").unwrap();
            self.postgres.restart().unwrap();
        });
    }

    /// Is the primary, also for the sessions that there are.
    pub fn become_primary(&self) {
        let promoted = block_in_place(|| self.postgres.sql("SELECT pg_promote()")).unwrap();
        assert_eq!(promoted, "t");
    }
}
