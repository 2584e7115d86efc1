//! Accepting connections, each served by a thread of its own, and ending them all.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

/// The open connections of one proxy, on both of its sides.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<BTreeMap<u64, TcpStream>>,
    next: AtomicU64,
    closed: AtomicBool,
}

/// One open connection; it is forgotten with this.
pub struct Registered {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    /// Remembers a connection, so that it can be cut.
    pub fn register(self: &Arc<Self>, stream: &TcpStream) -> io::Result<Registered> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, stream.try_clone()?);
        if self.is_closed() {
            self.cut_all();
        }
        Ok(Registered { connections: Arc::clone(self), number })
    }

    /// Cuts every open connection.
    pub fn cut_all(&self) {
        for stream in self.lock().values() {
            // One that the other side has closed already cannot be shut down, and need not be.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether the proxy has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.number);
    }
}

/// A listening socket with a thread that accepts; it ends when this is dropped.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    connections: Arc<Connections>,
}

impl Listener {
    /// Listens on a free port and serves each connection by `serve`, whose error is how a connection ends.
    pub fn start<S>(connections: Arc<Connections>, serve: S) -> Result<Self>
    where
        S: Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a proxy cannot listen")?;
        let address = listener.local_addr()?;
        let (serve, accepting) = (Arc::new(serve), Arc::clone(&connections));
        thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                if accepting.is_closed() {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (serve, connections) = (Arc::clone(&serve), Arc::clone(&accepting));
                let thread = thread::Builder::new().name("proxy-connection".to_owned());
                // Without a thread the connection is closed, as by a server that has no room.
                let _ = thread.spawn(move || {
                    if let Ok(_registered) = connections.register(&stream) {
                        // That either side went away is what a proxy is for: the other one is told by the end.
                        let _ = serve(stream);
                    }
                });
            }
        })?;
        Ok(Self { address, connections })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.connections.closed.store(true, Ordering::SeqCst);
        self.connections.cut_all();
        // Wakes the accepting thread, which then sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}
