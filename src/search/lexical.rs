use std::collections::BTreeMap;

use super::{EmbedError, Embedder};

/// Length of the vectors: the same as MiniLM's, so that stored sizes and thresholds stay in one range.
const DIMENSIONS: usize = 384;

/// Characters of a text that are read.
const MAX_CHARS: usize = 20_000;

/// Longer words are cut: base64 and other blobs would otherwise bring a feature for each letter.
const MAX_WORD_CHARS: usize = 32;

/// A whole word against one of its letter groups. A word of n letters has about 2n groups, so that groups carry
/// typos and inflection without drowning the words.
const WORD_WEIGHT: f64 = 1.0;
const GRAM_WEIGHT: f64 = 0.3;

/// Words that say nothing about a task. There is no collection to count document frequencies over, so they are listed.
const STOP_WORDS: [&str; 50] = [
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do", "does",
    "for", "from", "had", "has", "have", "i", "if", "in", "is", "it", "its", "me", "my", "of", "on", "or",
    "our", "please", "so", "that", "the", "their", "them", "then", "there", "this", "to", "was", "we",
    "were", "will", "with", "would", "you", "your",
];

/// Text as hashed words and letter groups: no model, no library, no state.
///
/// A text is lowercased and cut into words (runs of letters and digits, each digit read as `0`, so that order numbers
/// look alike). Features are the words that are not stop words, and the groups of 3 and 4 letters of `^word$`. A
/// feature counts with the square root of how often it occurs (sublinear, and unlike a logarithm exact on every
/// platform). Feature `f` is added to component `h mod 384` with the sign of the top bit of `h` (signed feature
/// hashing: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009), where `h` is FNV-1a
/// of 64 bits over the tag `w` or `g` and the UTF-8 bytes of `f`, finished with the mixer `fmix64` of MurmurHash3.
/// The row is divided by its L2 norm; a text without features gives zeros.
///
/// Same text, same vector, on every platform and release: whoever changes the above changes the version in the name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lexical;

impl Embedder for Lexical {
    fn name(&self) -> &str {
        "lexical-1"
    }

    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        Ok(texts.iter().map(|text| embed(text)).collect())
    }
}

fn embed(text: &str) -> Vec<f32> {
    // Ordered by hash: floating-point sums depend on their order.
    let mut features: BTreeMap<u64, (u32, f64)> = BTreeMap::new();
    let mut count = |tag: u8, feature: &str, weight: f64| {
        features.entry(hash(tag, feature)).or_insert((0, weight)).0 += 1;
    };
    let text: String = text.chars().take(MAX_CHARS).flat_map(char::to_lowercase).collect();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        let word: String =
            word.chars().take(MAX_WORD_CHARS).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        if STOP_WORDS.binary_search(&word.as_str()).is_ok() {
            continue;
        }
        count(b'w', &word, WORD_WEIGHT);
        let bounded: Vec<char> =
            std::iter::once('^').chain(word.chars()).chain(std::iter::once('$')).collect();
        for length in [3, 4] {
            for group in bounded.windows(length) {
                count(b'g', &group.iter().collect::<String>(), GRAM_WEIGHT);
            }
        }
    }

    let mut row = vec![0.0_f64; DIMENSIONS];
    for (hash, (occurrences, weight)) in features {
        let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
        row[(hash % DIMENSIONS as u64) as usize] += sign * weight * f64::from(occurrences).sqrt();
    }
    let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
    // All zeros stay zeros: nothing is like a text without words.
    row.iter().map(|x| if norm > 0.0 { (x / norm) as f32 } else { 0.0 }).collect()
}

/// FNV-1a (64 bits) of the tag and the feature, finished with MurmurHash3's `fmix64`: FNV alone leaves the top bit,
/// which is the sign, nearly constant for short inputs that differ in their last byte.
fn hash(tag: u8, feature: &str) -> u64 {
    let fnv = std::iter::once(tag)
        .chain(feature.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let h = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::cosine;
    use super::*;

    fn one(text: &str) -> Vec<f32> {
        Lexical.embed(&[text]).expect("lexical embedding cannot fail").remove(0)
    }

    #[test]
    fn similar_texts_are_closer_than_unrelated_ones() {
        let refund = one("Please refund order 1234, the blue mug arrived broken");
        let refund2 = one("I want refunds for my orders: two mugs arrived broken (order 9876)");
        let flight = one("Book a flight from Berlin to Lisbon next Friday");
        assert!(cosine(&refund, &refund2) > 0.3, "{}", cosine(&refund, &refund2));
        assert!(cosine(&refund, &flight).abs() < 0.15, "{}", cosine(&refund, &flight));
    }

    #[test]
    fn numbers_are_compared_by_their_shape() {
        assert_eq!(one("order 1234"), one("order 9876"));
        assert_ne!(one("order 1234"), one("order 98765"));
    }

    #[test]
    fn a_text_without_words_is_like_nothing() {
        for text in ["", "  \n", "!?… —", "the and of"] {
            assert!(one(text).iter().all(|x| *x == 0.0), "{text:?}");
        }
    }

    #[test]
    fn stop_words_are_sorted_for_the_binary_search() {
        assert!(STOP_WORDS.is_sorted());
    }

    /// Stored vectors are compared with those of later releases: if this fails, change the version in the name.
    #[test]
    fn the_hash_and_the_vectors_are_those_of_version_1() {
        assert_eq!(hash(b'w', ""), golden::EMPTY);
        assert_eq!(hash(b'g', "^re"), golden::RE);
        let row = one("Größe 42 überprüfen, then refund");
        let digest: u64 =
            row.iter().fold(0, |h, x| (h ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(digest, golden::ROW);
    }

    /// Computed by a second implementation, in Python.
    mod golden {
        pub const EMPTY: u64 = 0x436b_07a8_1e11_261d;
        pub const RE: u64 = 0xec4f_4a38_6a9d_f310;
        pub const ROW: u64 = 0x562d_d686_d3e0_5ded;
    }

    proptest! {
        #[test]
        fn every_row_has_norm_one_or_is_zero(text in "\\PC{0,200}") {
            let row = one(&text);
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            prop_assert_eq!(row.len(), DIMENSIONS);
            prop_assert!(norm == 0.0 || (norm - 1.0).abs() < 1e-4, "norm {}", norm);
        }
    }
}
