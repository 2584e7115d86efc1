//! Names and dates of documents that chunks lack, from the application's Postgres.

use std::collections::HashMap;
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

    /// Asks for documents. One without a row is known to have neither name nor date.
    pub async fn ask(
        &mut self,
        collections: &Collections,
        documents: &[i64],
    ) -> Result<(), CollectionsError> {
        let mut rows = collections.documents(documents).await?;
        let known = Arc::make_mut(&mut self.known);
        if known.len() + documents.len() > Self::CAPACITY {
            known.clear();
        }
        for &document in documents {
            let facts = rows.remove(&document).map_or_else(DocumentFacts::default, |row| DocumentFacts {
                name: row.name,
                created: row.created,
            });
            known.insert(document, facts);
        }
        Ok(())
    }
}
