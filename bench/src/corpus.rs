//! The chunks that are merged: made on the spot, the same for the same place, realistic where it costs time.
//!
//! A vector is a cluster's centre and noise, of length 1, so that a graph over them is like one over real text;
//! a content is about 900 characters of words with the frequencies of a language. Nothing here is read by a person.

use std::fmt::Write as _;

use base64::Engine as _;
use sha2::{Digest, Sha256};

/// Chunks of one document.
const PER_DOCUMENT: u64 = 25;
/// Centres of the clusters.
const CLUSTERS: usize = 256;
/// Characters of a content, about.
const CONTENT: usize = 900;

/// One collection and how many chunks it has.
#[derive(Debug, Clone, Copy)]
pub struct Collection {
    /// Its id, and the name of its index.
    pub id: u64,
    /// Number of chunks.
    pub chunks: u64,
    /// The first chunk's place in the corpus.
    pub first: u64,
}

/// All chunks of a case.
#[derive(Debug, Clone)]
pub struct Corpus {
    /// Dimensions of a vector.
    pub dimensions: usize,
    /// Its collections.
    pub collections: Vec<Collection>,
    centres: Vec<Vec<f32>>,
    words: Vec<String>,
}

/// A small, quick and good enough source of random numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Near enough to a normal distribution: the sum of four uniform numbers.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: u64 = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum();
        (sum as f32 - 131_070.0) / 37_837.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }
}

impl Corpus {
    /// `collections` collections of `chunks` chunks each, with ids from 1.
    pub fn new(collections: u64, chunks: u64, dimensions: usize) -> Self {
        let collections =
            (0..collections).map(|at| Collection { id: at + 1, chunks, first: at * chunks }).collect();
        let mut dice = Dice(42);
        let centres =
            (0..CLUSTERS).map(|_| (0..dimensions).map(|_| dice.normal()).collect::<Vec<f32>>()).collect();
        let syllables =
            ["la", "ri", "con", "ment", "tion", "pu", "ser", "vice", "de", "é", "cou", "ran", "t"];
        let words = (0..3_000)
            .map(|_| (0..=dice.below(4)).map(|_| syllables[dice.below(syllables.len())]).collect())
            .collect();
        Self { dimensions, collections, centres, words }
    }

    /// Number of all chunks.
    pub fn chunks(&self) -> u64 {
        self.collections.iter().map(|collection| collection.chunks).sum()
    }

    /// Documents of a collection, by id.
    pub fn documents(collection: &Collection) -> std::ops::RangeInclusive<u64> {
        let first = Self::document(collection, 0);
        first..=Self::document(collection, collection.chunks.saturating_sub(1))
    }

    fn document(collection: &Collection, at: u64) -> u64 {
        // Collections never share a document.
        1 + collection.first / PER_DOCUMENT + collection.id + at / PER_DOCUMENT
    }

    /// The vector of the chunk at that place.
    pub fn vector(&self, place: u64) -> Vec<f32> {
        let mut dice = Dice(place.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 7);
        let centre = &self.centres[dice.below(self.centres.len())];
        let mut vector: Vec<f32> = centre.iter().map(|x| x + 0.8 * dice.normal()).collect();
        let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        for x in &mut vector {
            // The nearest f32 is what a client sends.
            #[allow(clippy::cast_possible_truncation)]
            let unit = (f64::from(*x) / norm) as f32;
            *x = unit;
        }
        vector
    }

    fn content(&self, place: u64) -> String {
        let mut dice = Dice(place ^ 0x00c0_ffee);
        let mut text = String::with_capacity(CONTENT + 16);
        while text.len() < CONTENT {
            // Few words are frequent and many are rare.
            let rank = dice.below(self.words.len()).min(dice.below(self.words.len()));
            text.push_str(&self.words[rank.min(dice.below(self.words.len()))]);
            text.push(if dice.below(14) == 0 { '.' } else { ' ' });
        }
        text
    }

    /// The `_source` of a chunk in its old index.
    pub fn source(&self, collection: &Collection, at: u64, form: VectorForm) -> String {
        let place = collection.first + at;
        let document = Self::document(collection, at);
        let mut out = String::with_capacity(16_384);
        let _ = write!(
            out,
            "{{\"id\":{},\"content\":\"{}\",\"embedding\":",
            at % PER_DOCUMENT + 1,
            self.content(place)
        );
        write_vector(&self.vector(place), form, &mut out);
        let _ = write!(
            out,
            ",\"metadata\":{{\"collection_id\":{},\"document_id\":{document},\"document_name\":\"document {document}.pdf\",\
             \"document_created_at\":{},\"page\":{},\"title\":\"Titre {document}\"}}}}",
            collection.id,
            1_700_000_000 + document,
            at % 40
        );
        out
    }

    /// The chunk's id and document in the destination.
    pub fn merged(&self, collection: &Collection, at: u64, form: VectorForm) -> (String, String) {
        let place = collection.first + at;
        let (document, id) = (Self::document(collection, at), at % PER_DOCUMENT + 1);
        let mut out = String::with_capacity(16_384);
        let _ = write!(
            out,
            "{{\"id\":{id},\"collection_id\":{},\"document_id\":{document},\"document_name\":\"document {document}.pdf\",\"embedding\":",
            collection.id
        );
        write_vector(&self.vector(place), form, &mut out);
        let _ = write!(
            out,
            ",\"content\":\"{}\",\"metadata\":{{\"page\":{},\"title\":\"Titre {document}\"}},\"created\":\"{}\"}}",
            self.content(place),
            at % 40,
            iso(1_700_000_000 + document)
        );
        let id = Sha256::digest(format!("{document}|{id}")).iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        (id, out)
    }
}

/// How a vector is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorForm {
    /// The shortest decimals.
    Floats,
    /// base64 of big-endian floats.
    Base64,
}

fn write_vector(vector: &[f32], form: VectorForm, out: &mut String) {
    if form == VectorForm::Base64 {
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_be_bytes()).collect();
        out.push('"');
        base64::engine::general_purpose::STANDARD.encode_string(bytes, out);
        out.push('"');
        return;
    }
    let mut text = ryu::Buffer::new();
    out.push('[');
    for (at, x) in vector.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(text.format(*x));
    }
    out.push(']');
}

/// Seconds of 2023 or 2024 as ISO 8601 in UTC.
fn iso(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // 2023-01-01 is day 19 358 of 1970; 2024 has a 29th of February.
    let mut day = days - 19_358;
    let (year, february) = if day < 365 { (2023, 28) } else { (2024, 29) };
    day -= if year == 2024 { 365 } else { 0 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}T{:02}:{:02}:{:02}Z", day + 1, rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(iso(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(iso(1_709_164_800), "2024-02-29T00:00:00Z");
    }

    #[test]
    fn the_same_place_gives_the_same_unit_vector() {
        let corpus = Corpus::new(1, 10, 64);
        let vector = corpus.vector(3);
        assert_eq!(vector, corpus.vector(3));
        let norm: f32 = vector.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5);
        assert!(
            serde_json::from_str::<serde_json::Value>(&corpus.source(
                &corpus.collections[0],
                3,
                VectorForm::Floats
            ))
            .is_ok()
        );
    }
}
