//! A slow network on one machine: a TCP proxy that holds every byte back for a while.
//!
//! Each direction of a connection has at most [`WINDOW`] bytes on the way, as a sender with that window on a line with
//! that delay. It also counts the requests that pass.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes on the way in one direction of a connection.
const WINDOW: usize = 64 * 1024;
const PIECE: usize = 8 * 1024;

/// A proxy in front of a server; it ends when this is dropped.
pub struct Link {
    /// Where it listens.
    pub url: String,
    requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Link {
    /// Puts it in front of `url`.
    pub async fn to(url: &str, delay: Duration) -> Result<Self> {
        let target: SocketAddr = url.split_once("://").context("a URL")?.1.trim_end_matches('/').parse()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = format!("http://{}", listener.local_addr()?);
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, target, delay, Arc::clone(&counted)));
            }
        });
        Ok(Self { url: own, requests, task })
    }

    /// Requests that passed so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(client: TcpStream, target: SocketAddr, delay: Duration, requests: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    // A line has no delay of its own here; a refusal only makes it a little slower.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let count = move |piece: &[u8]| {
        let found = piece.windows(11).filter(|text| *text == b" HTTP/1.1\r\n").count();
        requests.fetch_add(found as u64, Ordering::Relaxed);
    };
    tokio::join!(pass(from_client, to_server, delay, count), pass(from_server, to_client, delay, |_| {}));
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Duration,
    count: impl Fn(&[u8]),
) {
    let (send, mut receive) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(WINDOW / PIECE);
    let reading = async move {
        loop {
            let mut piece = vec![0; PIECE];
            match from.read(&mut piece).await {
                Ok(read) if read > 0 => piece.truncate(read),
                _ => return,
            }
            count(&piece);
            if send.send((Instant::now() + delay, piece)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = receive.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
