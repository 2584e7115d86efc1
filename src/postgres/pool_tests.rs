//! The limits, against a server that is made up: the real ones are too long for a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{Error, Executor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::error::{Category, Failure};
use super::pool::{Limits, Pool};

const CONNECTIONS: usize = 3;
const LIMITS: Limits = Limits { acquire: Duration::from_secs(2), answer: Duration::from_secs(1) };

/// A server that knows the simple protocol and no table.
#[derive(Default)]
struct Server {
    /// It hears and says nothing, on connections that stay open.
    silent: AtomicBool,
    open: AtomicUsize,
    most: AtomicUsize,
}

impl Server {
    async fn start() -> (Arc<Self>, Pool) {
        let server = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(Arc::clone(&serving).serve(stream));
            }
        });
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username("u")
            .ssl_mode(PgSslMode::Disable);
        let driver = PgPoolOptions::new()
            .max_connections(u32::try_from(CONNECTIONS).unwrap())
            .acquire_timeout(LIMITS.acquire)
            .test_before_acquire(true)
            .connect_lazy_with(options);
        (server, Pool::new(driver, LIMITS))
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        // However the connection ends.
        let _ = self.answer(&mut stream).await;
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    async fn answer(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        const READY: &[u8] = b"Z\0\0\0\x05I";
        let mut lost = false;
        let length = stream.read_u32().await?;
        self.body(stream, length, &mut lost).await?;
        if !lost {
            stream.write_all(b"R\0\0\0\x08\0\0\0\0").await?;
            stream.write_all(READY).await?;
        }
        loop {
            let kind = stream.read_u8().await?;
            let length = stream.read_u32().await?;
            self.body(stream, length, &mut lost).await?;
            match kind {
                _ if lost => {}
                b'Q' => stream.write_all(&[b"C\0\0\0\x0dSELECT 1\0", READY].concat()).await?,
                b'S' => stream.write_all(READY).await?,
                _ => return Ok(()),
            }
        }
    }

    async fn body(&self, stream: &mut TcpStream, length: u32, lost: &mut bool) -> std::io::Result<()> {
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        stream.read_exact(&mut body).await?;
        *lost |= self.silent.load(Ordering::SeqCst);
        Ok(())
    }

    fn is_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    async fn has_open(&self, wanted: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.open.load(Ordering::SeqCst) != wanted {
            assert!(Instant::now() < deadline, "{} and not {wanted}", self.open.load(Ordering::SeqCst));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn ask(pool: &Pool) -> Result<(), Error> {
    pool.execute("SELECT").await.map(drop)
}

/// All places at once, none of which was lost.
async fn all_can_be_had(pool: &Pool) {
    let begun = join_all((0..CONNECTIONS).map(|_| pool.begin())).await;
    for transaction in begun {
        transaction.unwrap().commit().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_answered_in_time_is_transient_and_costs_no_place() {
    let (server, pool) = Server::start().await;
    for _ in 0..CONNECTIONS {
        let mut begun: Vec<_> =
            join_all((0..CONNECTIONS).map(|_| pool.begin())).await.into_iter().map(Result::unwrap).collect();
        server.is_silent(true);
        let started = Instant::now();
        let answers = join_all(begun.iter_mut().map(|transaction| transaction.execute("SELECT"))).await;
        assert!(started.elapsed() < LIMITS.answer * 5, "{:?}", started.elapsed());
        for answer in answers {
            let failure = Failure::of("asking", answer.unwrap_err());
            assert!(failure.is_transient() && failure.category() == Category::Unreachable, "{failure}");
            assert!(failure.to_string().contains("no answer within"), "{failure}");
        }
        drop(begun);
        server.has_open(0).await;
        server.is_silent(false);
        all_can_be_had(&pool).await;
    }
    assert!(server.most.load(Ordering::SeqCst) <= CONNECTIONS, "never more than were allowed");
}

#[tokio::test]
async fn a_commit_without_an_answer_is_an_error_and_costs_no_place() {
    let (server, pool) = Server::start().await;
    for _ in 0..=CONNECTIONS {
        let transaction = pool.begin().await.unwrap();
        server.is_silent(true);
        assert!(matches!(transaction.commit().await, Err(Error::Io(_))));
        server.is_silent(false);
    }
    all_can_be_had(&pool).await;
}

#[tokio::test]
async fn a_question_that_is_dropped_costs_no_place() {
    let (server, pool) = Server::start().await;
    for _ in 0..=CONNECTIONS {
        let mut transaction = pool.begin().await.unwrap();
        server.is_silent(true);
        let dropped = tokio::time::timeout(Duration::from_millis(20), transaction.execute("SELECT")).await;
        assert!(dropped.is_err(), "it waits");
        server.is_silent(false);
    }
    all_can_be_had(&pool).await;
}

#[tokio::test]
async fn one_that_falls_silent_when_it_is_given_back_costs_no_place() {
    let (server, pool) = Server::start().await;
    for _ in 0..=CONNECTIONS {
        let lent = pool.lend().await.unwrap();
        server.is_silent(true);
        drop(lent);
        server.has_open(0).await;
        server.is_silent(false);
    }
    all_can_be_had(&pool).await;
}

#[tokio::test]
async fn those_that_fell_silent_while_they_lay_idle_are_given_up_together() {
    let (server, pool) = Server::start().await;
    all_can_be_had(&pool).await;
    // They are tested when they come back.
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.has_open(CONNECTIONS).await;
    server.is_silent(true);
    let failure = Failure::of("asking", ask(&pool).await.unwrap_err());
    assert!(failure.is_transient(), "{failure}");
    server.is_silent(false);
    server.has_open(0).await;
    let started = Instant::now();
    all_can_be_had(&pool).await;
    assert!(started.elapsed() < LIMITS.acquire, "{:?}", started.elapsed());
}

#[tokio::test]
async fn waiting_for_ones_turn_opens_nothing_anew() {
    let (server, pool) = Server::start().await;
    let out = join_all((0..CONNECTIONS).map(|_| pool.begin())).await;
    assert!(matches!(ask(&pool).await, Err(Error::PoolTimedOut)));
    for transaction in out {
        transaction.unwrap().commit().await.unwrap();
    }
    all_can_be_had(&pool).await;
    assert_eq!(server.most.load(Ordering::SeqCst), CONNECTIONS);
}

#[tokio::test]
async fn closed_it_stays_closed() {
    let (server, pool) = Server::start().await;
    all_can_be_had(&pool).await;
    server.is_silent(true);
    pool.close().await;
    server.is_silent(false);
    server.has_open(0).await;
    assert!(matches!(ask(&pool).await, Err(Error::PoolClosed)));
}
