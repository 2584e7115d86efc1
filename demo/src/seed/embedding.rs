//! A deterministic embedding made of hashed n-grams. It is **not** a language model.
//!
//! Every word and every three-letter piece of a word is hashed to one dimension and one sign; the sum is
//! scaled to length 1. Texts that share words are near each other, the same text is at cosine 1, and the
//! same input gives the same bits on every machine. So a kNN query for a text has a known right answer,
//! without a model, a download or a GPU. It knows nothing of meaning.

/// The embedding of `text` with `dimensions` numbers, of length 1 (a text without a letter included).
///
/// # Examples
/// ```
/// let a = demo::seed::embedding::embed("open a file", 64);
/// assert_eq!(a, demo::seed::embedding::embed("Open a file", 64));
/// ```
#[must_use]
pub fn embed(text: &str, dimensions: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; dimensions];
    if sums.is_empty() {
        return Vec::new();
    }
    let lowered = text.to_lowercase();
    let mut piece = String::new();
    for word in lowered.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let letters: Vec<char> =
            std::iter::once('^').chain(word.chars()).chain(std::iter::once('$')).collect();
        // Short words are mostly articles and prepositions: they say less about a text.
        add(&mut sums, word.as_bytes(), length_weight(letters.len() - 2));
        for gram in letters.windows(3) {
            piece.clear();
            piece.extend(gram);
            add(&mut sums, piece.as_bytes(), 0.25);
        }
    }
    to_unit(&sums, &lowered)
}

fn length_weight(letters: usize) -> f64 {
    match letters {
        0..=2 => 0.1,
        3 => 0.3,
        4 => 0.7,
        5..=6 => 1.0,
        _ => 1.5,
    }
}

fn add(sums: &mut [f64], feature: &[u8], weight: f64) {
    let hash = fnv(feature);
    let signed = if hash >> 63 == 0 { weight } else { -weight };
    let at = slot(hash, sums.len());
    sums[at] += signed;
}

fn to_unit(sums: &[f64], text: &str) -> Vec<f32> {
    let norm = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm < 1e-9 {
        // Nothing to hash, or everything cancelled out: one dimension stands for the whole text.
        let mut only = vec![0.0_f32; sums.len()];
        only[slot(fnv(text.as_bytes()), sums.len())] = 1.0;
        return only;
    }
    // The nearest f32 is what a server stores.
    #[allow(clippy::cast_possible_truncation)]
    sums.iter().map(|x| (x / norm) as f32).collect()
}

fn slot(hash: u64, dimensions: usize) -> usize {
    // The remainder is smaller than a `usize`.
    usize::try_from((hash & 0x7fff_ffff_ffff_ffff) % dimensions as u64).unwrap_or(0)
}

/// FNV-1a with a final mix: stable for ever, unlike the standard library's hasher.
fn fnv(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn is_of_unit_length_for_any_text_and_dimension() {
        for text in ["", "…", "a", "Open a file", "Öffnet eine Datei\u{301}", "🙂"] {
            for dimensions in [1, 3, 8, 64, 1024] {
                let vector = embed(text, dimensions);
                assert_eq!(vector.len(), dimensions);
                assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-5, "{text} {dimensions}");
            }
        }
    }

    #[test]
    fn a_text_with_the_same_words_is_nearer_than_another() {
        let asked = embed("how does a process wait for a child to change state", 1024);
        let near = embed(
            "All of these system calls are used to wait for state changes in a child of the calling process",
            1024,
        );
        let far = embed("The font path is a list of directories searched for glyphs", 1024);
        assert!(cosine(&asked, &near) > cosine(&asked, &far) + 0.1);
    }

    #[test]
    fn never_changes_from_one_release_to_the_next() {
        assert_eq!(fnv(b"merge"), fnv(b"merge"));
        assert_eq!(embed("merge", 4), embed("MERGE", 4));
    }
}
