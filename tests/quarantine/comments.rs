//! Comments in documents: Elasticsearch takes them, stores them, and gives them back as they stand.

use demo::cluster::Method;

use crate::hand::{Hand, chunk};
use crate::scene::{Flavor, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_document_with_a_comment_is_kept_as_it_stands_and_its_neighbours_go_over() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    let hand = Hand::new(&scene).await;
    let collection = hand.collection(0, 1).await;
    let other = hand.collection(1, 1).await;
    hand.put(other, "a", "x", &chunk(other, 1, "undisturbed")).await;
    hand.put(collection, "before", "x", &chunk(collection, 1, "before")).await;
    let odd = chunk(collection, 2, "odd").to_string().replacen('{', "{ /* don\"t }]} */ ", 1);
    let path = format!("/{collection}/_doc/odd?refresh=true&routing=x");
    let body = Some(odd.clone().into());
    let answer = scene.source().send(Method::PUT, &path, "application/json", body).await.unwrap();
    assert!(answer.is_success(), "{}", String::from_utf8_lossy(&answer.body));
    hand.put(collection, "after", "x", &chunk(collection, 3, "after")).await;

    let run = scene.run(&scene.manifest(8)).await;
    assert!(!run.success && run.output.contains("maxQuarantined allows 0"), "{run:?}");
    assert_eq!(hand.quarantined().await, [(collection, "odd".to_owned(), "not_json".to_owned())]);
    let original: Vec<u8> = sqlx::query_scalar("SELECT original FROM es_index_merge.quarantine")
        .fetch_one(scene.pool())
        .await
        .unwrap();
    assert_eq!(String::from_utf8(original).unwrap(), odd);
    assert_eq!(hand.contents(collection).await, ["after", "before"]);
    assert_eq!(hand.contents(other).await, ["undisturbed"]);
}
