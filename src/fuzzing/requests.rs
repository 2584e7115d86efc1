//! Requests whose answers are read where they are made, as what is asked next depends on what was answered: write blocks,
//! privileges, health, statistics of many indices. A server in this process gives the answers that are tried, a line to each
//! request.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::answers::sound;
use super::choice;
use crate::elastic::{Cluster, ClusterConfig, ElasticError, Health, IndexName, IndexUuid};

/// What the server says of itself.
const ROOT: &[u8] = br#"{"cluster_name":"c","cluster_uuid":"u","version":{"number":"9.4.3"},"tagline":"You Know, for Search"}"#;
/// The uuids of the indices that are meant; of others nothing may be concluded.
const UUIDS: [&str; 2] = ["u-a", "u-b"];
/// A privilege on an index without which a list does not show it.
const SEEING: &str = "view_index_metadata";

/// Asks for one thing, which may take several requests; what comes of it is not more than the server said.
pub fn requests(data: &[u8]) {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let Some(server) = SERVER.get_or_init(|| Server::start().ok()) else {
        unreachable!("there is no server on 127.0.0.1")
    };
    let (Ok(a), Ok(b)) = (IndexName::parse("a"), IndexName::parse("b")) else { return };
    let (chosen, answers) = choice(data);
    match chosen % 6 {
        0 => block(server, answers, &[a, b]),
        1 => blocks(server, answers, &[a, b]),
        2 => unblock(server, answers, &[a, b]),
        3 => privileges(server, answers),
        4 => health(server, answers, &a),
        _ => statistics(server, answers, &[a, b]),
    }
}

/// An index counts as blocked only if a server said so of that very index.
fn block(server: &Server, answers: &[u8], names: &[IndexName]) {
    let uuids = uuids();
    let (blocked, said) = server.answering(answers, |cluster| cluster.block_writes(names, &uuids));
    let (told, settings) = (said.to("/_block/write"), said.to("/_settings"));
    for name in blocked.into_iter().flatten() {
        let name = name.as_str();
        let is_certain = |answer: &Value| {
            let is_done = |what: &str, place: usize| part(answer, what, place).as_bool() == Some(true);
            let is_it = |index: &Value| {
                let is_blocked = part(index, "blocked", 1).as_bool() == Some(true);
                is_blocked && part(index, "name", 0).as_str() == Some(name)
            };
            let mut indices = part(answer, "indices", 2).as_array().into_iter().flatten();
            is_done("acknowledged", 0) && is_done("shards_acknowledged", 1) && indices.any(is_it)
        };
        let is_meant = |answer: &Value| is_meant(answer, name);
        let is_verified = |answer: &Value| {
            let is_set = |what: &str| setting(answer, name, what) == Some("true");
            is_set("index.blocks.write") && is_set("index.verified_read_only")
        };
        assert!(settings.any(is_meant), "{name} is another index: {said:?}");
        assert!(told.any(is_certain) || settings.any(is_verified), "{name} is not blocked: {said:?}");
    }
}

/// Whether an index refuses writes is what its settings say.
fn blocks(server: &Server, answers: &[u8], names: &[IndexName]) {
    let (found, said) = server.answering(answers, |cluster| cluster.write_blocks(names));
    for (name, block) in found.into_iter().flatten() {
        let name = name.as_str();
        let is_so = |answer: &Value| {
            let is_set = |what: &str| setting(answer, name, what) == Some("true");
            let refuses = is_set("index.blocks.write") || is_set("index.blocks.read_only");
            refuses == block.is_set && setting(answer, name, "index.uuid") == Some(block.uuid.0.as_str())
        };
        assert!(said.to("/_settings").any(is_so), "{name}, {block:?}: {said:?}");
    }
}

/// Writes are allowed again only if that was acknowledged, and only of an index that is meant.
fn unblock(server: &Server, answers: &[u8], names: &[IndexName]) {
    let uuids = uuids();
    let (refused, said) = server.answering(answers, |cluster| cluster.unblock_writes(names, &uuids));
    let changed = said.of("PUT ");
    if refused.is_some_and(|refused| refused.is_empty()) && !changed.0.is_empty() {
        let is_acknowledged = |answer: &Value| part(answer, "acknowledged", 0).as_bool() == Some(true);
        assert!(changed.any(is_acknowledged), "{said:?}");
    }
    for name in names {
        let is_changed = said.0.iter().any(|one| one.is_put_on(name.as_str()));
        let is_meant = |answer: &Value| is_meant(answer, name.as_str());
        assert!(!is_changed || said.of("GET ").any(is_meant), "{name} is another index: {said:?}");
    }
}

