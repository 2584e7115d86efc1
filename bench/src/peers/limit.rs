//! The limit: what the destination can take. Finished bulk bodies, made beforehand, sent by several connections
//! without a look at anything but success; then the same deferred graph. No reading, no transformation.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::corpus::{Corpus, VectorForm};
use crate::destination::{self, NAME};
use crate::server::Server;

/// Size of a body: the best of 2, 4 and 8 MiB on the machine of the report.
const BODY: usize = 4 << 20;
/// Bodies under way.
const AT_ONCE: usize = 4;

/// Makes the bodies.
pub async fn prepare(destination: &Server, corpus: &Arc<Corpus>) -> Result<Vec<Bytes>> {
    let form = if destination.hides_vectors() { VectorForm::Base64 } else { VectorForm::Floats };
    let mut tasks = Vec::new();
    let parts = 8;
    for part in 0..parts {
        let corpus = Arc::clone(corpus);
        tasks.push(tokio::task::spawn_blocking(move || bodies(&corpus, form, part, parts)));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await?);
    }
    Ok(all)
}

fn bodies(corpus: &Corpus, form: VectorForm, part: u64, parts: u64) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    let mut body = String::with_capacity(BODY + 20_000);
    let mut place = 0;
    for collection in &corpus.collections {
        for at in 0..collection.chunks {
            place += 1;
            if place % parts != part {
                continue;
            }
            let (id, chunk) = corpus.merged(collection, at, form);
            let _ = write!(
                body,
                "{{\"index\":{{\"_id\":\"{id}\",\"version\":{},\"version_type\":\"external\"}}}}\n{chunk}\n",
                at + 1
            );
            if body.len() >= BODY {
                bodies.push(Bytes::from(std::mem::replace(&mut body, String::with_capacity(BODY + 20_000))));
            }
        }
    }
    if !body.is_empty() {
        bodies.push(Bytes::from(body));
    }
    bodies
}

/// Sends them into a `flat` index.
pub async fn load(destination: &Server, corpus: &Corpus, bodies: &[Bytes]) -> Result<()> {
    destination::create(destination, corpus.dimensions, &json!({"type": "flat"})).await?;
    let path = format!("/{NAME}/_bulk?filter_path=errors,items.*.error");
    futures::stream::iter(bodies.to_vec())
        .map(|body| destination.bulk(&path, body))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await
}
