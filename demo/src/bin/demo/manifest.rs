//! `examples/opengatellm.yaml`, with the addresses of this run.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testenv::kubernetes::Access;

use crate::kubernetes::NAMESPACE;
use crate::servers::Servers;

/// The name of the resource in the example.
pub const NAME: &str = "opengatellm";

/// Reads the example, changes what differs here, writes the result to `folder` and applies it.
pub fn apply(access: &Access, servers: &Servers, checkout: &Path, folder: &Path) -> Result<()> {
    let example = checkout.join("examples/opengatellm.yaml").display().to_string();
    // Through the apiserver's own reader, which also checks it against the definition.
    let read = access.kubectl(&["create", "--dry-run=client", "-o", "json", "-f", &example])?;
    let mut merge: Value = serde_json::from_str(&read).context("the example")?;
    adapt(&mut merge, servers);
    let file = folder.join("merge.json");
    testenv::places::write_private(&file, &serde_json::to_vec_pretty(&merge)?)?;
    crate::kubernetes::apply(access, merge.to_string().as_bytes(), &["-n", NAMESPACE])
}

/// One node needs no replicas and few shards, and nobody waits for a word to cut over; everything else stays as in the example.
fn adapt(merge: &mut Value, servers: &Servers) {
    merge["metadata"] = json!({"name": merge["metadata"]["name"]});
    let spec = &mut merge["spec"];
    spec["source"]["url"] = json!(servers.source.url);
    spec["destination"]["url"] = json!(servers.destination.url);
    spec["destination"]["caSecretRef"] = json!({"name": "es-destination-ca", "key": "ca.crt"});
    for (cluster, server) in [("source", &servers.source), ("destination", &servers.destination)] {
        if server.ca.is_none()
            && let Some(cluster) = spec[cluster].as_object_mut()
        {
            cluster.remove("caSecretRef");
        }
    }
    spec["destination"]["index"]["numberOfShards"] = json!(2);
    spec["destination"]["index"]["numberOfReplicas"] = json!(0);
    // Nobody writes to the sources of the demo.
    spec["cutover"]["hold"] = json!(false);
}