/// A privilege that is not missing was granted in so many words.
fn privileges(server: &Server, answers: &[u8]) {
    let asked: [(&str, &[&str]); 2] = [("a", &["read", SEEING][..]), ("b*", &["read"][..])];
    let (missing, said) =
        server.answering(answers, |cluster| cluster.missing_privileges(&asked, &["monitor"]));
    if let Some(missing) = missing {
        for (pattern, privileges) in asked {
            for &privilege in privileges {
                let is_granted = |answer: &Value| {
                    is_true(part(answer, "index", 1).get(pattern).and_then(|index| index.get(privilege)))
                };
                let is_missing = missing.contains(&format!("{pattern}: {privilege}"));
                assert!(is_missing || said.any(is_granted), "{privilege} on {pattern}: {said:?}");
            }
        }
        let is_granted = |answer: &Value| is_true(part(answer, "cluster", 0).get("monitor"));
        let is_missing = missing.contains(&"cluster: monitor".to_owned());
        assert!(is_missing || said.any(is_granted), "{said:?}");
    }
    let names = ["a".to_owned(), "b".to_owned()];
    let (hidden, said) = server.answering(answers, |cluster| cluster.hidden(&names));
    let Some(hidden) = hidden else { return };
    for name in names.iter().filter(|name| !hidden.contains(name)) {
        let is_shown =
            |answer: &Value| is_true(part(answer, "index", 1).get(name).and_then(|index| index.get(SEEING)));
        assert!(said.any(is_shown), "{name}: {said:?}");
    }
}

/// Health and merges are what the server says; how they are spelt is no matter.
fn health(server: &Server, answers: &[u8], name: &IndexName) {
    let (report, said) = server.answering(answers, |cluster| cluster.health(name));
    if let Some(report) = report {
        let is_so = |answer: &Value| {
            let colour = match report.status {
                Health::Green => "green",
                Health::Yellow => "yellow",
                Health::Red => "red",
            };
            // There is another form of the same.
            let is_status = part(answer, "status", 0).as_str().is_none_or(|status| status == colour);
            is_status && part(answer, "number_of_data_nodes", 1).as_u64() == Some(report.data_nodes)
        };
        assert!(said.any(is_so), "{report:?}: {said:?}");
    }
    let (merges, said) = server.answering(answers, |cluster| cluster.merges_running(name));
    if let Some(merges) = merges {
        let is_so = |answer: &Value| {
            let total = part(part(answer, "_all", 0), "total", 0);
            part(part(total, "merges", 0), "current", 0).as_u64() == Some(merges)
        };
        assert!(said.any(is_so), "{merges}: {said:?}");
    }
}

/// Of an index all shards are told, or none.
fn statistics(server: &Server, answers: &[u8], names: &[IndexName]) {
    let (found, said) = server.answering(answers, |cluster| cluster.primary_stats(names));
    for (name, primaries) in found.into_iter().flatten() {
        let Some(primaries) = sound(primaries) else { continue };
        assert!(!primaries.is_empty(), "{name} has no shard: {said:?}");
        for (primary, shard) in primaries.iter().zip(0..) {
            assert_eq!(primary.shard, shard, "{name}: {said:?}");
            let is_of_it = |answer: &Value| {
                let index = part(answer, "indices", 0).get(name.as_str()).unwrap_or(&Value::Null);
                part(index, "uuid", 0).as_str() == Some(primary.index_uuid.0.as_str())
            };
            assert!(said.to("/_stats/").any(is_of_it), "{name} is another index: {said:?}");
        }
    }
}

fn uuids() -> BTreeSet<IndexUuid> {
    UUIDS.iter().map(|&uuid| IndexUuid(uuid.to_owned())).collect()
}

/// Whether an answer with settings says that the index is one of those that are meant.
fn is_meant(answer: &Value, name: &str) -> bool {
    setting(answer, name, "index.uuid").is_some_and(|uuid| UUIDS.contains(&uuid))
}

