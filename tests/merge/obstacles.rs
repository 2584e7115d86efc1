//! What a merge needs and cannot have for a while: it says what it waits for, holds up nobody else, and goes on.

use demo::cluster::Method;
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use testenv::postgres::Postgres;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::late::{crawling, held, is_blocked, wait_for_block, with_late_chunks};
use crate::scene::{DIMENSIONS, Flavor, Scene};
use crate::session::Session;
use crate::shelf::Shelf;

async fn one_shelf(scene: &Scene) -> Shelf<'_> {
    let _tables = Shelf::tables(scene).await;
    let shelf = Shelf::create(scene, scene.first_id, 1).await;
    shelf.put_document(scene.first_id, 6, "there").await;
    shelf
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cutover_begins_while_a_source_cannot_be_read() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let healthy = one_shelf(&scene).await;
    let red = Shelf::row(&scene, scene.first_id + 1).await;
    red.create_index_without_a_place(scene.first_id + 1, 7).await;

    let mut session = Session::start(&scene.manifest(DIMENSIONS)).await;
    session.says("cannot be read now").await;
    scene.wait_for_a_whole_pass().await;
    assert_eq!(healthy.in_destination().await.len(), 6);
    assert_eq!(scene.phase().await.as_deref(), Some("Synced"));
    assert!(!is_blocked(&scene, &healthy.index).await, "a writer is refused for nothing");

    red.give_it_a_place().await;
    assert!(session.end().await.success);
    assert_eq!(red.in_destination().await.len(), 7);
    scene.completes(&scene.manifest(DIMENSIONS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_for_which_there_is_no_node_hold_up_nothing() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    one_shelf(&scene).await;
    let manifest = scene.manifest(DIMENSIONS);
    let with_replicas = manifest.replace("numberOfReplicas: 0", "numberOfReplicas: 2");
    assert_ne!(with_replicas, manifest);
    scene.completes(&with_replicas).await;
    assert_eq!(scene.setting("index.number_of_replicas").await, "2");
}

/// The process dies in the cutover; the next one finds the name of an alias taken.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_the_name_of_an_alias_keeps_no_merge_that_has_begun_from_going_on() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = with_late_chunks(&scene).await;
    let alias = format!("chunks-{}", scene.first_id);
    let named =
        |manifest: String| manifest.replace("  cutover:\n", &format!("  cutover:\n    aliases: [{alias}]\n"));
    let first = Session::start(&named(crawling(&scene, 1, "5m"))).await;
    wait_for_block(&scene, &shelf).await;
    first.kill().await;
    let destination = &scene.destination_cluster;
    destination.put(&format!("/{alias}"), &json!({})).await.unwrap();

    let mut session = Session::start(&named(crawling(&scene, 20, "5m"))).await;
    session.says("is tried again: spec.cutover.aliases").await;
    assert!(!is_blocked(&scene, &shelf.index).await, "writers wait for what a person has to mend");
    assert!(destination.delete_index(&alias).await.unwrap());
    let run = session.end().await;
    assert!(run.success && !run.output.contains("not done within spec.cutover.timeout"), "{run:?}");
    let aliases = destination.get(&format!("/{}/_alias", scene.index)).await.unwrap();
    assert_eq!(aliases[&scene.index]["aliases"], json!({&alias: {}}));
    let verdict = scene.check(DIMENSIONS).await;
    assert!(verdict.is_good(), "{verdict}");
}

