//! An independent verdict over a merge.
//!
//! It reads every source index and the destination whole, computes what the destination must hold from the
//! description of the contracts alone, and compares each document field by field and each vector number by
//! number. It uses nothing of the operator: a mistake there must not hide itself here. Reading is complete or
//! the check fails; a check that could not be made is never a good verdict.

mod compare;
mod exact;
mod expected;
mod read;
mod spool;
mod verdict;

use std::collections::{BTreeSet, HashMap};

use anyhow::Result;
use sqlx::PgPool;

pub use compare::Difference;
pub use expected::Contract;
pub use verdict::Verdict;

use crate::cluster::Cluster;
use compare::compare;
use expected::expect;
use spool::Spool;

/// Indices that one point in time covers.
const GROUP: usize = 50;
/// Streams in which the destination is read.
const SLICES: usize = 2;

/// What to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// The destination index.
    pub index: String,
    /// The contract it was made by.
    pub contract: Contract,
    /// Size of the vectors.
    pub dimensions: usize,
    /// Only these collections; empty: all of Postgres.
    pub include: Vec<i64>,
    /// Without these collections.
    pub exclude: Vec<i64>,
}

/// Compares everything.
pub async fn check(
    source: &Cluster,
    destination: &Cluster,
    pool: &PgPool,
    options: &Options,
) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let collections = merged_collections(source, pool, options).await?;
    verdict.collections = collections.len();
    let spool = read_destination(destination, options, &mut verdict).await?;
    let outcomes = read_sources(source, pool, &collections, &spool, options, &mut verdict).await?;
    conclude(&outcomes, &spool, &mut verdict);
    Ok(verdict)
}

/// Collections of Postgres which have an index and which the merge was to move.
async fn merged_collections(source: &Cluster, pool: &PgPool, options: &Options) -> Result<BTreeSet<i64>> {
    let known: BTreeSet<i64> = read::collections(pool).await?.into_iter().collect();
    let indices = read::integer_indices(source).await?;
    let wanted = |id: &i64| {
        (options.include.is_empty() || options.include.contains(id)) && !options.exclude.contains(id)
    };
    Ok(indices.into_iter().filter(|id| known.contains(id)).filter(wanted).collect())
}

async fn read_destination(destination: &Cluster, options: &Options, verdict: &mut Verdict) -> Result<Spool> {
    destination.refresh(&options.index).await?;
    let mut spool = Spool::new()?;
    let mut keys: HashMap<(i64, i64), u32> = HashMap::new();
    let mut pages =
        read::pages(destination, std::slice::from_ref(&options.index), SLICES, options.dimensions);
    while let Some(page) = pages.recv().await {
        let page = page?;
        for hit in page.hits()? {
            spool.put(hit.id.clone(), hit.source)?;
            let Some(key) = compare::keys(hit.source) else { continue };
            let seen = keys.entry(key).or_default();
            *seen += 1;
            if *seen > 1 {
                verdict.duplicated.add(|| format!("document {} chunk {} also as {}", key.0, key.1, hit.id));
            }
        }
    }
    spool.finish()?;
    verdict.destination_documents = spool.len();
    Ok(spool)
}

/// What became of one expected document. Twins (two chunks with the same keys) share one.
struct Outcome {
    is_equal: bool,
    first: Option<String>,
}

async fn read_sources(
    source: &Cluster,
    pool: &PgPool,
    collections: &BTreeSet<i64>,
    spool: &Spool,
    options: &Options,
    verdict: &mut Verdict,
) -> Result<HashMap<String, Outcome>> {
    let rows = read::documents(pool).await?;
    let names: Vec<String> = collections.iter().map(i64::to_string).collect();
    let groups: Vec<String> = names.chunks(GROUP).map(|group| group.join(",")).collect();
    for group in &groups {
        source.refresh(group).await?;
    }
    let mut outcomes: HashMap<String, Outcome> = HashMap::new();
    let mut pages = read::pages(source, &groups, 1, options.dimensions);
    while let Some(page) = pages.recv().await {
        let page = page?;
        for hit in page.hits()? {
            verdict.source_chunks += 1;
            let Ok(collection) = hit.index.parse() else { continue };
            let expected = match expect(hit.source, collection, options.contract, options.dimensions, &rows) {
                Ok(expected) => expected,
                Err(reason) => {
                    *verdict.quarantined.entry(reason).or_default() += 1;
                    continue;
                }
            };
            let found = spool.get(&expected.key)?;
            let outcome = judge(&expected, found.as_deref(), options.contract, &hit.index, &hit.id, verdict);
            match outcomes.get_mut(&expected.key) {
                // One of twins is enough: which one wins depends on the order in which they were written.
                Some(known) => {
                    verdict.collapsed += 1;
                    known.is_equal |= outcome.is_equal;
                }
                None => {
                    outcomes.insert(expected.key, outcome);
                }
            }
        }
    }
    Ok(outcomes)
}

fn judge(
    expected: &expected::Expected,
    found: Option<&str>,
    contract: Contract,
    index: &str,
    id: &str,
    verdict: &mut Verdict,
) -> Outcome {
    let name = || format!("{index}/{id} (document {} chunk {})", expected.document, expected.id);
    let Some(found) = found else {
        verdict.missing.add(name);
        return Outcome { is_equal: true, first: None };
    };
    match compare(expected, found, contract) {
        None => Outcome { is_equal: true, first: None },
        Some(difference) => {
            let text = format!(
                "{}: {} is {} and should be {}",
                name(),
                difference.field,
                difference.found,
                difference.expected
            );
            Outcome { is_equal: false, first: Some(text) }
        }
    }
}

fn conclude(outcomes: &HashMap<String, Outcome>, spool: &Spool, verdict: &mut Verdict) {
    for outcome in outcomes.values().filter(|outcome| !outcome.is_equal) {
        verdict.different.add(|| outcome.first.clone().unwrap_or_default());
    }
    for id in spool.ids().filter(|id| !outcomes.contains_key(*id)) {
        verdict.extra.add(|| id.to_owned());
    }
    verdict.expected_documents = outcomes.len();
}

#[cfg(test)]
mod tests;