fn is_true(value: Option<&Value>) -> bool {
    value.and_then(Value::as_bool) == Some(true)
}

/// A field of what is read as a struct, which may also come as a list of its fields.
fn part<'a>(value: &'a Value, key: &str, place: usize) -> &'a Value {
    value.get(key).or_else(|| value.get(place)).unwrap_or(&Value::Null)
}

/// A setting of an index, flat.
fn setting<'a>(answer: &'a Value, index: &str, setting: &str) -> Option<&'a str> {
    part(answer.get(index)?, "settings", 0).get(setting)?.as_str()
}

/// A request and what was answered.
#[derive(Debug, Clone)]
struct Exchange {
    request: String,
    answer: Vec<u8>,
}

impl Exchange {
    /// Whether it changes that index.
    fn is_put_on(&self, name: &str) -> bool {
        let path = self.request.strip_prefix("PUT /").and_then(|rest| rest.split('/').next());
        path.is_some_and(|list| list.split("%2C").chain(list.split(',')).any(|one| one == name))
    }
}

/// What was asked and answered.
#[derive(Debug, Clone)]
struct Said(Vec<Exchange>);

impl Said {
    /// What was answered to requests for that.
    fn to(&self, what: &str) -> Said {
        Said(self.0.iter().filter(|one| one.request.contains(what)).cloned().collect())
    }

    /// What was answered to requests that begin so.
    fn of(&self, method: &str) -> Said {
        Said(self.0.iter().filter(|one| one.request.starts_with(method)).cloned().collect())
    }

    /// Whether this holds for one of the answers, as far as is known: what the plain parser refuses, for instance in a part that
    /// nobody reads, may say anything.
    fn any(&self, holds: impl Fn(&Value) -> bool) -> bool {
        self.0.iter().any(|one| match serde_json::from_slice::<Value>(&one.answer) {
            Ok(answer) => holds(&answer),
            Err(_) => true,
        })
    }
}

/// What is to be answered, and what was.
#[derive(Debug, Default)]
struct Script {
    answers: Vec<Vec<u8>>,
    exchanges: Vec<Exchange>,
}

impl Script {
    /// The next answer; the last one is given again and again.
    fn answer(&mut self, request: &str) -> Vec<u8> {
        let place = self.exchanges.len().min(self.answers.len().saturating_sub(1));
        let answer = self.answers.get(place).cloned().unwrap_or_default();
        self.exchanges.push(Exchange { request: request.to_owned(), answer: answer.clone() });
        answer
    }
}

/// A server that follows a script, and a client of it.
struct Server {
    runtime: Runtime,
    cluster: Cluster,
    script: Arc<Mutex<Script>>,
    /// One script at a time.
    turn: Mutex<()>,
}

impl Server {
    fn start() -> Result<Server, Box<dyn Error + Send + Sync>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = Url::parse(&format!("http://{}", listener.local_addr()?))?;
        let script = Arc::new(Mutex::new(Script { answers: vec![ROOT.to_vec()], ..Script::default() }));
        let followed = Arc::clone(&script);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = Arc::clone(&followed);
                // Whoever hangs up needs no answer.
                std::thread::spawn(move || drop(serve(&stream, &script)));
            }
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let cluster = runtime.block_on(Cluster::connect(ClusterConfig::new(vec![url])))?;
        Ok(Server { runtime, cluster, script, turn: Mutex::default() })
    }

    /// What comes of asking, if the answers are these, and what was said meanwhile.
    fn answering<'a, T, F>(&'a self, answers: &[u8], ask: impl FnOnce(&'a Cluster) -> F) -> (Option<T>, Said)
    where
        F: Future<Output = Result<T, ElasticError>>,
    {
        let _alone = lock(&self.turn);
        let answers = answers.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        *lock(&self.script) = Script { answers, ..Script::default() };
        let answer = sound(self.runtime.block_on(ask(&self.cluster)));
        (answer, Said(std::mem::take(&mut lock(&self.script).exchanges)))
    }
}

/// Answers requests on one connection until its end.
fn serve(stream: &TcpStream, script: &Mutex<Script>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            // An empty line ends the head.
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        let answer = lock(script).answer(request.trim_end());
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
        let mut response = format!("{head}{}\r\n\r\n", answer.len()).into_bytes();
        response.extend_from_slice(&answer);
        writer.write_all(&response)?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
