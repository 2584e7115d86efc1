//! Postgres with its certificate verified, and collections in a database that may only be read.

use testenv::postgres::Postgres;

use crate::scene::{Flavor, Scene};
use crate::{indented, odd_data};

#[tokio::test(flavor = "multi_thread")]
async fn collections_may_be_read_only_and_every_certificate_is_verified() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    scene.fill(&odd_data(&scene)).await;
    let (state, ca) = tokio::task::spawn_blocking(|| {
        let server = Postgres::shared().unwrap();
        (server.database().unwrap(), std::fs::read_to_string(server.ca.as_ref().expect("TLS")).unwrap())
    })
    .await
    .unwrap();
    let reader = format!("reader_{}", scene.first_id);
    let grants = format!(
        "CREATE ROLE {reader} LOGIN PASSWORD 'only-reads'; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
         GRANT SELECT ON collection, document TO {reader}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(grants)).execute(scene.pool()).await.unwrap();

    let manifest = scene.manifest(8);
    let url = manifest.split_once("stringData: {url: \"").unwrap().1.split_once('"').unwrap().0.to_owned();
    let (_, server) = url.rsplit_once('@').unwrap();
    let read_only = format!("postgresql+asyncpg://{reader}:only-reads@{server}?sslmode=verify-full");
    let authority: String = indented(&ca);
    let secrets =
        format!("stringData:\n  url: \"{read_only}\"\n  state: \"{}\"\n  ca.crt: |{authority}\n", state.url);
    let manifest = manifest.replace(&format!("stringData: {{url: \"{url}\"}}\n"), &secrets);
    let verified = manifest
        .replace(
            "urlSecretRef: {name: postgres, key: url}",
            "urlSecretRef: {name: postgres, key: url}\n      caSecretRef: {name: postgres, key: ca.crt}",
        )
        .replace(
            "contract: OpenGateLLM",
            "contract: OpenGateLLM\n  state:\n    postgres:\n      urlSecretRef: {name: postgres, key: state}\n      caSecretRef: {name: postgres, key: ca.crt}",
        );

    let unknown =
        verified.replace("      caSecretRef: {name: postgres, key: ca.crt}\n  source:", "  source:");
    let plan = scene.command("plan", &unknown).await;
    assert!(!plan.success && plan.output.contains("spec.collections.postgres"), "{plan:?}");
    let alone = verified.replace("key: state}", "key: url}");
    let run = scene.run(&alone).await;
    assert!(!run.success && run.output.contains("set spec.state.postgres to a database"), "{run:?}");

    let run = scene.run(&verified).await;
    assert!(run.success, "{run:?}");
    assert!(!scene.state_exists().await, "something was written beside the collections");
    let verdict = scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
    let drop = format!("DROP OWNED BY {reader}; DROP ROLE {reader}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(scene.pool()).await.unwrap();
}
