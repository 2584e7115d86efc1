//! An index template of somebody else has its say in the destination that a merge makes.

use demo::cluster::Method;
use demo::seed::odd;
use serde_json::json;

use crate::operator::{NAME, Operator, PATIENCE, SOON};
use crate::scene::Flavor;
use crate::{assert_whole, condition, odd_data};

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_takes_embeddings_away_is_named_and_waited_for_to_go() {
    let operator = Operator::running(Flavor::V8, Flavor::V9).await;
    operator.scene.fill(&odd::Options { documents: 3, chunks: 5, ..odd_data(&operator.scene) }).await;
    let index = &operator.scene.index;
    let template = format!("/_index_template/{index}");
    let without = json!({"mappings": {"_source": {"excludes": ["embedding"]}}});
    let body = json!({"index_patterns": [index], "template": without});
    operator.scene.destination().put(&template, &body).await.unwrap();
    operator.apply(&operator.scene.manifest(8)).await;

    let seen = operator.until_reason(NAME, "DestinationMismatch", SOON).await;
    let status = seen.status.as_ref().unwrap();
    assert_eq!(condition(status, "Stalled").0, "True", "a person has to decide: {status:#?}");
    let message = condition(status, "Failing").2;
    for part in ["`_source` is not kept whole", "an index template for its name"] {
        assert!(message.contains(part), "{part} is not told: {message}");
    }
    assert_eq!(operator.stored_phase().await, "Preparing", "nothing is copied");

    operator.scene.destination().require(Method::DELETE, &template, None).await.unwrap();
    operator.until_phase(NAME, "Completed", PATIENCE).await;
    assert_whole(&operator.scene).await;
}
