//! The roles of `docs/security.md` are enough for a whole merge, and nothing in them is too much.

use std::collections::BTreeMap;

use demo::cluster::Cluster;
use serde_json::{Value, json};
use testenv::elasticsearch::{Access, Elasticsearch, Options};

use crate::scene::{Flavor, Scene};
use crate::{odd_data, with_secret};

const PAGE: &str = include_str!("../../docs/security.md");

/// The JSON of the page that stands after that heading.
fn role(heading: &str) -> Value {
    let (_, after) = PAGE.split_once(heading).expect("the heading");
    let (_, after) = after.split_once("```json\n").expect("a role");
    let (json, _) = after.split_once("```").expect("its end");
    serde_json::from_str(json).expect("JSON")
}

fn source_role() -> Value {
    role("## The role for the source")
}

/// The page's role, for the destination of this test.
fn destination_role(scene: &Scene) -> Value {
    let text = role("## The role for the destination").to_string().replace("opengatellm", &scene.index);
    serde_json::from_str(&text).unwrap()
}

/// An API key that may do what the role says and nothing else.
async fn key(cluster: &Cluster, role: &Value) -> String {
    let body = json!({"name": "test of roles", "expiration": "1h", "role_descriptors": {"merge": role}});
    let key = cluster.post("/_security/api_key", &body).await.expect("a key");
    key["encoded"].as_str().unwrap().to_owned()
}

fn ca(manifest: &str, name: &str) -> String {
    let (_, secret) = manifest.split_once(&format!("metadata: {{name: {name}}}\n")).unwrap();
    let (_, ca) = secret.split_once("ca.crt: |\n").unwrap();
    let lines = ca.lines().take_while(|line| line.starts_with("    ")).map(str::trim);
    lines.collect::<Vec<_>>().join("\n")
}

async fn manifest_with(scene: &Scene, source: &Value, destination: &Value) -> String {
    let manifest = scene.manifest(8);
    let source_key = key(scene.source(), source).await;
    let destination_key = key(scene.destination(), destination).await;
    let (source_ca, destination_ca) = (ca(&manifest, "source"), ca(&manifest, "destination"));
    let manifest = with_secret(&manifest, "source", &[("api_key", &source_key), ("ca.crt", &source_ca)]);
    with_secret(&manifest, "destination", &[("api_key", &destination_key), ("ca.crt", &destination_ca)])
}

