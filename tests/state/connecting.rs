use std::time::Duration;

use es_index_merge::state::{Category, DEFAULT_SCHEMA, State};
use secrecy::SecretString;

use crate::fixture::{Fixture, LEASE, SCHEMA, advance, claimed};
use crate::support::Database;
use crate::support::pooler::Pooler;
use crate::support::replica::Server;

#[tokio::test]
async fn many_processes_may_migrate_at_once() {
    let database = Database::new().await;
    let tasks: Vec<_> = (0..5)
        .map(|_| {
            let url = database.url();
            tokio::spawn(async move { State::connect(&url, DEFAULT_SCHEMA).await.map(drop) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let query = format!("SELECT count(*) FROM {DEFAULT_SCHEMA}._sqlx_migrations");
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
    assert_eq!(database.number(&query).await, i64::try_from(files).unwrap(), "each once");
}

#[tokio::test]
async fn two_schemas_of_one_database_know_nothing_of_each_other() {
    let database = Database::new().await;
    let first = State::connect(&database.url(), "first").await.unwrap();
    // A word of SQL is a fine name too.
    let second = State::connect(&database.url(), "user").await.unwrap();
    let merge = claimed(&first, "shop/albert", "opengatellm").await;
    let other = claimed(&second, "shop/berta", "opengatellm").await;
    assert_ne!(merge, other);
    assert!(second.merge(merge).await.unwrap().is_none());
    assert_eq!(database.number("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, 0);
}

#[tokio::test]
async fn takes_the_urls_of_applications() {
    let database = Database::new().await;
    let url = database.text().replacen("postgresql://", "postgresql+asyncpg://", 1);
    let url = SecretString::from(format!("{url}?ssl=disable&prepared_statement_cache_size=0\n"));
    State::connect(&url, SCHEMA).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn a_user_who_may_not_create_schemas_is_told_what_to_do() {
    let database = Database::new().await;
    let user = database.user().await;
    let url = database.url_for("postgresql", &user, "hunter2");
    let error = State::connect(&url, SCHEMA).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Forbidden, false), "{error}");
    assert!(error.remedy().contains("spec.state.postgres"), "{}", error.remedy());
    assert!(error.remedy().contains("CREATE SCHEMA \"merge_state\" AUTHORIZATION"), "{}", error.remedy());
    // The second way out of the remedy works.
    database.run(&format!("CREATE SCHEMA {SCHEMA} AUTHORIZATION {user}")).await;
    State::connect(&url, SCHEMA).await.unwrap();
    database.drop_user(&user).await;
}

#[tokio::test]
async fn a_user_who_may_only_use_the_tables_can_use_a_migrated_schema() {
    let fixture = Fixture::new().await;
    let user = fixture.database.user().await;
    let rights = format!(
        "GRANT USAGE ON SCHEMA {SCHEMA} TO {user};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {user}"
    );
    fixture.database.run(&rights).await;
    let url = fixture.database.url_for("postgresql", &user, "hunter2");
    let state = State::connect(&url, SCHEMA).await.unwrap();
    claimed(&state, "shop/berta", "another").await;
    fixture.database.drop_user(&user).await;
}

#[tokio::test]
async fn a_wrong_password_is_unauthorized_and_is_never_shown() {
    let database = Database::new().await;
    let user = database.user().await;
    let url = database.url_for("postgresql", &user, "s3cret-but-wrong");
    let error = State::connect(&url, SCHEMA).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Unauthorized, false), "{error}");
    let shown = format!("{error} {error:?} {}", error.remedy());
    assert!(!shown.contains("s3cret"), "{shown}");
    database.drop_user(&user).await;
}

#[tokio::test]
async fn a_missing_database_a_closed_port_and_a_bad_schema_are_told_apart() {
    let database = Database::new().await;
    let missing = SecretString::from(format!("{}_not", database.text()));
    let error = State::connect(&missing, SCHEMA).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Missing, false), "{error}");

    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = SecretString::from(format!("postgresql://u:p@127.0.0.1:{port}/d"));
    let started = std::time::Instant::now();
    let error = State::connect(&closed, SCHEMA).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Unreachable, true), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "a refusal is known at once");

    let error = State::connect(&database.url(), "x; DROP TABLE y").await.unwrap_err();
    assert_eq!(error.category(), Category::Invalid, "{error}");
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgresql://u:p@{}/d", listener.local_addr().unwrap());
    let error = State::connect(&SecretString::from(url), SCHEMA).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Unreachable, true), "{error}");
}

