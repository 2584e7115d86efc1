//! Names and dates of documents that chunks lack, from the application's Postgres.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::chunk::DocumentFacts;
use crate::collections::{Collections, CollectionsError};

/// Facts for the documents of one batch. Bounded: it is emptied when it grows past [`Facts::CAPACITY`].
///
/// It lives as long as a batch, so that what a retry sees is not older than the retry.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    known: Arc<HashMap<i64, DocumentFacts>>,
}

impl Facts {
    const CAPACITY: usize = 20_000;

    /// What is known of a document; `None` if it has not been asked for.
    pub fn get(&self, document: i64) -> Option<&DocumentFacts> {
        self.known.get(&document)
    }

    /// Asks for those of the documents that are not known. Afterwards all of these are; one without a row is known to
    /// have neither name nor date.
    pub async fn learn(
        &mut self,
        collections: &Collections,
        documents: &BTreeSet<i64>,
    ) -> Result<(), CollectionsError> {
        let wanted = self.make_room(documents);
        if wanted.is_empty() {
            return Ok(());
        }
        let mut rows = collections.documents(&wanted).await?;
        let known = Arc::make_mut(&mut self.known);
        for document in wanted {
            let facts = rows.remove(&document).map_or_else(DocumentFacts::default, |row| DocumentFacts {
                name: row.name,
                created: row.created,
            });
            known.insert(document, facts);
        }
        Ok(())
    }

    /// The documents to ask for. Where they do not fit beside what is known, all of that is forgotten, and they are all.
    fn make_room(&mut self, documents: &BTreeSet<i64>) -> Vec<i64> {
        let is_unknown = |document: &i64| !self.known.contains_key(document);
        let unknown: Vec<i64> = documents.iter().copied().filter(is_unknown).collect();
        if unknown.is_empty() || self.known.len() + unknown.len() <= Self::CAPACITY {
            return unknown;
        }
        self.known = Arc::default();
        documents.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_now_is_known_or_asked_for_also_when_room_is_made() {
        let mut facts = Facts::default();
        let known = (0..15_000).map(|document| (document, DocumentFacts::default()));
        facts.known = Arc::new(known.collect());
        let few = BTreeSet::from([14_999, 15_000]);
        assert_eq!(facts.make_room(&few), [15_000]);
        assert_eq!(facts.make_room(&BTreeSet::from([7])), [0_i64; 0]);
        let many: BTreeSet<i64> = (14_000..21_000).collect();
        assert_eq!(facts.make_room(&many).len(), 7_000);
        assert!(facts.get(14_000).is_none(), "it is asked for again");
    }
}
