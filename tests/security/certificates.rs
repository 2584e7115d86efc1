//! A cluster that asks its clients for a certificate, and replaces everything while a merge runs.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use demo::seed::odd;
use testenv::elasticsearch::{Elasticsearch, Options};
use testenv::pki::{Authority, Pair, Purpose};

use crate::folder::Folder;
use crate::odd_data;
use crate::rotation::{COPYING, slowly, start, until};
use crate::scene::{Flavor, Scene};

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Puts a file in the place of one, readable for whoever read that one.
fn put(new: &Path, place: &Path) {
    let owner = std::fs::metadata(place).unwrap();
    std::fs::write(place, std::fs::read(new).unwrap()).unwrap();
    chown(place, Some(owner.uid()), Some(owner.gid())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_asks_for_client_certificates_gets_one_and_may_replace_its_own() {
    let (source, server) = tokio::task::spawn_blocking(|| {
        let options = Options { heap: "512m".to_owned(), client_certificates: true, ..Options::default() };
        let source = testenv::elasticsearch::Access::clone(Elasticsearch::shared(Flavor::V8).unwrap());
        (source, Elasticsearch::start(Flavor::V8, &options).expect("a server"))
    })
    .await
    .unwrap();
    let client: Pair = server.client.clone().expect("a certificate for us");
    let authority: PathBuf = server.ca.clone().unwrap();
    let scene = Scene::between(source, testenv::elasticsearch::Access::clone(&server)).await;
    scene.fill(&odd::Options { documents: 20, chunks: 40, ..odd_data(&scene) }).await;
    let folder = Folder::of(&slowly(&scene.manifest(8)));

    let (success, told) = start(&folder, "warn").ended().await;
    assert!(!success, "without a certificate: {told}");
    for part in ["spec.destination: ", "tls.crt and tls.key"] {
        assert!(told.contains(part), "{part} is not told: {told}");
    }

    folder.replace("destination", "tls.crt", &read(&client.certificate));
    folder.replace("destination", "tls.key", &read(&client.key));
    let running = start(&folder, "warn");
    until(&scene, "copying", COPYING).await;

    // Another authority signs the server's certificate and ours from now on.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::open(&elsewhere.path().join("authority")).unwrap();
    let new_pair =
        other.issue(elsewhere.path(), "served", "elasticsearch", Purpose::Server(&[], &[])).unwrap();
    let ours = other
        .issue(elsewhere.path(), "ours", "es-index-merge", Purpose::Client { organisation: "tests" })
        .unwrap();
    let config = client.certificate.parent().unwrap().join("config");
    let server = tokio::task::spawn_blocking({
        let (authority, client, ours) = (authority.clone(), client.clone(), ours.clone());
        let other = other.certificate();
        move || {
            server.stop().unwrap();
            put(&new_pair.certificate, &config.join("http.crt"));
            put(&new_pair.key, &config.join("http.key"));
            put(&other, &config.join("clients.crt"));
            // What the harness reads when it asks whether the server is ready.
            put(&other, &authority);
            put(&ours.certificate, &client.certificate);
            put(&ours.key, &client.key);
            server.restart().unwrap();
            server
        }
    })
    .await
    .unwrap();
    running.until_it_says("invalid peer certificate").await;
    folder.replace("destination", "ca.crt", &read(&other.certificate()));
    folder.replace("destination", "tls.crt", &read(&ours.certificate));
    folder.replace("destination", "tls.key", &read(&ours.key));

    let (success, told) = running.ended().await;
    assert!(success, "{told}");
    let contents = tokio::task::spawn_blocking({
        let path = format!("/{}/_count", scene.index);
        move || server.ask("GET", &path, None).unwrap()
    })
    .await
    .unwrap();
    assert!(contents["count"].as_u64().unwrap() > 100, "{contents}");
}