#[tokio::test]
async fn a_pooler_that_hands_sessions_on_is_refused_before_anything_is_set() {
    let database = Database::new().await;
    let pooler = Pooler::start(&database).await;
    for error in [
        State::connect(&pooler.url(), SCHEMA).await.unwrap_err(),
        State::connect_existing(&pooler.url(), SCHEMA).await.unwrap_err(),
    ] {
        assert_eq!((error.category(), error.is_transient()), (Category::Invalid, false), "{error}");
        assert!(error.to_string().contains("from client to client"), "{error}");
        assert!(error.remedy().contains("pool_mode = session"), "{}", error.remedy());
    }
    // The next client has the same session, as it would have been without us.
    let search_path = pooler.text("SHOW search_path").await;
    assert!(!search_path.contains(SCHEMA), "{search_path}");
    assert_eq!(pooler.text("SHOW statement_timeout").await, "0");
    assert_eq!(database.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'merge_state'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_became_a_replica_is_transient_and_named() {
    let server = Server::start();
    let url = server.database.url();
    let state = State::connect(&url, SCHEMA).await.unwrap();
    let merge = claimed(&state, "shop/albert", "opengatellm").await;
    server.become_replica();
    let error = state.take_step(merge, "process", LEASE).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Unreachable, true), "{error}");
    assert!(error.to_string().contains("25006"), "{error}");
    assert!(error.remedy().contains("primary"), "{}", error.remedy());
    // What is there can be read.
    assert!(State::connect_existing(&url, SCHEMA).await.unwrap().merge(merge).await.unwrap().is_some());
    server.become_primary();
    assert!(state.take_step(merge, "process", LEASE).await.unwrap());
}

#[tokio::test]
async fn a_schema_of_a_newer_or_a_changed_version_is_refused() {
    let fixture = Fixture::new().await;
    let url = fixture.database.url();
    fixture.sql("UPDATE _sqlx_migrations SET checksum = 'changed'").await;
    let error = State::connect(&url, SCHEMA).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Incompatible, false), "{error}");
    fixture.sql("INSERT INTO _sqlx_migrations VALUES (9999, 'future', now(), true, 'x', 1)").await;
    let error = State::connect(&url, SCHEMA).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Incompatible, false), "{error}");
    assert!(error.to_string().contains("9999"), "{error}");
}

#[tokio::test]
async fn goes_on_after_its_connections_were_killed() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let units = fixture.lease("a").await;
    kill_sessions(&fixture).await;
    // The pool notices and connects anew: nothing to see for the caller.
    let accepted =
        fixture.state.checkpoint(fixture.merge, &[advance(&units[0], 40)], &[], &[]).await.unwrap();
    assert_eq!(accepted.len(), 1);
    assert_eq!(fixture.state.renew(&[(units[0].id, units[0].epoch)], LEASE).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_that_is_cut_off_is_transient_and_may_be_made_again() {
    let fixture = Fixture::new().await;
    fixture.one_unit(100).await;
    let units = fixture.lease("a").await;
    // Someone holds the row, so the checkpoint waits inside the server.
    let mut holder = fixture.database.connect().await;
    let hold = format!("BEGIN; SELECT FROM {SCHEMA}.unit FOR UPDATE");
    crate::support::run(&mut holder, &hold).await;
    let (state, merge, step) = (fixture.state.clone(), fixture.merge, advance(&units[0], 40));
    let call = tokio::spawn(async move { state.checkpoint(merge, &[step], &[], &[]).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while fixture.database.number(waiting).await == 0 {
        tokio::task::yield_now().await;
    }
    kill_sessions(&fixture).await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Unreachable, true), "{error}");
    crate::support::run(&mut holder, "ROLLBACK").await;
    let accepted = fixture.state.checkpoint(fixture.merge, &[step], &[], &[]).await.unwrap();
    assert_eq!(accepted.len(), 1);
    assert_eq!(fixture.state.totals(fixture.merge).await.unwrap().copy.counts.documents, 40);
}

async fn kill_sessions(fixture: &Fixture) {
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'es-index-merge'";
    assert!(fixture.database.number(kill).await > 0);
}
