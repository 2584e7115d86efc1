//! What people are told about collections that came after the verdict. Pure.

use std::collections::BTreeSet;

use super::Attention;
use crate::merge::memo::NewcomersMemo;
use crate::merge::observe::active;
use crate::state::SourceRow;

/// The reason of an entry about collections that came after the verdict.
pub const NOT_MERGED: &str = "NotMerged";

/// Collections that an entry names.
const NAMED: usize = 12;

/// What follows the message of a merge that is complete.
pub(super) fn sentence(memo: &NewcomersMemo) -> &'static str {
    if memo.total > 0 { "; what came after the verdict is not merged (see status.attention)" } else { "" }
}

/// One entry about collections that are new, and one about those whose index was made anew: as they were handed over, no other
/// merge takes them.
pub(super) fn attention(memo: &NewcomersMemo, sources: &[SourceRow]) -> Vec<Attention> {
    let merged: BTreeSet<i64> = active(sources).map(|source| source.collection_id).collect();
    let (anew, new): (Vec<i64>, Vec<i64>) = memo.indices.keys().copied().partition(|id| merged.contains(id));
    let anew_total = anew.len() as u64;
    let new_total = memo.total.saturating_sub(anew_total);
    let added = entry(&new, new_total, |more, ids| {
        format!(
            "its index came after the verdict and is not merged{more}; unless applications have written chunks of it \
             to the destination, delete this resource (the destination stays, unless spec.deletionPolicy says \
             otherwise) and apply one with that destination and spec.collections.include: [{ids}]"
        )
    });
    let remade = entry(&anew, anew_total, |more, ids| {
        format!(
            "its index was made anew after the verdict, and what is in it is not merged{more}; no merge \
             takes it into this destination, as the collection was handed over with it: write the chunks \
             of [{ids}] there as applications do"
        )
    });
    added.into_iter().chain(remade).collect()
}

/// An entry about these collections, of so many; `None` if there are none.
fn entry(ids: &[i64], total: u64, message: impl FnOnce(&str, &str) -> String) -> Option<Attention> {
    let collection = *ids.first()?;
    let more = match total.saturating_sub(1) {
        0 => String::new(),
        more => format!(", nor is that of {more} more"),
    };
    let mut named: Vec<String> = ids.iter().take(NAMED).map(ToString::to_string).collect();
    if total > named.len() as u64 {
        named.push("...".to_owned());
    }
    let message = message(&more, &named.join(", "));
    Some(Attention { collection, reason: NOT_MERGED.to_owned(), message })
}
