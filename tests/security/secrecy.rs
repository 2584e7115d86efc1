//! What the program was told in confidence is found nowhere: not in its output with every log line switched on, not in
//! the state database, not in its arguments.

use base64::Engine as _;
use sqlx::AssertSqlSafe;

use crate::folder::Folder;
use crate::rotation::{COPYING, api_key, slowly, start, until, user};
use crate::scene::{Flavor, Scene};
use crate::{odd_data, with_secret};

const SOURCE: &str = "zQ7source-hunter2";
const POSTGRES: &str = "zQ7postgres-hunter2";
const WRONG: &str = "zQ7wrong-hunter2";

/// The secrets, and the forms in which they travel.
fn needles(user: &str, key: &str) -> Vec<String> {
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let plain = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(key).unwrap()).unwrap();
    let half = plain.split_once(':').unwrap().1.to_owned();
    let mut all = vec!["hunter2".to_owned(), key.to_owned(), half];
    for password in [SOURCE, WRONG] {
        all.push(encode(format!("{user}:{password}")));
    }
    all
}

fn assert_nothing(needles: &[String], place: &str, text: &str) {
    assert!(!text.is_empty(), "{place} is empty: there is nothing to look at");
    for needle in needles {
        if let Some(at) = text.find(needle.as_str()) {
            let line = text[..at].lines().count().saturating_sub(1);
            panic!("{needle} is in {place}: {:?}", text.lines().nth(line));
        }
    }
}

/// Every row of every table of the state, as text.
async fn state(scene: &Scene) -> String {
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'es_index_merge'")
            .fetch_all(scene.pool())
            .await
            .unwrap();
    assert!(tables.len() > 5, "{tables:?}");
    let mut text = String::new();
    for table in tables {
        let query =
            format!("SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM es_index_merge.{table} AS t");
        let rows: String = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(scene.pool()).await.unwrap();
        text.push_str(&rows);
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_logs_output_state_or_arguments() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    scene.fill(&odd_data(&scene)).await;
    let name = format!("secretive_{}", scene.first_id);
    user(scene.source(), &name, SOURCE).await;
    let (_, key) = api_key(scene.destination(), "1h").await;
    let role = format!("CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{POSTGRES}'");
    sqlx::raw_sql(AssertSqlSafe(role)).execute(scene.pool()).await.unwrap();
    let manifest = slowly(&scene.manifest(8));
    let url = manifest.split_once("stringData: {url: \"").unwrap().1.split_once('"').unwrap().0.to_owned();
    let server = url.rsplit_once('@').unwrap().1;
    let good = manifest.replace(&url, &format!("postgresql://{name}:{POSTGRES}@{server}"));
    let folder = Folder::of(&good);
    folder.replace("source", "username", &name);
    folder.replace("source", "password", SOURCE);
    folder.remove("destination", "username");
    folder.remove("destination", "password");
    folder.replace("destination", "api_key", &key);
    let needles = needles(&name, &key);

    // The failing ones first: they say most.
    for (secret, of, value) in [
        ("source", "password", WRONG),
        ("destination", "api_key", "zQ7id:hunter2"),
        ("destination", "api_key", "hunter2 is no key"),
        ("postgres", "url", &format!("postgresql://{name}:{WRONG}@{server}")),
        ("postgres", "url", &format!("postgresql://{name}:hunter2#zQ7@{server}")),
        ("postgres", "url", "mysql://zQ7:hunter2@127.0.0.1/d"),
    ] {
        let before = std::fs::read_to_string(folder.path().join(secret).join(of)).unwrap();
        folder.replace(secret, of, value);
        let (success, output) = start(&folder, "trace").ended().await;
        assert!(!success, "with a wrong {secret}");
        assert_nothing(&needles, &format!("the output with a wrong {secret}"), &output);
        folder.replace(secret, of, &before);
    }
    let in_the_url = manifest.replace("https://127.0.0.1", "https://zQ7:hunter2@127.0.0.1");
    let run = scene.run(&in_the_url).await;
    assert!(!run.success && run.output.contains("must not contain a user name or a password"), "{run:?}");
    assert_nothing(&needles, "the output with a password in the URL", &run.output);
    let malformed = with_secret(&manifest, "source", &[("username", "a"), ("password", "hunter2\nhunter2")]);
    let run = scene.run(&malformed).await;
    assert!(!run.success && run.output.contains("control character"), "{run:?}");
    assert_nothing(&needles, "the output with a malformed secret", &run.output);

    let running = start(&folder, "trace");
    until(&scene, "copying", COPYING).await;
    for file in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{}/{file}", running.pid())).expect("it runs");
        assert_nothing(&needles, file, &String::from_utf8_lossy(&text));
    }
    let change = serde_json::json!({"password": WRONG});
    scene.source().post(&format!("/_security/user/{name}/_password"), &change).await.unwrap();
    running.until_it_says("HTTP 401").await;
    assert_nothing(&needles, "the state", &state(&scene).await);
    folder.replace("source", "password", WRONG);
    let (success, output) = running.ended().await;
    assert!(success);
    assert!(output.contains("TRACE"), "not every line was logged");
    assert_nothing(&needles, "the output of a whole merge", &output);
    assert_nothing(&needles, "the state of a whole merge", &state(&scene).await);
    let drop = format!("REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(scene.pool()).await.unwrap();
}
