//! What may go wrong around the operator: it dies at the worst moment, its secrets change, what must be put back cannot
//! be reached.

use std::time::Duration;

use demo::seed::odd;
use es_index_merge::api::EsIndexMergeStatus;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};

use crate::operator::{NAME, Operator, PATIENCE, SOON};
use crate::scene::Flavor;
use crate::{assert_whole, condition, has_finalizer, in_the_middle, odd_data, write_again};

/// So slow that it is met in the middle.
const SLOWLY: &str = "contract: OpenGateLLM\n  workers: {maxDocumentsPerSecond: 60, maxBytesInFlight: 1Mi}";

pub fn slowly(manifest: &str) -> String {
    manifest.replace("contract: OpenGateLLM", SLOWLY)
}

/// The document of the manifest with that secret.
pub fn secret(manifest: &str, name: &str) -> String {
    let marked = format!("metadata: {{name: {name}}}");
    manifest.split("\n---\n").find(|part| part.contains(&marked)).expect("the secret").to_owned()
}

/// Claims that are held.
pub async fn claims(operator: &Operator) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM es_index_merge.merge WHERE released_at IS NULL")
        .fetch_one(&mut operator.database().await)
        .await
        .unwrap()
}

/// A merge whose checks are all passed: it has its finalizer, and waits for its claim until the lock ends.
async fn before_the_claim<'a>(
    operator: &Operator,
    connection: &'a mut PgConnection,
) -> Transaction<'a, Postgres> {
    let manifest = operator.scene.manifest(8);
    let source = secret(&manifest, "source");
    // The schema of the state comes with the first attempt, the claim only when every check is passed.
    let wrong = source.replace(&operator.scene.source_password(), "wrong");
    operator.apply(&manifest.replace(&source, &wrong)).await;
    let refused = operator.until_reason(NAME, "ChecksFailed", SOON).await;
    assert!(!has_finalizer(&refused), "nothing is held");

    let mut claiming = connection.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE es_index_merge.merge IN EXCLUSIVE MODE").execute(&mut *claiming).await.unwrap();
    operator.apply(&source).await;
    let waiting = async {
        while !has_finalizer(&operator.get(NAME).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("the finalizer comes before the claim");
    claiming
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_finalizer_and_the_claim_leaves_nothing_behind() {
    let mut operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    let mut connection = operator.database().await;
    let claiming = before_the_claim(&operator, &mut connection).await;
    operator.kill_9().await;
    claiming.rollback().await.unwrap();
    assert_eq!(claims(&operator).await, 0);

    operator.delete(NAME).await;
    operator.start();
    operator.until_gone(NAME, SOON).await;
    assert_eq!(claims(&operator).await, 0, "the next merge waits for nobody");
}

/// The checks found no such index, and the merge has not made its own yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_somebody_makes_after_the_checks_is_named_left_alone_and_waited_for_to_go() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    let mut connection = operator.database().await;
    let claiming = before_the_claim(&operator, &mut connection).await;
    let index = &operator.scene.index;
    let destination = operator.scene.destination();
    let other = json!({"mappings": {"properties": {"content": {"type": "keyword"}}}});
    destination.put(&format!("/{index}"), &other).await.unwrap();
    let words = json!({"content": "somebody else's words"});
    destination.post(&format!("/{index}/_doc?refresh=true"), &words).await.unwrap();
    claiming.rollback().await.unwrap();

    let seen = operator.until_reason(NAME, "DestinationMismatch", SOON).await;
    let status = seen.status.as_ref().unwrap();
    assert_eq!(condition(status, "Stalled").0, "True", "a person has to decide: {status:#?}");
    let (failing, _, message) = condition(status, "Failing");
    assert_eq!(failing, "True");
    for part in ["spec.destination.index: field `content` is of type \"keyword\"", "delete that index"] {
        assert!(message.contains(part), "{part} is not told: {message}");
    }
    let events = operator.kubectl(&["get", "events", "-n", &operator.namespace, "-o", "json"], "").await;
    assert!(events.contains("\"reason\": \"DestinationMismatch\""), "{events}");
    // Nothing of a load is on it.
    assert_eq!(operator.scene.setting("index.refresh_interval").await, json!(null));
    let aliases = destination.get(&format!("/{index}/_alias")).await.unwrap();
    assert_eq!(aliases[index]["aliases"], json!({}));
    assert_eq!(destination.get(&format!("/{index}/_count")).await.unwrap()["count"], 1);

    operator.scene.delete(index).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;
    assert_whole(&operator.scene).await;
}

/// The API server takes for an address of version 6 whatever looks like one.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_controller_can_refuse_is_a_condition_that_names_the_field() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    let manifest = operator.scene.manifest(8);
    let source = operator.scene.source_url();
    operator
        .apply(&manifest.replacen(&format!("url: \"{source}\""), "url: \"http://[1::2::3]:9200\"", 1))
        .await;
    let refused = operator.until_reason(NAME, "InvalidSpec", SOON).await;
    let status = refused.status.as_ref().expect("a status");
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(condition(status, "Stalled").0, "True");
    let (_, _, message) = condition(status, "Failing");
    assert!(message.contains("spec.source.url: address 1 is not a URL"), "{message}");
    assert!(!message.contains("1::2::3"), "it might hold a password: {message}");
    assert!(!has_finalizer(&refused), "nothing is held");

    // Nobody looks at it again but because it is gone.
    let labels = format!("{{namespace=\"{}\",name=\"{NAME}\",reason=\"InvalidSpec\"}}", operator.namespace);
    let failing = format!("es_index_merge_failing{labels} 1");
    assert!(operator.page("/metrics").await.contains(&failing));
    operator.delete(NAME).await;
    operator.until_gone(NAME, SOON).await;
    let forgetting = async {
        while operator.page("/metrics").await.contains(&failing) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, forgetting).await.expect("what is gone fails no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_replaced_is_taken_while_the_merge_runs() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    let options = odd::Options { documents: 20, chunks: 40, ..odd_data(&operator.scene) };
    operator.scene.fill(&options).await;
    let user = format!("operated-{}", operator.scene.first_id);
    let body = json!({"password": "the first password", "roles": ["superuser"]});
    operator.scene.source().put(&format!("/_security/user/{user}"), &body).await.unwrap();
    let manifest = slowly(&operator.scene.manifest(8));
    let source = secret(&manifest, "source");
    let with = |password: &str| {
        let lines = source.lines().map(|line| match line.split_once(':') {
            Some(("  username", _)) => format!("  username: {user}"),
            Some(("  password", _)) => format!("  password: {password}"),
            _ => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    operator.apply(&manifest.replace(&source, &with("the first password"))).await;
    let copying = |status: &EsIndexMergeStatus| status.phase.as_deref() == Some("Copying");
    operator.until(NAME, SOON, "copying", copying).await;
    in_the_middle(&operator).await;

    let new = json!({"password": "the second password"});
    operator.scene.source().post(&format!("/_security/user/{user}/_password"), &new).await.unwrap();
    let refused = |status: &EsIndexMergeStatus| {
        let message = condition(status, "Ready").2;
        message.contains("HTTP 401") && message.contains("check the username and password")
    };
    let seen = operator.until(NAME, PATIENCE, "refused", refused).await.status.unwrap();
    assert!(
        ["UnitsFailing", "ChecksFailed", "SourceUnavailable"].contains(&condition(&seen, "Ready").1),
        "{seen:#?}"
    );
    operator.apply(&with("the second password")).await;
    let faster = json!({ "spec": { "workers": { "maxDocumentsPerSecond": null } } });
    operator.patch(NAME, faster).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;
    assert_whole(&operator.scene).await;
    let path = format!("/_security/user/{user}");
    operator.scene.source().send("DELETE".parse().unwrap(), &path, "", None).await.unwrap();
}

/// Gives a role of Postgres its second password. Sessions outlive a password: only who connects anew needs the new one.
async fn replace_password(operator: &Operator, role: &str) {
    for statement in [
        format!("ALTER ROLE {role} PASSWORD 'second'"),
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(operator.scene.pool()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_postgres_that_are_replaced_are_taken_while_the_merge_runs() {
    let mut operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd_data(&operator.scene)).await;
    let (reader, keeper) =
        (format!("reader_{}", operator.scene.first_id), format!("keeper_{}", operator.scene.first_id));
    let roles = format!(
        "CREATE ROLE {reader} LOGIN PASSWORD 'first'; CREATE ROLE {keeper} LOGIN PASSWORD 'first';
         GRANT SELECT ON collection, document TO {reader}; GRANT CREATE ON DATABASE {} TO {keeper}",
        operator.scene.database_name()
    );
    sqlx::raw_sql(AssertSqlSafe(roles)).execute(operator.scene.pool()).await.unwrap();
    let manifest = slowly(&operator.scene.manifest(8));
    let administrator = secret(&manifest, "postgres");
    let (_, server) = administrator.trim_end_matches("\"}").rsplit_once('@').expect("a URL");
    let logins = |of_reader: &str, of_keeper: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: postgres}}\nstringData:\n  \
             url: \"postgresql://{reader}:{of_reader}@{server}\"\n  \
             state: \"postgresql://{keeper}:{of_keeper}@{server}\""
        )
    };
    let apart = "contract: OpenGateLLM\n  state: {postgres: {urlSecretRef: {name: postgres, key: state}}}";
    let manifest = manifest.replace("contract: OpenGateLLM", apart);
    operator.apply(&manifest.replace(&administrator, &logins("first", "first"))).await;
    operator.until_phase(NAME, "Copying", SOON).await;
    in_the_middle(&operator).await;

    let refused = |status: &EsIndexMergeStatus, field: &str| {
        let (_, reason, message) = condition(status, "Ready");
        let is_told =
            [field, "28P01", "correct the user and the password"].iter().all(|part| message.contains(part));
        is_told.then(|| reason.to_owned())
    };
    replace_password(&operator, &keeper).await;
    let by_the_state = |status: &EsIndexMergeStatus| {
        refused(status, "the state's Postgres").as_deref() == Some("StateUnavailable")
    };
    let seen = operator.until(NAME, SOON, "refused by the state", by_the_state).await;
    assert_eq!(condition(seen.status.as_ref().unwrap(), "Failing").0, "True");
    operator.apply(&logins("first", "second")).await;
    let goes_on = |status: &EsIndexMergeStatus| condition(status, "Failing").0 == "False";
    operator.until(NAME, SOON, "going on", goes_on).await;

    replace_password(&operator, &reader).await;
    operator.patch(NAME, json!({ "spec": { "workers": { "maxDocumentsPerSecond": null } } })).await;
    let by_the_collections = |status: &EsIndexMergeStatus| {
        let reason = refused(status, "spec.collections.postgres: ");
        reason.is_some_and(|reason| ["CollectionsUnavailable", "UnitsFailing"].contains(&reason.as_str()))
    };
    operator.until(NAME, SOON, "refused by the collections", by_the_collections).await;
    operator.apply(&logins("second", "second")).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;
    assert_whole(&operator.scene).await;
    operator.kill_9().await;
    let drop = format!("DROP OWNED BY {keeper}, {reader}; DROP ROLE {keeper}, {reader}");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(operator.scene.pool()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_ends_in_time_although_a_secret_is_gone() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    let model = operator.scene.fill(&odd_data(&operator.scene)).await;
    operator.apply(&operator.scene.manifest(8).replace("maxLag: 5s", "maxLag: 90s\n    hold: true")).await;
    operator.until_phase(NAME, "Synced", PATIENCE).await;
    operator.kubectl(&["delete", "secret", "source", "-n", &operator.namespace], "").await;
    let missing = |status: &EsIndexMergeStatus| {
        let (value, reason, message) = condition(status, "Failing");
        (value, reason) == ("True", "SecretInvalid") && message.contains("\"source\"")
    };
    operator.until(NAME, SOON, "told what is missing", missing).await;

    // The last pass has something to copy, and takes minutes.
    operator.after_a_pass().await;
    write_again(Flavor::V8, &model).await;
    let slowly = json!({ "spec": {
        "cutover": { "hold": false, "timeout": "20s" }, "workers": { "maxDocumentsPerSecond": 1 }
    } });
    operator.patch(NAME, slowly).await;
    let status = operator.until_phase(NAME, "CuttingOver", SOON).await.status.unwrap();
    assert!(missing(&status), "{status:#?}");
    let until_blocked = async |wanted: bool| {
        while !operator.scene.writers_are_refused(wanted).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, until_blocked(true)).await.expect("the sources are blocked");
    tokio::time::timeout(SOON, until_blocked(false)).await.expect("writers are served again");
}

/// The old cluster is switched off, and then the resource is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_complete_merge_goes_although_nobody_knows_its_clusters_any_more() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    operator.apply(&operator.scene.manifest(8)).await;
    operator.until_phase(NAME, "Completed", PATIENCE).await;
    operator.kubectl(&["delete", "secret", "source", "destination", "-n", &operator.namespace], "").await;
    operator.delete(NAME).await;
    operator.until_gone(NAME, SOON).await;
    assert_eq!(claims(&operator).await, 0);
    assert!(operator.scene.sources_are_blocked().await, "what was verified stays as it is");
}

/// The controller died before it could take its finalizer off.
#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_was_released_already_goes_although_nobody_knows_its_clusters_any_more() {
    let mut operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    operator.apply(&operator.scene.manifest(8).replace("maxLag: 5s", "hold: true")).await;
    operator.until_reason(NAME, "CutoverHeld", PATIENCE).await;
    operator.kill_9().await;
    let released = "UPDATE es_index_merge.merge SET released_at = now()";
    sqlx::query(released).execute(&mut operator.database().await).await.unwrap();
    operator.kubectl(&["delete", "secret", "source", "destination", "-n", &operator.namespace], "").await;
    operator.delete(NAME).await;
    assert!(has_finalizer(&operator.get(NAME).await));
    operator.start();
    operator.until_gone(NAME, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_cannot_clean_up_says_why_and_may_be_forced() {
    let mut operator = Operator::running(Flavor::V8, Flavor::V8).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    let manifest = operator.scene.manifest(8).replace("maxLag: 5s", "hold: true");
    operator.apply(&manifest).await;
    operator.until_reason(NAME, "CutoverHeld", PATIENCE).await;
    operator.kill_9().await;
    let source = secret(&manifest, "source");
    operator.apply(&source.replace(&operator.scene.source_password(), "wrong")).await;
    // Nobody is there to clean up: it stays.
    operator.delete(NAME).await;
    assert!(has_finalizer(&operator.get(NAME).await));
    operator.start();
    let why = |status: &EsIndexMergeStatus| {
        let (value, _, message) = condition(status, "Failing");
        value == "True"
            && message.starts_with("cleaning up before the deletion: spec.source")
            && message.contains("indexmerge.dev/force-delete=true")
    };
    operator.until(NAME, SOON, "told why it stays", why).await;
    operator.patch(NAME, json!({"metadata": {"annotations": {"indexmerge.dev/force-delete": "true"}}})).await;
    operator.until_gone(NAME, SOON).await;
    let events = operator.kubectl(&["get", "events", "-n", &operator.namespace, "-o", "json"], "").await;
    assert!(events.contains("CleanupAbandoned"), "{events}");
    assert_eq!(claims(&operator).await, 1, "what was not cleaned up is there, as the event says");
}
