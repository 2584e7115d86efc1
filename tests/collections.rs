//! The application's Postgres, on a real server, in the shapes of several releases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use es_index_merge::collections::{Category, CollectionRow, Collections, DocumentColumns, DocumentRow};
use jiff::Timestamp;
use secrecy::SecretString;
use support::pooler::Pooler;
use support::replica::Server;
use support::{Database, run};

/// As the application's migrations make them, with an enum whose labels changed between releases.
const TABLES: &str = "
    CREATE TYPE visibility AS ENUM ('PRIVATE', 'PUBLIC');
    CREATE TABLE collection (
        id serial PRIMARY KEY, user_id integer, name varchar NOT NULL, description varchar,
        visibility visibility NOT NULL DEFAULT 'PRIVATE',
        created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
    CREATE TABLE document (
        id serial PRIMARY KEY, collection_id integer REFERENCES collection ON DELETE CASCADE,
        name varchar NOT NULL, created_at timestamptz DEFAULT now());";

async fn with_tables(statements: &str) -> Database {
    let database = Database::new().await;
    database.run(statements).await;
    database
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn known(name: bool, created: bool) -> DocumentColumns {
    DocumentColumns { name, created }
}

#[tokio::test]
async fn lists_collections_and_finds_the_documents_that_exist() {
    let database = with_tables(TABLES).await;
    database
        .run(
            "INSERT INTO collection (id, name) VALUES (7, 'lois'), (3, 'thèses');
             INSERT INTO document (id, collection_id, name, created_at) VALUES
                 (11, 7, 'code civil.pdf', '2024-02-29 13:00:00.123456+01'), (12, 7, 'vide', NULL)",
        )
        .await;
    let collections = Collections::connect(&database.url()).await.unwrap();
    assert_eq!(collections.documents_known(), known(true, true));
    let row = |id, name: &str| CollectionRow { id, name: Some(name.to_owned()) };
    assert_eq!(collections.list().await.unwrap(), [row(3, "thèses"), row(7, "lois")]);
    let found = collections.documents(&[11, 12, 13, 11, i64::MAX, -1]).await.unwrap();
    assert_eq!(found.len(), 2);
    let created = Some(at("2024-02-29T12:00:00.123456Z"));
    assert_eq!(found[&11], DocumentRow { name: Some("code civil.pdf".to_owned()), created });
    assert_eq!(found[&12], DocumentRow { name: Some("vide".to_owned()), created: None });
    assert!(collections.documents(&[]).await.unwrap().is_empty());
    collections.ping().await.unwrap();
}

#[tokio::test]
async fn dates_have_several_names_and_types_and_those_without_zone_are_utc() {
    let expected = Some(at("2023-05-06T07:08:09Z"));
    for (column, kind, value, expected) in [
        ("created", "timestamp", "'2023-05-06 07:08:09'", expected),
        ("created_at", "timestamp", "'2023-05-06 07:08:09'", expected),
        ("created", "timestamptz", "'2023-05-06 09:08:09+02'", expected),
        ("created", "date", "'2023-05-06'", Some(at("2023-05-06T00:00:00Z"))),
        ("created_at", "timestamp", "'infinity'", None),
        ("created_at", "timestamptz", "'200000-01-01 00:00:00+00'", None),
        ("created_at", "timestamptz", "'0044-03-15 00:00:00+00 BC'", Some(at("-000043-03-15T00:00:00Z"))),
    ] {
        let tables = format!(
            "CREATE TABLE collection (id bigint);
             CREATE TABLE document (id bigint, name text, {column} {kind});
             INSERT INTO document VALUES (1, 'a', {value})"
        );
        let database = with_tables(&tables).await;
        // The server's own zone must not matter.
        database.run("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Asia/Tokyo''', current_database()); END $$").await;
        let collections = Collections::connect(&database.url()).await.unwrap();
        assert_eq!(collections.documents_known(), known(true, true));
        let found = collections.documents(&[1]).await.unwrap();
        assert_eq!(found[&1].created, expected, "{column} {kind} {value}");
    }
}

#[tokio::test]
async fn needs_only_the_ids_of_collections() {
    let database =
        with_tables("CREATE TABLE collection (id integer); INSERT INTO collection VALUES (5)").await;
    let collections = Collections::connect(&database.url()).await.unwrap();
    assert_eq!(collections.documents_known(), known(false, false));
    assert_eq!(collections.list().await.unwrap(), [CollectionRow { id: 5, name: None }]);
    assert!(collections.documents(&[1, 2]).await.unwrap().is_empty());
}

#[tokio::test]
async fn columns_that_are_no_dates_are_left_alone() {
    let database = with_tables(
        "CREATE TABLE collection (id integer);
         CREATE TABLE document (id integer, created_at bigint, name varchar(20));
         INSERT INTO document VALUES (1, 170000, NULL)",
    )
    .await;
    let collections = Collections::connect(&database.url()).await.unwrap();
    assert_eq!(collections.documents_known(), known(true, false));
    let found = collections.documents(&[1]).await.unwrap();
    assert_eq!(found[&1], DocumentRow { name: None, created: None });
}

#[tokio::test]
async fn the_tables_are_found_by_the_search_path_of_the_user() {
    let database = with_tables(
        "CREATE SCHEMA albert; CREATE TABLE albert.collection (id integer); INSERT INTO albert.collection VALUES (8)",
    )
    .await;
    let error = Collections::connect(&database.url()).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Missing, false), "{error}");
    assert!(error.remedy().contains("search_path"), "{}", error.remedy());
    let url = SecretString::from(format!("{}?options=-c%20search_path%3Dalbert", database.text()));
    assert_eq!(Collections::connect(&url).await.unwrap().list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_view_is_as_good_as_a_table() {
    let database = with_tables(
        "CREATE TABLE everything (id bigint, label text);
         INSERT INTO everything VALUES (1, 'one');
         CREATE VIEW collection AS SELECT id, label AS name FROM everything",
    )
    .await;
    let collections = Collections::connect(&database.url()).await.unwrap();
    assert_eq!(collections.list().await.unwrap(), [CollectionRow { id: 1, name: Some("one".to_owned()) }]);
}

#[tokio::test]
async fn a_user_who_may_only_read_is_enough() {
    let database = with_tables(TABLES).await;
    database.run("INSERT INTO collection (id, name) VALUES (1, 'a')").await;
    let user = database.user().await;
    database.run(&format!("GRANT SELECT ON collection, document TO {user}")).await;
    let url = database.url_for("postgresql+asyncpg", &user, "hunter2");
    let collections = Collections::connect(&url).await.unwrap();
    assert_eq!(collections.documents_known(), known(true, true));
    assert_eq!(collections.list().await.unwrap().len(), 1);
    database.drop_user(&user).await;
}

#[tokio::test]
async fn a_missing_right_is_named_and_is_not_taken_for_a_missing_column() {
    let database = with_tables(TABLES).await;
    let user = database.user().await;
    let url = database.url_for("postgresql", &user, "hunter2");
    let error = Collections::connect(&url).await.unwrap_err();
    assert_eq!(error.category(), Category::Forbidden, "{error}");
    assert!(error.remedy().contains("GRANT SELECT ON collection"), "{}", error.remedy());
    // Column by column is enough, but each that is wanted and exists.
    database.run(&format!("GRANT SELECT (id, name) ON collection TO {user}")).await;
    database.run(&format!("GRANT SELECT (id, name) ON document TO {user}")).await;
    let error = Collections::connect(&url).await.unwrap_err();
    assert!(error.to_string().contains("`created_at` of table `document`"), "{error}");
    database.run(&format!("GRANT SELECT (created_at) ON document TO {user}")).await;
    let collections = Collections::connect(&url).await.unwrap();
    assert!(collections.documents(&[1]).await.unwrap().is_empty());
    database.drop_user(&user).await;
}

#[tokio::test]
async fn rows_that_a_policy_would_hide_are_an_error_and_not_an_absence() {
    let database = with_tables(TABLES).await;
    database.run("INSERT INTO collection (id, name) VALUES (1, 'shown'), (2, 'hidden')").await;
    let user = database.user().await;
    database.run(&format!("GRANT SELECT ON collection, document TO {user}")).await;
    let url = database.url_for("postgresql", &user, "hunter2");
    let before = Collections::connect(&url).await.unwrap();
    assert_eq!(before.list().await.unwrap().len(), 2);

    database.run("CREATE POLICY shown ON collection USING (id = 1)").await;
    database.run("ALTER TABLE collection ENABLE ROW LEVEL SECURITY").await;
    let of_collections = [before.list().await.unwrap_err(), Collections::connect(&url).await.unwrap_err()];
    database.run("ALTER TABLE collection DISABLE ROW LEVEL SECURITY").await;
    database.run("ALTER TABLE document ENABLE ROW LEVEL SECURITY").await;
    let of_documents =
        [before.documents(&[1]).await.unwrap_err(), Collections::connect(&url).await.unwrap_err()];
    for error in of_collections.into_iter().chain(of_documents) {
        assert_eq!((error.category(), error.is_transient()), (Category::Forbidden, false), "{error}");
        assert!(error.remedy().contains("BYPASSRLS"), "{error}; {}", error.remedy());
    }
    assert_eq!(before.list().await.unwrap().len(), 2);
    // Its owner sees every row.
    assert_eq!(Collections::connect(&database.url()).await.unwrap().list().await.unwrap().len(), 2);
    database.drop_user(&user).await;
}

#[tokio::test]
async fn another_applications_database_is_incompatible() {
    for (tables, said) in [
        ("CREATE TABLE collection (name text)", "no column `id`"),
        ("CREATE TABLE collection (id uuid)", "of type uuid"),
    ] {
        let database = with_tables(tables).await;
        let error = Collections::connect(&database.url()).await.unwrap_err();
        assert_eq!((error.category(), error.is_transient()), (Category::Incompatible, false), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn the_sessions_refuse_to_write() {
    // A view that writes when it is read is the only way to try from outside.
    let database = with_tables(
        "CREATE TABLE seen (id bigint);
         CREATE FUNCTION look() RETURNS bigint LANGUAGE sql VOLATILE AS 'INSERT INTO seen VALUES (1) RETURNING id';
         CREATE VIEW collection AS SELECT look() AS id",
    )
    .await;
    let collections = Collections::connect(&database.url()).await.unwrap();
    let error = collections.list().await.unwrap_err();
    assert!(error.to_string().contains("25006"), "{error}");
    assert!(error.remedy().contains("views that only read"), "{}", error.remedy());
    assert_eq!(database.number("SELECT count(*) FROM seen").await, 0);
}

#[tokio::test]
async fn reads_five_thousand_collections_and_more_documents_than_one_statement_asks_for() {
    let database = with_tables(TABLES).await;
    database
        .run(
            "INSERT INTO collection (id, name) SELECT n, 'collection ' || n FROM generate_series(1, 5000) n;
             INSERT INTO document (id, collection_id, name) SELECT n, n % 5000 + 1, 'd' || n FROM generate_series(1, 25000) n",
        )
        .await;
    let collections = Collections::connect(&database.url()).await.unwrap();
    let rows = collections.list().await.unwrap();
    assert_eq!(rows.len(), 5_000);
    assert!(rows.windows(2).all(|pair| pair[0].id < pair[1].id));
    let ids: Vec<i64> = (-100..30_000).collect();
    let found = collections.documents(&ids).await.unwrap();
    assert_eq!(found.len(), 25_000);
    assert!(found.iter().all(|(id, row)| row.name.as_deref() == Some(&format!("d{id}"))));
}

#[tokio::test]
async fn goes_on_after_its_connections_were_killed() {
    let database = with_tables(TABLES).await;
    let collections = Collections::connect(&database.url()).await.unwrap();
    assert!(collections.list().await.unwrap().is_empty());
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'es-index-merge collections'";
    assert!(database.number(kill).await > 0);
    assert!(collections.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_wrong_password_is_unauthorized() {
    let database = with_tables(TABLES).await;
    let user = database.user().await;
    let error =
        Collections::connect(&database.url_for("postgresql", &user, "s3cret-wrong")).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Unauthorized, false), "{error}");
    assert!(!format!("{error} {error:?}").contains("s3cret"));
    database.drop_user(&user).await;
}

#[tokio::test]
async fn a_pooler_that_hands_sessions_on_is_refused_before_anything_is_set() {
    let database = with_tables(TABLES).await;
    let pooler = Pooler::start(&database).await;
    let error = Collections::connect(&pooler.url()).await.unwrap_err();
    assert_eq!((error.category(), error.is_transient()), (Category::Invalid, false), "{error}");
    assert!(error.to_string().contains("from client to client"), "{error}");
    assert!(error.remedy().contains("pool_mode = session"), "{}", error.remedy());
    // The next client has the same session, as it would have been without us.
    assert_eq!(pooler.text("SHOW default_transaction_read_only").await, "off");
    assert_eq!(pooler.text("SELECT current_setting('es_index_merge.probe')").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_refused_until_it_is_the_primary() {
    let server = Server::start();
    let database = &server.database;
    database.run(TABLES).await;
    let collections = Collections::connect(&database.url()).await.unwrap();
    assert!(collections.list().await.unwrap().is_empty());

    // It has no collection, so that nothing but the server itself can say what it is.
    server.become_replica();
    for error in [
        Collections::connect(&database.url()).await.unwrap_err(),
        collections.list().await.unwrap_err(),
        collections.documents(&[1]).await.unwrap_err(),
    ] {
        assert_eq!((error.category(), error.is_transient()), (Category::Unreachable, true), "{error}");
        assert!(error.to_string().contains("is a replica"), "{error}");
        assert!(error.remedy().contains("-rw"), "{}", error.remedy());
    }

    server.become_primary();
    database.run("INSERT INTO collection (id, name) VALUES (1, 'a')").await;
    assert_eq!(collections.list().await.unwrap().len(), 1);
    assert_eq!(Collections::connect(&database.url()).await.unwrap().list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn names_are_read_in_every_encoding_and_none_stops_the_others() {
    let database = Database::new().await;
    let insert = "INSERT INTO collection (id, name) VALUES (1, 'thèses'), (2, NULL);
                  INSERT INTO document (id, name) VALUES (1, 'thèses'), (2, NULL)";
    // What another client wrote in Latin 1 is not UTF-8; without an encoding nobody converts it.
    let latin = r"INSERT INTO collection (id, name) VALUES (3, convert_from('\x7468e8736573', 'SQL_ASCII'));
                  INSERT INTO document (id, name) VALUES (3, convert_from('\x7468e8736573', 'SQL_ASCII'))";
    let names = [Some("thèses"), None, Some("th\u{FFFD}ses")];
    for (encoding, statements, expected) in [
        ("UTF8", vec![insert], &names[..2]),
        ("LATIN1", vec![insert], &names[..2]),
        ("SQL_ASCII", vec![insert, latin], &names[..]),
    ] {
        let other = format!("encoding_{}", uuid::Uuid::new_v4().simple());
        let create = format!("CREATE DATABASE {other} TEMPLATE template0 LOCALE 'C' ENCODING '{encoding}'");
        database.run(&create).await;
        let url = database.text_of(&other);
        let mut connection = support::connect(&url).await;
        run(&mut connection, "CREATE TABLE collection (id integer, name text)").await;
        run(&mut connection, "CREATE TABLE document (id integer, name text)").await;
        for statement in statements {
            run(&mut connection, statement).await;
        }
        let collections = Collections::connect(&SecretString::from(url)).await.unwrap();
        let listed = collections.list().await.unwrap();
        let listed: Vec<_> = listed.iter().map(|row| row.name.as_deref()).collect();
        assert_eq!(listed, expected, "{encoding}");
        let documents = collections.documents(&[1, 2, 3]).await.unwrap();
        assert_eq!(documents.len(), expected.len(), "{encoding}");
        for (id, name) in (1_i64..).zip(expected) {
            assert_eq!(documents[&id].name.as_deref(), *name, "{encoding}");
        }
        collections.close().await;
        database.run(&format!("DROP DATABASE {other} WITH (FORCE)")).await;
    }
}
