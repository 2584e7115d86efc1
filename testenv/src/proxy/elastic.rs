//! A proxy in front of an Elasticsearch that speaks plain HTTP.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::bulk::{Thinned, fail, thin, zero_shards};
use super::connections::{Connections, Listener};
use super::fault::{Announced, Fault, Rule, html};
use super::message::Message;

/// Pieces in which a slow link sends.
const PIECES_PER_SECOND: u32 = 20;

/// The proxy; it ends, with its connections, when this is dropped.
#[derive(Debug)]
pub struct ElasticProxy {
    shared: Arc<Shared>,
    listener: Listener,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    seed: u64,
    rules: RwLock<Arc<Vec<Rule>>>,
    /// Of every answer, in microseconds.
    delay: AtomicU64,
    /// Bytes per second in each direction of each connection; 0: no limit.
    bandwidth: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
    connections: Arc<Connections>,
}

#[derive(Debug, Default)]
struct State {
    injected: BTreeMap<&'static str, u64>,
    requests: u64,
    /// How often `release` was called: what is held looks for a change.
    releases: u64,
}

impl ElasticProxy {
    /// Starts one in front of `http://HOST:PORT`.
    pub fn start(upstream: &str, seed: u64) -> Result<Self> {
        let Some(address) = upstream.strip_prefix("http://") else {
            bail!("a proxy speaks plain HTTP, {upstream:?} does not");
        };
        let upstream = address.trim_end_matches('/').parse().context("the upstream is no HOST:PORT")?;
        let connections = Arc::new(Connections::default());
        let shared = Arc::new(Shared {
            upstream,
            seed,
            rules: RwLock::default(),
            delay: AtomicU64::new(0),
            bandwidth: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
            connections: Arc::clone(&connections),
        });
        let serving = Arc::clone(&shared);
        let listener = Listener::start(connections, move |client| serving.serve(client))?;
        Ok(Self { shared, listener })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.address())
    }

    /// From now on these rules and no others; the first that hits a request spoils it.
    pub fn set(&self, rules: Vec<Rule>) {
        *self.shared.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Spoils nothing any more and lets go what is held.
    pub fn clear(&self) {
        self.set(Vec::new());
        self.set_delay(Duration::ZERO);
        self.set_bandwidth(None);
        self.release();
    }

    /// Every answer comes that much later.
    pub fn set_delay(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.shared.delay.store(delay, Ordering::SeqCst);
    }

    /// At most so many bytes a second, in each direction of each connection.
    pub fn set_bandwidth(&self, bytes_per_second: Option<u64>) {
        self.shared.bandwidth.store(bytes_per_second.unwrap_or(0), Ordering::SeqCst);
    }

    /// Lets go every request and every answer that is held.
    pub fn release(&self) {
        self.shared.lock().releases += 1;
        self.shared.changed.notify_all();
    }

    /// Cuts every open connection.
    pub fn cut_all(&self) {
        self.shared.connections.cut_all();
    }

    /// How often each fault was injected, by its name.
    #[must_use]
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.shared.lock().injected.clone()
    }

    /// The same since the last call of this, which starts counting anew.
    #[must_use]
    pub fn take_injected(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.shared.lock().injected)
    }

    /// How many requests came.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.lock().requests
    }

    /// Waits until that fault was injected `times` times since the start; whether it was within `limit`.
    #[must_use]
    pub fn wait_for(&self, fault: &Fault, times: u64, limit: Duration) -> bool {
        let waiting = |state: &mut State| state.injected.get(fault.name()).copied().unwrap_or(0) < times;
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), limit, waiting);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// Whether the connection goes on after a request.
#[derive(PartialEq, Eq)]
enum After {
    GoOn,
    Close,
}

