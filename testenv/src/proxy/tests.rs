#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::message::Message;
use super::*;
use crate::http::{Http, Identity};
use crate::postgres::Postgres;

const SOON: Duration = Duration::from_secs(20);

/// A server that answers every request the same, and tells the bodies it got.
fn upstream(answer: Message) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (sender, answer, mut stream) = (sender.clone(), answer.clone(), stream.unwrap());
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Ok(Some(request)) = Message::read_request(&mut reader) {
                    // The test may have ended.
                    let _ = sender.send(String::from_utf8(request.body.clone()).unwrap());
                    if stream.write_all(&answer.bytes(answer.body.len())).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, requests)
}

fn json_answer(body: &Value) -> Message {
    Message::answer("200 OK", "application/json", body.to_string())
}

fn client(proxy: &ElasticProxy) -> Http {
    Http::new(&proxy.url(), None, &Identity::Basic("a", "b"), SOON).unwrap()
}

#[test]
fn without_rules_everything_passes() {
    let (url, requests) = upstream(json_answer(&json!({"it": "is"})));
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    let (status, answer) = client(&proxy).call("POST", "/x?y=z", Some(&json!({"a": 1}))).unwrap();
    assert_eq!((status, answer), (200, json!({"it": "is"})));
    assert_eq!(requests.recv_timeout(SOON).unwrap(), r#"{"a":1}"#);
    assert!(proxy.injected().is_empty() && proxy.requests() == 1);
}

#[test]
fn chunked_answers_pass_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        Message::read_request(&mut reader).unwrap().unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{\"\r\n5\r\na\":1}\r\n0\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    assert_eq!(client(&proxy).call("GET", "/", None).unwrap(), (200, json!({"a": 1})));
}

#[test]
fn refusals_are_not_passed_on_and_are_counted() {
    let (url, requests) = upstream(json_answer(&json!({})));
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    proxy.set(vec![Rule::new(Fault::Refuse(Gateway::TooManyRequests)).on("/_bulk").most(2)]);
    let statuses: Vec<u16> = ["/_bulk", "/other", "/a/_bulk?x", "/_bulk"]
        .map(|path| client(&proxy).call("GET", path, None).unwrap().0)
        .into();
    assert_eq!(statuses, [429, 200, 429, 200]);
    assert_eq!(requests.try_iter().count(), 2);
    assert_eq!(proxy.injected()["429"], 2);
    proxy.set(vec![Rule::new(Fault::Refuse(Gateway::BadGateway))]);
    let (status, page) = client(&proxy).call("GET", "/", None).unwrap();
    assert!(status == 502 && page.as_str().unwrap().starts_with("<html>"), "{page}");
}

#[test]
fn the_same_seed_hits_the_same_requests() {
    let hits = |seed| -> Vec<u16> {
        let (url, _requests) = upstream(json_answer(&json!({})));
        let proxy = ElasticProxy::start(&url, seed).unwrap();
        proxy.set(vec![Rule::new(Fault::Refuse(Gateway::Unavailable)).share(0.5)]);
        (0..40).map(|_| client(&proxy).call("GET", "/", None).unwrap().0).collect()
    };
    let first = hits(7);
    assert_eq!(first, hits(7));
    assert_ne!(first, hits(8));
    assert!(first.contains(&200) && first.contains(&503));
}

#[test]
fn a_body_above_the_limit_is_too_large() {
    let (url, _requests) = upstream(json_answer(&json!({})));
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    proxy.set(vec![Rule::new(Fault::TooLarge(10))]);
    assert_eq!(client(&proxy).call("POST", "/", Some(&json!({"a": 1}))).unwrap().0, 200);
    assert_eq!(client(&proxy).call("POST", "/", Some(&json!({"a": 12_345_678}))).unwrap().0, 413);
}

#[test]
fn half_an_answer_is_cut_off_or_looks_whole() {
    let body = json!({"words": "many ".repeat(50)});
    let (url, _requests) = upstream(json_answer(&body));
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    proxy.set(vec![Rule::new(Fault::HalfAnswer(Announced::Whole))]);
    assert!(client(&proxy).call("GET", "/", None).is_err());
    proxy.set(vec![Rule::new(Fault::HalfAnswer(Announced::Half))]);
    let (status, half) = client(&proxy).call("GET", "/", None).unwrap();
    let half = half.as_str().expect("no JSON");
    assert!(status == 200 && body.to_string().starts_with(half) && half.len() == body.to_string().len() / 2);
}

#[test]
fn a_dropped_request_was_done_or_was_not() {
    let (url, requests) = upstream(json_answer(&json!({})));
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    proxy.set(vec![Rule::new(Fault::DropBefore)]);
    assert!(client(&proxy).call("POST", "/", Some(&json!("before\n"))).is_err());
    assert_eq!(requests.try_iter().count(), 0);
    proxy.set(vec![Rule::new(Fault::DropAfter)]);
    assert!(client(&proxy).call("POST", "/", Some(&json!("after\n"))).is_err());
    assert_eq!(requests.recv_timeout(SOON).unwrap(), "after\n");
}

#[test]
fn what_is_held_goes_on_when_it_is_released() {
    let (url, requests) = upstream(json_answer(&json!({})));
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    let fault = Fault::HoldRequest(Duration::from_mins(1));
    proxy.set(vec![Rule::new(fault.clone()).most(1)]);
    let held = {
        let client = client(&proxy);
        thread::spawn(move || client.call("POST", "/", Some(&json!("held\n"))).unwrap().0)
    };
    assert!(proxy.wait_for(&fault, 1, SOON));
    client(&proxy).call("POST", "/", Some(&json!("later\n"))).unwrap();
    assert_eq!(requests.recv_timeout(SOON).unwrap(), "later\n");
    proxy.release();
    assert_eq!(held.join().unwrap(), 200);
    assert_eq!(requests.recv_timeout(SOON).unwrap(), "held\n");
}

#[test]
fn rejected_items_are_not_passed_on_and_keep_their_places() {
    let (url, requests) = upstream(json_answer(&json!({"errors": false, "items": [
        {"index": {"status": 201}}, {"index": {"status": 201}}
    ]})));
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    let item = |id: u32| format!("{{\"index\":{{\"_id\":\"{id}\"}}}}\n{{\"n\":{id}}}\n");
    let body = (0..4).map(item).collect::<String>() + "{\"delete\":{\"_id\":\"9\"}}\n";
    // Whichever seed takes three of the five.
    let share = 0.5;
    let seed = (0..10_000).find(|seed| {
        let request = Message::answer("", "", body.clone());
        super::bulk::thin(&request, share, seed ^ 1).rejected() == 3
    });
    let proxy = ElasticProxy::start(&url, seed.unwrap()).map(|seeded| (drop(proxy), seeded).1).unwrap();
    proxy.set(vec![Rule::new(Fault::RejectItems(share))]);
    let (_, answer) = client(&proxy).call("POST", "/i/_bulk", Some(&json!(body))).unwrap();
    let items = answer["items"].as_array().unwrap();
    let rejected = |item: &Value| item.as_object().unwrap().values().any(|result| result["status"] == 429);
    assert_eq!((items.len(), items.iter().filter(|item| rejected(item)).count()), (5, 3));
    let passed = requests.recv_timeout(SOON).unwrap();
    for (at, rejected) in items.iter().map(rejected).enumerate().take(4) {
        assert_eq!(passed.contains(&item(u32::try_from(at).unwrap())), !rejected, "{at}: {passed}");
    }
}

#[test]
fn items_with_a_text_fail_and_the_others_are_passed_on() {
    let (url, requests) =
        upstream(json_answer(&json!({"errors": false, "items": [{"index": {"status": 201}}]})));
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    let fault = Fault::FailItems("poison".into());
    proxy.set(vec![Rule::new(fault.clone())]);
    let item = |text: &str| format!("{{\"index\":{{\"_id\":\"x\"}}}}\n{{\"text\":\"{text}\"}}\n");
    let (_, answer) =
        client(&proxy).call("POST", "/i/_bulk", Some(&json!(item("poisonous") + &item("good")))).unwrap();
    let statuses = [&answer["items"][0]["index"]["status"], &answer["items"][1]["index"]["status"]];
    assert_eq!(statuses, [500, 201]);
    assert_eq!(requests.recv_timeout(SOON).unwrap(), item("good"));
    client(&proxy).call("POST", "/i/_bulk", Some(&json!(item("good")))).unwrap();
    assert_eq!(proxy.injected().get(fault.name()), Some(&1));
}

#[test]
fn one_search_of_many_asks_no_shard() {
    let page = json!({"_shards": {"total": 1}, "hits": {"hits": [{"_id": "a"}]}});
    let (url, _requests) = upstream(json_answer(&json!({"responses": [page, page, page]})));
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    proxy.set(vec![Rule::new(Fault::ZeroShards)]);
    let (_, answer) = client(&proxy).call("POST", "/_msearch", Some(&json!("\n"))).unwrap();
    let totals: Vec<u64> = answer["responses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|response| response["_shards"]["total"].as_u64().unwrap())
        .collect();
    assert_eq!((totals.len(), totals.iter().sum::<u64>()), (3, 2));
}

#[test]
fn a_slow_link_delays_and_limits() {
    let (url, _requests) = upstream(json_answer(&json!({"x": "y".repeat(20_000)})));
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    let timed = || {
        let started = Instant::now();
        client(&proxy).call("GET", "/", None).unwrap();
        started.elapsed()
    };
    proxy.set_delay(Duration::from_millis(150));
    assert!(timed() >= Duration::from_millis(150));
    proxy.set_delay(Duration::ZERO);
    proxy.set_bandwidth(Some(40_000));
    assert!(timed() >= Duration::from_millis(450));
}

#[test]
fn a_server_that_is_down_closes_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let proxy = ElasticProxy::start(&url, 1).unwrap();
    let mut stream = TcpStream::connect(proxy.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
}

/// `psql` through the proxy.
fn through(proxy: &PostgresProxy, statements: &str) -> anyhow::Result<String> {
    crate::postgres::Access { url: proxy.url().to_owned(), ca: None }.sql(statements)
}

#[test]
fn a_commit_is_cut_before_or_after_it_happened() {
    let database = Postgres::shared().unwrap().database().unwrap();
    database.sql("CREATE TABLE t (n int)").unwrap();
    let proxy = PostgresProxy::start(&database.url).unwrap();
    assert_eq!(through(&proxy, "SELECT 1").unwrap(), "1");
    let commit = |n: u32| send_queries(&proxy, &["BEGIN", &format!("INSERT INTO t VALUES ({n})"), "COMMIT"]);
    proxy.cut_commits(CommitCut::Before, 1);
    assert!(commit(1).is_err());
    proxy.cut_commits(CommitCut::After, 1);
    assert!(commit(2).is_err());
    assert_eq!(proxy.commits_left(CommitCut::After), 0);
    commit(3).unwrap();
    assert_eq!(database.sql("SELECT n FROM t ORDER BY n").unwrap(), "2\n3");
}

#[test]
fn connections_to_postgres_are_refused_and_allowed_again() {
    let database = Postgres::shared().unwrap().database().unwrap();
    let proxy = PostgresProxy::start(&database.url).unwrap();
    proxy.refuse();
    assert!(through(&proxy, "SELECT 1").is_err());
    proxy.clear();
    proxy.stall();
    let stalled = thread::scope(|scope| {
        let asked = scope.spawn(|| through(&proxy, "SELECT 2"));
        thread::sleep(Duration::from_millis(300));
        let stalled = !asked.is_finished();
        proxy.clear();
        assert_eq!(asked.join().unwrap().unwrap(), "2");
        stalled
    });
    assert!(stalled);
}

/// Statements one by one on one connection, as `psql` reads them from a file.
fn send_queries(proxy: &PostgresProxy, statements: &[&str]) -> anyhow::Result<()> {
    use std::process::{Command, Stdio};
    let (login, server) = proxy.url().rsplit_once('@').unwrap();
    let (scheme_and_user, password) = login.rsplit_once(':').unwrap();
    let mut psql = Command::new(crate::postgres::programs()?.join("psql"))
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-", "--dbname"])
        .arg(format!("{scheme_and_user}@{server}"))
        .env("PGPASSWORD", password)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let lines = statements.join(";\n") + ";\n";
    psql.stdin.take().unwrap().write_all(lines.as_bytes())?;
    anyhow::ensure!(psql.wait()?.success(), "psql failed");
    Ok(())
}
