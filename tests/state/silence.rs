//! Connections that stay open while what they carry is lost.

use std::time::{Duration, Instant};

use es_index_merge::state::{Category, MergeId, State, StateError};
use futures::future::join_all;
use secrecy::SecretString;
use testenv::proxy::PostgresProxy;
use tokio::task::JoinHandle;

use crate::fixture::{Fixture, LEASE, SCHEMA};

/// More than there are connections.
const MANY: usize = 10;
/// Soon, on a slow machine; without the limits it would be never.
const SOON: Duration = Duration::from_secs(9);

struct Silence {
    fixture: Fixture,
    proxy: PostgresProxy,
    /// Reaches the database through the proxy.
    state: State,
}

impl Silence {
    async fn begin() -> Self {
        let fixture = Fixture::new().await;
        let proxy = PostgresProxy::start(fixture.database.text()).unwrap();
        let state = State::connect(&SecretString::from(proxy.url()), SCHEMA).await.unwrap();
        Self { fixture, proxy, state }
    }

    /// Calls, each a transaction, whose statements were heard by the server, and whose answers are swallowed.
    async fn unanswered(&self) -> Vec<JoinHandle<Result<bool, StateError>>> {
        let mut holder = self.fixture.database.connect().await;
        crate::support::run(&mut holder, &format!("BEGIN; SELECT FROM {SCHEMA}.merge FOR UPDATE")).await;
        let calls =
            (0..MANY).map(|number| tokio::spawn(take(self.state.clone(), self.fixture.merge, number)));
        let calls: Vec<_> = calls.collect();
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let deadline = Instant::now() + Duration::from_secs(8);
        while self.fixture.database.number(waiting).await < 8 {
            assert!(Instant::now() < deadline, "not all calls wait, and the first soon give up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.proxy.swallow();
        crate::support::run(&mut holder, "ROLLBACK").await;
        calls
    }

    /// As many at once as there are connections, and more.
    async fn all_is_well(&self) {
        let started = Instant::now();
        for pinged in join_all((0..MANY).map(|_| self.state.ping())).await {
            pinged.unwrap();
        }
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    }

    /// Whether the server has given up everything that was begun.
    async fn nothing_was_left(&self) {
        let begun = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()";
        let deadline = Instant::now() + SOON;
        while self.fixture.database.number(begun).await > 0 {
            assert!(Instant::now() < deadline, "a transaction is still open");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let taken = format!("SELECT count(*) FROM {SCHEMA}.merge WHERE stepper IS NOT NULL");
        assert_eq!(self.fixture.database.number(&taken).await, 0);
    }
}

async fn take(state: State, merge: MergeId, number: usize) -> Result<bool, StateError> {
    state.take_step(merge, &format!("process-{number}"), LEASE).await
}

fn is_transient(error: &StateError) {
    assert_eq!((error.category(), error.is_transient()), (Category::Unreachable, true), "{error}");
}

#[tokio::test]
async fn calls_that_are_dropped_on_silent_connections_cost_no_connection_and_store_nothing() {
    let silence = Silence::begin().await;
    for call in silence.unanswered().await {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    silence.proxy.clear();
    silence.all_is_well().await;
    silence.nothing_was_left().await;
}

#[tokio::test]
async fn connections_that_fell_silent_are_replaced() {
    let silence = Silence::begin().await;
    silence.all_is_well().await;
    silence.proxy.swallow();
    let started = Instant::now();
    for pinged in join_all((0..MANY).map(|_| silence.state.ping())).await {
        is_transient(&pinged.unwrap_err());
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    silence.proxy.clear();
    silence.all_is_well().await;
}

#[tokio::test]
#[ignore = "it lasts as long as the longest statement may; with shorter limits: src/postgres/pool_tests.rs"]
async fn calls_without_an_answer_end_by_themselves_and_store_nothing() {
    let silence = Silence::begin().await;
    let started = Instant::now();
    let mut unanswered = 0;
    for call in silence.unanswered().await {
        let error = call.await.unwrap().unwrap_err();
        is_transient(&error);
        unanswered += usize::from(error.to_string().contains("no answer within 70 s"));
    }
    // All connections but that of the call which got the lock: its transaction is idle, and the server ends the session.
    assert!(unanswered >= 7, "{unanswered}");
    assert!(started.elapsed() < Duration::from_secs(80), "{:?}", started.elapsed());
    silence.proxy.clear();
    silence.all_is_well().await;
    silence.nothing_was_left().await;
}