async fn a_template_is_named_before_anything_is_copied(destination: Flavor) {
    let scene = Scene::new(Flavor::V8, destination).await;
    let shelf = one_shelf(&scene).await;
    let cluster = &scene.destination_cluster;
    let pipeline = format!("/_ingest/pipeline/{}", scene.index);
    let uppercase = json!({"processors": [{"uppercase": {"field": "content"}}]});
    cluster.put(&pipeline, &uppercase).await.unwrap();

    let template = format!("/_index_template/{}", scene.index);
    let manifest = scene.manifest(DIMENSIONS);
    for (says, told) in [
        (json!({"mappings": {"_source": {"excludes": ["embedding"]}}}), "`_source` is not kept whole"),
        (json!({"mappings": {"_routing": {"required": true}}}), "the mapping requires a `_routing`"),
        (
            json!({"mappings": {"runtime": {"collection_id": {"type": "long"}}}}),
            "the runtime field `collection_id` hides",
        ),
        (json!({"settings": {"index.final_pipeline": scene.index}}), "setting `final_pipeline` is"),
    ] {
        let body = json!({"index_patterns": [scene.index], "template": says});
        cluster.put(&template, &body).await.unwrap();
        let run = scene.run(&manifest).await;
        assert!(!run.success && run.output.contains(told), "{told}: {run:?}");
        assert!(run.output.contains("an index template for its name"), "{run:?}");
        assert!(!scene.exists(&scene.index).await, "{told}: what was made is left behind");
    }
    cluster.require(Method::DELETE, &template, None).await.unwrap();
    scene.completes(&manifest).await;
    assert_eq!(shelf.in_destination().await.len(), 6);
    cluster.require(Method::DELETE, &pipeline, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_has_its_say_in_the_destination_is_named_before_anything_is_copied() {
    a_template_is_named_before_anything_is_copied(Flavor::V9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_has_its_say_is_named_in_the_former_version_too() {
    a_template_is_named_before_anything_is_copied(Flavor::V8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_of_a_data_stream_is_named_and_waited_for_to_go() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = one_shelf(&scene).await;
    let template = format!("/_index_template/{}", scene.index);
    let stream = json!({"index_patterns": [scene.index], "data_stream": {}});
    scene.destination_cluster.put(&template, &stream).await.unwrap();
    let mut session = Session::start(&scene.manifest(DIMENSIONS)).await;
    session.says("creates data streams only").await;
    assert!(!scene.exists(&scene.index).await);

    scene.destination_cluster.require(Method::DELETE, &template, None).await.unwrap();
    let run = session.end().await;
    assert!(run.success, "{run:?}");
    assert_eq!(shelf.in_destination().await.len(), 6);
}

/// An address whose owner may change, as that of a service may.
struct Address {
    url: String,
    leads_to: watch::Sender<String>,
}

impl Address {
    async fn of(server: &str) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (leads_to, now) = watch::channel(server.to_owned());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = now.borrow().trim_start_matches("https://").to_owned();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    // Whoever hangs up ends both ways; there is nobody to tell.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Address { url, leads_to }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_to_another_cluster_is_not_believed() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = one_shelf(&scene).await;
    let address = Address::of(&scene.source_url()).await;
    let manifest = scene.manifest(DIMENSIONS).replacen(&scene.source_url(), &address.url, 1);
    scene.run_until(&held(&manifest), "Synced").await;

    address.leads_to.send_replace(scene.destination_url());
    let astray = scene.manifest_of_another_source(DIMENSIONS);
    let astray = scene.run(&astray.replacen(&scene.destination_url(), &address.url, 1)).await;
    assert!(!astray.success, "{astray:?}");
    assert!(astray.output.contains("but this merge began with cluster"), "{astray:?}");
    assert_eq!(shelf.in_destination().await.len(), 6);

    address.leads_to.send_replace(scene.source_url());
    scene.completes(&manifest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_read_ends_it_and_is_not_written_over() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = one_shelf(&scene).await;
    let manifest = scene.manifest(DIMENSIONS);
    scene.run_until(&held(&manifest), "Synced").await;
    let stored = async || -> String {
        sqlx::query_scalar("SELECT memo::text FROM es_index_merge.merge")
            .fetch_one(&scene.pool)
            .await
            .unwrap()
    };
    let store = async |memo: &str| {
        let update = "UPDATE es_index_merge.merge SET memo = $1::jsonb";
        sqlx::query(update).bind(memo).execute(&scene.pool).await.unwrap();
    };
    // As if a later version had written it.
    let memo = stored().await;
    let unknown = memo.replacen("\"graph\": ", "\"graph\": {\"Quantised\": 2}, \"before\": ", 1);
    assert_ne!(unknown, memo);
    store(&unknown).await;
    let refused = scene.run(&manifest).await;
    assert!(!refused.success, "{refused:?}");
    assert!(
        refused.output.contains("the stored memo cannot be read: unknown variant `Quantised`"),
        "{refused:?}"
    );
    assert_eq!(stored().await, unknown);
    assert_eq!(shelf.in_destination().await.len(), 6);

    store(&memo).await;
    scene.completes(&manifest).await;
}

/// The state is in another database, so that only the application's is away.
#[tokio::test(flavor = "multi_thread")]
async fn the_applications_database_may_be_away_for_a_while() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let shelf = one_shelf(&scene).await;
    let state =
        tokio::task::spawn_blocking(|| Postgres::shared().unwrap().database().unwrap()).await.unwrap();
    let apart = |manifest: String| {
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: state}}\nstringData: {{url: \"{}\"}}\n---\n",
            state.url
        );
        let named = "  state: {postgres: {urlSecretRef: {name: state, key: url}}}\n  contract:";
        secret + &manifest.replace("  contract:", named)
    };
    let elsewhere = PgPoolOptions::new().max_connections(1).connect(&state.url).await.unwrap();
    let mut session = Session::start(&apart(held(&scene.manifest(DIMENSIONS)))).await;
    let phase = "SELECT count(*) FROM es_index_merge.merge WHERE phase = 'Synced'";
    scene
        .wait_for("Synced", async || {
            let synced: Result<i64, _> = sqlx::query_scalar(phase).fetch_one(&elsewhere).await;
            (synced.unwrap_or(0) == 1).then_some(())
        })
        .await;

    let name = scene.database_name();
    let allow = async |allowed: bool| {
        let statement = format!("ALTER DATABASE \"{name}\" WITH ALLOW_CONNECTIONS {allowed}");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&elsewhere).await.unwrap();
    };
    allow(false).await;
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
        .bind(&name)
        .execute(&elsewhere)
        .await
        .unwrap();
    session.says("spec.collections").await;
    allow(true).await;
    shelf.put_document(scene.first_id + 1, 5, "after it").await;
    scene
        .wait_for("the chunks that came after it", async || {
            (shelf.in_destination().await.len() == 11).then_some(())
        })
        .await;
    session.stop().await;
    scene.completes(&apart(scene.manifest(DIMENSIONS))).await;
    elsewhere.close().await;
}
