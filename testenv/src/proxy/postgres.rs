//! A proxy in front of a Postgres: bytes in both directions, without TLS (`sslmode=disable`), so that it sees a
//! transaction's COMMIT and can cut the connection there.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

use super::connections::{Connections, Listener};

/// A simple query that says `COMMIT`, as libraries and as `psql` send it: type, length, text, zero.
const COMMITS: [&[u8]; 2] = [b"Q\0\0\0\x0bCOMMIT\0", b"Q\0\0\0\x0cCOMMIT;\0"];

/// At which moment of a commit the connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitCut {
    /// The server never hears of it: it rolls back.
    Before,
    /// The server has committed; the client does not hear of it.
    After,
}

impl CommitCut {
    /// Its name in counters and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "Postgres: connection lost before COMMIT",
            Self::After => "Postgres: connection lost after COMMIT",
        }
    }
}

/// The proxy; it ends, with its connections, when this is dropped.
#[derive(Debug)]
pub struct PostgresProxy {
    shared: Arc<Shared>,
    listener: Listener,
    url: String,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
    connections: Arc<Connections>,
    cut_before: AtomicU64,
    cut_after: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    stalled: bool,
    swallowing: bool,
    refusing: bool,
}

/// What became of one connection.
#[derive(Debug, Default)]
struct Fate {
    /// It is cut as soon as the server answers.
    cut: AtomicBool,
    /// Something of it was swallowed.
    lost: AtomicBool,
}

impl PostgresProxy {
    /// Starts one in front of the server of that URL.
    pub fn start(url: &str) -> Result<Self> {
        let (_, rest) = url.split_once("://").context("this is no URL")?;
        let (login, server) = rest.rsplit_once('@').context("the URL has no user")?;
        let (host, path) = server.split_once('/').context("the URL names no database")?;
        let upstream = host.parse().context("the URL has no ADDRESS:PORT")?;
        let connections = Arc::new(Connections::default());
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::default(),
            changed: Condvar::new(),
            connections: Arc::clone(&connections),
            cut_before: AtomicU64::new(0),
            cut_after: AtomicU64::new(0),
        });
        let serving = Arc::clone(&shared);
        let listener = Listener::start(connections, move |client| serving.serve(&client))?;
        let database = path.split('?').next().unwrap_or_default();
        let url = format!("postgresql://{login}@{}/{database}?sslmode=disable", listener.address());
        Ok(Self { shared, listener, url })
    }

    /// The URL of the same database through the proxy.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Cuts every open connection.
    pub fn cut_all(&self) {
        self.shared.connections.cut_all();
    }

    /// Cuts the connection at each of the next commits, so many times.
    pub fn cut_commits(&self, cut: CommitCut, times: u64) {
        self.shared.left(cut).store(times, Ordering::SeqCst);
    }

    /// How many of the asked cuts have not happened yet.
    #[must_use]
    pub fn commits_left(&self, cut: CommitCut) -> u64 {
        self.shared.left(cut).load(Ordering::SeqCst)
    }

    /// Nothing passes until [`PostgresProxy::clear`]; connections stay open.
    pub fn stall(&self) {
        self.shared.lock().stalled = true;
    }

    /// What is sent from now on is lost until [`PostgresProxy::clear`]; connections stay open. Nothing passes any more on
    /// a connection that has lost something, as on one whose other end is gone: a new one is needed.
    pub fn swallow(&self) {
        self.shared.lock().swallowing = true;
    }

    /// New connections are closed at once until [`PostgresProxy::clear`].
    pub fn refuse(&self) {
        self.shared.lock().refusing = true;
    }

    /// Everything passes again.
    pub fn clear(&self) {
        *self.shared.lock() = State::default();
        self.cut_commits(CommitCut::Before, 0);
        self.cut_commits(CommitCut::After, 0);
        self.shared.changed.notify_all();
    }
}

impl Drop for PostgresProxy {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, client: &TcpStream) -> io::Result<()> {
        if self.lock().refusing {
            return client.shutdown(Shutdown::Both);
        }
        let server = TcpStream::connect(self.upstream)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let _registered = self.connections.register(&server)?;
        let fate = Arc::new(Fate::default());
        let back = {
            let (shared, fate) = (Arc::clone(self), Arc::clone(&fate));
            let (server, client) = (server.try_clone()?, client.try_clone()?);
            thread::Builder::new().name("proxy-back".to_owned()).spawn(move || {
                // Either side's end is the end of both.
                let _ = shared.pass_answers(&server, &client, &fate);
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            })?
        };
        let passed = self.pass_requests(client, &server, &fate);
        if !fate.cut.load(Ordering::SeqCst) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
        // The thread has no result and does not panic.
        let _ = back.join();
        passed
    }

    fn pass_requests(&self, client: &TcpStream, server: &TcpStream, fate: &Fate) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let (mut from, mut to) = (client, server);
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            self.wait_while_stalled();
            if self.swallows(fate) {
                continue;
            }
            let part = &buffer[..read];
            let commits =
                COMMITS.iter().any(|commit| part.windows(commit.len()).any(|window| window == *commit));
            if commits && self.take(CommitCut::Before) {
                return Ok(());
            }
            if commits && self.take(CommitCut::After) {
                // What comes back now is the answer to the commit: it is the last thing that is read, by the other thread.
                fate.cut.store(true, Ordering::SeqCst);
                return to.write_all(part);
            }
            to.write_all(part)?;
        }
    }

    fn pass_answers(&self, server: &TcpStream, client: &TcpStream, fate: &Fate) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let (mut from, mut to) = (server, client);
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 || fate.cut.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.wait_while_stalled();
            if self.swallows(fate) {
                continue;
            }
            to.write_all(&buffer[..read])?;
        }
    }

    fn take(&self, cut: CommitCut) -> bool {
        let left = self.left(cut);
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    fn left(&self, cut: CommitCut) -> &AtomicU64 {
        match cut {
            CommitCut::Before => &self.cut_before,
            CommitCut::After => &self.cut_after,
        }
    }

    fn wait_while_stalled(&self) {
        let waited = self.changed.wait_while(self.lock(), |state| state.stalled);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether what was read on that connection is to be lost.
    fn swallows(&self, fate: &Fate) -> bool {
        if self.lock().swallowing {
            fate.lost.store(true, Ordering::SeqCst);
        }
        fate.lost.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