async fn is_enough(source: Flavor, destination: Flavor) {
    let scene = Scene::new(source, destination).await;
    scene.fill(&odd_data(&scene)).await;
    let manifest = manifest_with(&scene, &source_role(), &destination_role(&scene)).await;
    let run = scene.run(&manifest).await;
    assert!(run.success, "{run:?}");
    assert!(scene.sources_are_blocked().await);
    let verdict = scene.check(8).await;
    assert!(verdict.is_good(), "{verdict}");
    scene.assert_destination_is_in_service().await;
    // The way back needs its rights too.
    let run = scene.run(&manifest.replace("sourceWrites: Block", "sourceWrites: Allow")).await;
    assert!(run.success, "{run:?}");
    assert!(!scene.any_source_is_blocked().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_roles_are_enough_on_8() {
    is_enough(Flavor::V8, Flavor::V8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_roles_are_enough_on_9() {
    is_enough(Flavor::V9, Flavor::V9).await;
}

/// Every role that lacks one privilege of the given one: its name, and the role.
fn one_less(role: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    let lists: Vec<String> = std::iter::once("/cluster".to_owned())
        .chain((0..role["indices"].as_array().unwrap().len()).map(|n| format!("/indices/{n}/privileges")))
        .collect();
    for list in lists {
        for (place, name) in role.pointer(&list).unwrap().as_array().unwrap().iter().enumerate() {
            let mut less = role.clone();
            less.pointer_mut(&list).unwrap().as_array_mut().unwrap().remove(place);
            all.push((name.as_str().unwrap().to_owned(), less));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn one_privilege_less_is_named_before_anything_is_changed() {
    for flavor in [Flavor::V8, Flavor::V9] {
        let scene = Scene::new(flavor, flavor).await;
        scene.fill(&odd_data(&scene)).await;
        let (source, destination) = (source_role(), destination_role(&scene));
        let of_source = one_less(&source).into_iter().map(|(name, less)| ("spec.source", name, less, None));
        let of_destination = one_less(&destination)
            .into_iter()
            .map(|(name, less)| ("spec.destination", name, source.clone(), Some(less)));
        for (field, name, source, destination_less) in of_source.chain(of_destination) {
            let destination = destination_less.unwrap_or_else(|| destination.clone());
            let manifest = manifest_with(&scene, &source, &destination).await;
            for command in ["plan", "run"] {
                let run = scene.command(command, &manifest).await;
                assert!(!run.success, "{command} without {name} of {field}: {run:?}");
                let told = run.output.lines().find(|line| line.contains(field));
                assert!(
                    told.is_some_and(|line| line.contains(&name)),
                    "{command} does not name {name} of {field}: {run:?}"
                );
            }
            assert!(!scene.exists(&scene.index).await, "created without {name}");
            assert!(!scene.any_source_is_blocked().await, "blocked without {name}");
        }
    }
}

/// A list leaves out what may not be seen, and that is not the same as missing.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_may_not_be_seen_is_no_missing_one() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let model = scene.fill(&odd_data(&scene)).await;
    let ids: Vec<i64> = model.with_index().collect();
    let [hidden, behind, ..] = ids[..] else { panic!("{ids:?}") };
    // That one's index is renamed, as it is when it was made anew, and the role knows nothing of it.
    let body = json!({"aliases": {behind.to_string(): {}}});
    assert!(scene.source().delete_index(&behind.to_string()).await.unwrap());
    scene.source().put(&format!("/of-{behind}"), &body).await.unwrap();
    let mut role = source_role();
    let shown = ids.iter().filter(|id| **id != hidden).map(ToString::to_string);
    role["indices"][0]["names"] = shown.collect::<Vec<_>>().into();
    let manifest = manifest_with(&scene, &role, &destination_role(&scene)).await;
    let run = scene.run(&manifest).await;
    assert!(!run.success, "what cannot be seen is not in the destination: {run:?}");
    for collection in [hidden, behind] {
        let told = format!("collection {collection}: IndexHidden: ");
        assert!(run.output.contains(&told), "{told}: {run:?}");
    }
    // With the whole role the verdict is about all of them.
    role["indices"][0]["names"] = json!(["/[0-9]+/", "/of-[0-9]+/"]);
    let manifest = manifest_with(&scene, &role, &destination_role(&scene)).await;
    let again = manifest.replace("  contract:", "  retryToken: again\n  contract:");
    let run = scene.run(&again).await;
    assert!(run.success, "{run:?}");
}

/// The role of the page, and the right that the page speaks of after it.
fn deleting_source_role() -> Value {
    let mut role = source_role();
    let privileges = role.pointer_mut("/indices/0/privileges").unwrap().as_array_mut().unwrap();
    assert!(!privileges.contains(&json!("delete_index")));
    privileges.push(json!("delete_index"));
    role
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_delete_is_asked_for_early_and_only_where_sources_are_to_be_deleted() {
    for flavor in [Flavor::V8, Flavor::V9] {
        let scene = Scene::new(flavor, flavor).await;
        scene.fill(&odd_data(&scene)).await;
        let deleting = |manifest: &str| {
            let asked = "sourceWrites: Block\n    deleteSources: AfterVerification\n    retainFor: 0s";
            manifest.replace("sourceWrites: Block", asked)
        };
        let destination = destination_role(&scene);
        let without = deleting(&manifest_with(&scene, &source_role(), &destination).await);
        for command in ["plan", "run"] {
            let run = scene.command(command, &without).await;
            assert!(!run.success && run.output.contains("delete_index"), "{command}: {run:?}");
        }
        assert!(!scene.exists(&scene.index).await, "begun without the right");
        let with = deleting(&manifest_with(&scene, &deleting_source_role(), &destination).await);
        let run = scene.run(&with).await;
        assert!(run.success && run.output.contains("source indices were deleted"), "{run:?}");
    }
}

const PASSWORD: &str = "of a limited user";

/// A server on which a role may show a part of an index: the trial licence has that.
async fn on_trial(flavor: Flavor) -> Elasticsearch {
    let start = move || {
        let trial = ("xpack.license.self_generated.type".to_owned(), "trial".to_owned());
        let options =
            Options { heap: "512m".to_owned(), settings: BTreeMap::from([trial]), ..Options::default() };
        Elasticsearch::start(flavor, &options).expect("a server")
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// Gives a user of that name this role alone.
async fn limit(cluster: &Cluster, name: &str, role: &Value) {
    cluster.put(&format!("/_security/role/{name}"), role).await.expect("a role");
    let user = json!({"password": PASSWORD, "roles": [name]});
    cluster.put(&format!("/_security/user/{name}"), &user).await.expect("a user");
}

/// The role with something that leaves out a part.
fn limited(role: &Value, what: &str, how: Value) -> Value {
    let mut role = role.clone();
    role["indices"][0][what] = how;
    role
}

/// Leaves out the first chunk of each shard, whatever it is.
fn without_the_first() -> Value {
    json!({"range": {"_seq_no": {"gte": 1}}}).to_string().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_shows_a_part_of_an_index_is_named_before_anything_is_changed() {
    for flavor in [Flavor::V8, Flavor::V9] {
        let server = on_trial(flavor).await;
        let scene = Scene::between(Access::clone(&server), Access::clone(&server)).await;
        scene.fill(&odd_data(&scene)).await;
        let (source, destination) = (source_role(), destination_role(&scene));
        let without_metadata = json!({"grant": ["*"], "except": ["metadata.*"]});
        for (what, how) in [("query", without_the_first()), ("field_security", without_metadata)] {
            for (field, side, source, destination) in [
                ("spec.source", "source", limited(&source, what, how.clone()), destination.clone()),
                ("spec.destination", "destination", source.clone(), limited(&destination, what, how.clone())),
            ] {
                let role = if side == "source" { &source } else { &destination };
                limit(scene.source(), side, role).await;
                let authority = ca(&scene.manifest(8), side);
                let keys = [("username", side), ("password", PASSWORD), ("ca.crt", authority.as_str())];
                let as_user = with_secret(&scene.manifest(8), side, &keys);
                let as_key = manifest_with(&scene, &source, &destination).await;
                for (manifest, command) in [(&as_user, "plan"), (&as_key, "plan"), (&as_user, "run")] {
                    let run = scene.command(command, manifest).await;
                    assert!(!run.success, "{command} with {what} of {field}: {run:?}");
                    let told = run.output.lines().find(|line| line.contains(field));
                    assert!(
                        told.is_some_and(|line| line.contains(&format!(": {what}"))),
                        "{command} does not name {what} of {field}: {run:?}"
                    );
                }
                assert!(!scene.exists(&scene.index).await, "created with {what} of {field}");
            }
        }
        // One that shows all of it beside one that does not is enough.
        let cluster = scene.source();
        let partial = limited(&source, "query", without_the_first());
        cluster.put("/_security/role/partial", &partial).await.unwrap();
        cluster.put("/_security/role/whole", &source).await.unwrap();
        let user = json!({"password": PASSWORD, "roles": ["partial", "whole"]});
        cluster.put("/_security/user/both", &user).await.unwrap();
        let authority = ca(&scene.manifest(8), "source");
        let keys = [("username", "both"), ("password", PASSWORD), ("ca.crt", authority.as_str())];
        let run = scene.run(&with_secret(&scene.manifest(8), "source", &keys)).await;
        assert!(run.success, "{run:?}");
    }
}

/// A key is not told what its owner may not see.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_the_owner_of_a_key_may_not_see_make_the_verdict_negative() {
    for flavor in [Flavor::V8, Flavor::V9] {
        let server = on_trial(flavor).await;
        let scene = Scene::between(Access::clone(&server), Access::clone(&server)).await;
        scene.fill(&odd_data(&scene)).await;
        let (source, destination) = (source_role(), destination_role(&scene));
        limit(scene.source(), "owner", &limited(&source, "query", without_the_first())).await;
        let grant = json!({
            "grant_type": "password", "username": "owner", "password": PASSWORD,
            "api_key": {"name": "of a limited user", "role_descriptors": {"merge": source}},
        });
        let key = scene.source().post("/_security/api_key/grant", &grant).await.unwrap();
        let whole = manifest_with(&scene, &source, &destination).await;
        let authority = ca(&scene.manifest(8), "source");
        let keys = [("api_key", key["encoded"].as_str().unwrap()), ("ca.crt", authority.as_str())];
        let run = scene.run(&with_secret(&whole, "source", &keys)).await;
        assert!(!run.success, "chunks are missing: {run:?}");
        assert!(run.output.contains("the credentials of the source show "), "{run:?}");
        assert!(!scene.any_source_is_blocked().await, "a negative verdict must lift the blocks");

        let run = scene.run(&whole.replace("  contract:", "  retryToken: again\n  contract:")).await;
        assert!(run.success, "{run:?}");
        let verdict = scene.check(8).await;
        assert!(verdict.is_good(), "{verdict}");
    }
}
