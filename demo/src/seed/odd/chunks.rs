//! One odd chunk after another.

use anyhow::Result;
use serde_json::Value;

use super::metadata::{Entries, anything, mappable, object};
use crate::seed::bulk::{VectorText, source};
use crate::seed::embedding::embed;
use crate::seed::layout::Mapping;
use crate::seed::random::Random;

/// Makes the chunks of one collection.
pub struct Maker {
    pub collection: i64,
    /// Decides what an index with dynamic mapping must keep the same for all its chunks.
    pub style: usize,
    pub mapping: Mapping,
    pub dimensions: usize,
}

impl Maker {
    /// A chunk that every destination takes.
    pub fn chunk(&self, document: i64, number: usize, random: &mut Random) -> String {
        let content = content(document, number, random);
        let (vector, text) = self.vector(&content, random);
        // `id` begins again in every document, so ids collide across documents.
        let id = i64::try_from(number).unwrap_or(0) * if self.style.is_multiple_of(4) { 3 } else { 1 };
        source(id, &content, &vector, text, &object(&self.metadata(document, random)))
    }

    /// Chunks that belong into quarantine, as far as the mapping accepts them at all.
    pub fn bad(&self, random: &mut Random) -> Vec<String> {
        let document = 1_000_000_000 + self.collection;
        let metadata = format!("{{\"document_id\":{document},\"note\":\"bad\"}}");
        let good = embed("bad chunk", self.dimensions);
        let make = |id: i64, content: &str, vector: &[f32], metadata: &str| {
            source(id, content, vector, VectorText::Floats, metadata)
        };
        let mut bad = vec![
            format!("{{\"id\":1,\"content\":\"no vector\",\"metadata\":{metadata}}}"),
            make(2, "", &good, &metadata),
            make(-3, "negative id", &good, &metadata),
            make(4, "no document", &good, "{\"note\":\"bad\"}"),
            make(5, "negative document", &good, "{\"document_id\":-5}"),
            make(6, "no id", &good, &metadata).replacen("\"id\":6,", "", 1),
            make(7, "gone", &good, &metadata).replacen("\"content\":\"gone\",", "", 1),
        ];
        if self.mapping == Mapping::FloatVectors {
            bad.push(make(8, "one number too few", good.get(1..).unwrap_or_default(), &metadata));
            bad.push(make(9, "all zero", &vec![0.0; self.dimensions], &metadata));
            bad.push(make(10, "empty", &[], &metadata));
        }
        let keep = 1 + random.below(bad.len());
        bad.truncate(keep);
        bad
    }

    /// Another version of a chunk: same document and id, other content and metadata.
    pub fn rewritten(&self, old: &str, random: &mut Random) -> Result<String> {
        let value: Value = serde_json::from_str(old)?;
        let document = value["metadata"]["document_id"].as_i64().unwrap_or(0);
        let id = value["id"].as_i64().unwrap_or(0);
        let content = format!("rewritten {}", content(document, 0, random));
        let (vector, text) = self.vector(&content, random);
        Ok(source(id, &content, &vector, text, &object(&self.metadata(document, random))))
    }

    /// False where a partial update would make the server print the other fields anew from floats it rounded.
    pub fn partial_updates_keep_text(&self) -> bool {
        self.mapping != Mapping::Opaque
    }

    /// True when `metadata.document_id` can be searched.
    pub fn finds_documents(&self) -> bool {
        self.mapping != Mapping::Opaque
    }

    fn vector(&self, content: &str, random: &mut Random) -> (Vec<f32>, VectorText) {
        let mut vector = embed(content, self.dimensions);
        if random.one_in(3) {
            // Not of unit length: some models are not.
            #[allow(clippy::cast_possible_truncation)]
            let scale = (random.signed_unit() * 20.0 + 0.5) as f32;
            for x in &mut vector {
                *x *= if scale == 0.0 { 2.0 } else { scale };
            }
        }
        (vector, if random.one_in(2) { VectorText::Doubles } else { VectorText::Floats })
    }

    fn metadata(&self, document: i64, random: &mut Random) -> Entries {
        let mut entries = vec![("document_id".to_owned(), document.to_string())];
        if random.one_in(2) {
            entries.push(("collection_id".to_owned(), self.collection.to_string()));
        }
        if !random.one_in(3) {
            entries.push((
                "document_name".to_owned(),
                Value::from(format!("Chunk's « {document} » 名.pdf")).to_string(),
            ));
        }
        let style = if self.mapping == Mapping::Opaque { random.below(8) } else { self.style };
        entries.extend(date(style, document, random));
        entries.extend(if self.mapping == Mapping::Opaque { anything(random) } else { mappable(random) });
        entries
    }
}

/// The document's date in one of the forms that releases wrote, or none.
fn date(style: usize, document: i64, random: &mut Random) -> Option<(String, String)> {
    if random.one_in(4) {
        return None;
    }
    let seconds = 1_700_000_000 + document % 100_000_000;
    let (key, value) = match style % 8 {
        0 | 1 => ("document_created_at", seconds.to_string()),
        2 => ("document_created", seconds.to_string()),
        3 => ("document_created_at", format!("{seconds}{:03}", random.below(1000))),
        4 => ("document_created_at", format!("{seconds}.25")),
        5 => ("document_created_at", "\"2024-02-29T23:59:59.123+02:00\"".to_owned()),
        6 => ("document_created", "\"2023-11-14T22:13:20Z\"".to_owned()),
        _ => ("document_created_at", "\"2024-07-01T08:30:00.123456\"".to_owned()),
    };
    Some((key.to_owned(), value))
}

fn content(document: i64, number: usize, random: &mut Random) -> String {
    match random.below(10) {
        0 => format!("e\u{301}te\u{301} {document}/{number} NFD"),
        1 => format!("👩\u{200d}👩\u{200d}👧 {document}/{number}"),
        2 => format!("مرحبا \u{202e}{document}/{number}\u{202c} שלום"),
        3 => format!("tab\t, \"quotes\", \\ back, </script>, \u{7f}\u{2028}{document}/{number}\r\n"),
        4 => format!("{document}/{number} ") + &"a long paragraph with many words. ".repeat(300),
        5 => "x".to_owned(),
        _ => format!(
            "Document {document}, paragraphe {number}: le fichier est ouvert en lecture {}",
            random.below(100)
        ),
    }
}

/// The document that a source belongs to, if it says.
pub fn document(source: &str) -> Option<i64> {
    serde_json::from_str::<Value>(source).ok()?["metadata"]["document_id"].as_i64()
}

/// An `_id` as Elasticsearch makes them: 20 characters of base64 for URLs.
pub fn server_made_id(random: &mut Random) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..20).map(|_| char::from(ALPHABET[random.below(64)])).collect()
}