impl Shared {
    /// One connection: request after request, each with its answer.
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let upstream = TcpStream::connect(self.upstream)?;
        upstream.set_nodelay(true)?;
        let _registered = self.connections.register(&upstream)?;
        let mut requests = BufReader::new(client.try_clone()?);
        let mut link = Link { answers: BufReader::new(upstream.try_clone()?), upstream, client };
        while let Some(request) = Message::read_request(&mut requests)? {
            if self.answer(&request, &mut link)? == After::Close {
                break;
            }
        }
        link.client.shutdown(Shutdown::Both)
    }

    fn answer(&self, request: &Message, link: &mut Link) -> io::Result<After> {
        self.lock().requests += 1;
        let rules = Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner));
        let rule = rules.iter().zip(0..).find(|(rule, at)| rule.hits(request, self.seed.rotate_left(*at)));
        let Some((rule, _)) = rule else {
            let answer = self.forward(request, link)?;
            return self.give(&answer, link);
        };
        let occurrence = self.count(rule.fault.name());
        match &rule.fault {
            Fault::Refuse(gateway) => self.give(&gateway.answer(), link),
            Fault::TooLarge(_) => self.give(&html("413 Request Entity Too Large"), link),
            Fault::DropBefore => Ok(After::Close),
            Fault::DropAfter => self.forward(request, link).map(|_| After::Close),
            Fault::HalfAnswer(announced) => {
                let answer = self.forward(request, link)?;
                self.give_half(answer, *announced, link)
            }
            Fault::HoldRequest(limit) => {
                self.hold(*limit);
                let answer = self.forward(request, link)?;
                self.give(&answer, link)
            }
            Fault::HoldAnswer(limit) => {
                let answer = self.forward(request, link)?;
                self.hold(*limit);
                self.give(&answer, link)
            }
            Fault::ZeroShards => {
                let answer = self.forward(request, link)?;
                self.give(&zero_shards(answer, self.seed ^ occurrence), link)
            }
            Fault::RejectItems(share) => {
                let thinned = thin(request, *share, self.seed ^ occurrence);
                self.give_thinned(request, &thinned, link)
            }
            Fault::FailItems(text) => self.give_thinned(request, &fail(request, text), link),
        }
    }

    fn give_thinned(&self, request: &Message, thinned: &Thinned, link: &mut Link) -> io::Result<After> {
        if thinned.rejected() == 0 || thinned.request.body.is_empty() && request.body.is_empty() {
            let answer = self.forward(request, link)?;
            return self.give(&answer, link);
        }
        let answer = if thinned.request.body.is_empty() {
            thinned.all_rejected()
        } else {
            thinned.complete(self.forward(&thinned.request, link)?)
        };
        self.give(&answer, link)
    }

    fn forward(&self, request: &Message, link: &mut Link) -> io::Result<Message> {
        self.send(&request.bytes(request.body.len()), &mut link.upstream)?;
        Message::read_answer(&mut link.answers, request)
    }

    fn give(&self, answer: &Message, link: &mut Link) -> io::Result<After> {
        thread::sleep(Duration::from_micros(self.delay.load(Ordering::SeqCst)));
        self.send(&answer.bytes(answer.body.len()), &mut link.client)?;
        Ok(After::GoOn)
    }

    fn give_half(&self, mut answer: Message, announced: Announced, link: &mut Link) -> io::Result<After> {
        let whole = answer.body.len();
        answer.body.truncate(whole / 2);
        let announced = match announced {
            Announced::Whole => whole,
            Announced::Half => answer.body.len(),
        };
        self.send(&answer.bytes(announced), &mut link.client)?;
        Ok(After::Close)
    }

    /// Writes at once, or as slowly as the link is.
    fn send(&self, bytes: &[u8], to: &mut TcpStream) -> io::Result<()> {
        let bandwidth = self.bandwidth.load(Ordering::SeqCst);
        if bandwidth == 0 {
            return to.write_all(bytes);
        }
        let piece = usize::try_from(bandwidth / u64::from(PIECES_PER_SECOND)).unwrap_or(usize::MAX).max(1);
        for part in bytes.chunks(piece) {
            to.write_all(part)?;
            thread::sleep(Duration::from_secs_f64(part.len() as f64 / bandwidth as f64));
        }
        Ok(())
    }

    /// Waits for the next release, the limit or the end of the proxy.
    fn hold(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        let before = state.releases;
        while state.releases == before && !self.connections.is_closed() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            // Woken now and then, as nobody notifies when the proxy ends.
            let waited = self.changed.wait_timeout(state, left.min(Duration::from_millis(500)));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn count(&self, name: &'static str) -> u64 {
        let occurrence = {
            let mut state = self.lock();
            let count = state.injected.entry(name).or_default();
            *count += 1;
            *count
        };
        self.changed.notify_all();
        occurrence
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both sides of one connection.
struct Link {
    client: TcpStream,
    upstream: TcpStream,
    answers: BufReader<TcpStream>,
}
