//! `plan`: what a merge would do, and what stands in its way. Changes nothing.

use std::process::ExitCode;

use indicatif::HumanBytes;

use super::manifest::Job;
use crate::merge::{Preview, preview, secrets};

/// Prints the preview; the exit code tells whether the merge could start.
pub(super) async fn plan(job: Job) -> anyhow::Result<ExitCode> {
    let secrets = secrets::resolve(&job.resource.spec, &job.secrets).await?;
    let preview = preview(&job.merge, &secrets).await?;
    print!("{}", text(&job, &preview));
    Ok(if preview.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(job: &Job, preview: &Preview) -> String {
    let (source, destination) = preview.versions;
    let index = &job.merge.destination.index;
    let mut lines = vec![
        format!("Merge {}", job.merge.owner),
        format!("  source        Elasticsearch {source}"),
        format!("  destination   Elasticsearch {destination}, index {index} ({})", existing(preview)),
        format!(
            "                {} shards, {} replicas, {} dimensions, index options {}",
            job.merge.destination.shards,
            job.merge.destination.replicas,
            job.merge.destination.vector_size,
            preview.index_options
        ),
        format!("  embeddings    written as {}", preview.vector_form.as_str()),
        format!(
            "  to merge      {} collections, {} chunks, {} on disk",
            preview.collections,
            preview.documents,
            HumanBytes(preview.bytes)
        ),
    ];
    for (collection, documents) in &preview.largest {
        lines.push(format!("                collection {collection}: {documents} chunks"));
    }
    lines.push(format!(
        "  attention     {} collections without a readable index",
        preview.without_index.len()
    ));
    for (collection, reason) in preview.without_index.iter().take(10) {
        lines.push(format!("                collection {collection}: {reason}"));
    }
    lines.push(format!(
        "                {} indices named by a number without collection",
        preview.strays.len()
    ));
    if !preview.strays.is_empty() {
        let named: Vec<&str> = preview.strays.iter().take(100).map(String::as_str).collect();
        lines.push(format!("                {}", named.join(", ")));
    }
    if preview.problems.is_empty() {
        lines.push("  problems      none: the merge can start".to_owned());
    } else {
        lines.push(format!("  problems      {}", preview.problems.len()));
        lines.extend(preview.problems.iter().map(|problem| format!("                {problem}")));
    }
    lines.join("\n") + "\n"
}

fn existing(preview: &Preview) -> &'static str {
    if preview.destination_exists { "exists, will be adopted if it fits" } else { "will be created" }
}
