use tantivy::tokenizer::{
    AsciiFoldingFilter, LowerCaser, RemoveLongFilter, TextAnalyzer, Token, TokenStream, Tokenizer,
};

/// The analyzer's name in the index's schema.
pub(super) const ANALYZER: &str = "remora_words";

/// Bytes of the longest word that is indexed; longer ones are encoded data that nobody types.
const MAX_WORD_BYTES: usize = 100;

/// Words in lower case without accents.
pub(super) fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(Words::default())
        .filter(RemoveLongFilter::limit(MAX_WORD_BYTES))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter)
        .build()
}

/// Cuts text into runs of letters and digits; Chinese and Japanese, which have no spaces, into single characters, so
/// that a query of several is a phrase.
#[derive(Clone, Debug, Default)]
struct Words {
    token: Token,
}

#[derive(Debug)]
struct WordStream<'a> {
    text: &'a str,
    at: usize,
    token: &'a mut Token,
}

impl Tokenizer for Words {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        self.token.reset();
        WordStream { text, at: 0, token: &mut self.token }
    }
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        let Some(skipped) = self.text[self.at..].find(char::is_alphanumeric) else { return false };
        let from = self.at + skipped;
        let rest = &self.text[from..];
        let first = rest.chars().next().expect("a character was found here");
        let length = if stands_alone(first) {
            first.len_utf8()
        } else {
            rest.find(|c: char| !c.is_alphanumeric() || stands_alone(c)).unwrap_or(rest.len())
        };
        self.at = from + length;
        self.token.offset_from = from;
        self.token.offset_to = self.at;
        self.token.position = self.token.position.wrapping_add(1);
        self.token.text.clear();
        self.token.text.push_str(&rest[..length]);
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

/// Kana, and Han with its extensions and compatibility forms.
fn stands_alone(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{3ffff}')
}

/// The words of a text, as the index has them.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut analyzer = analyzer();
    let mut stream = analyzer.token_stream(text);
    let mut words = Vec::new();
    while stream.advance() {
        words.push(stream.token().text.clone());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits_and_han_stands_alone() {
        assert_eq!(words("Über order_42, naïve!"), ["uber", "order", "42", "naive"]);
        assert_eq!(words("退款ok注文"), ["退", "款", "ok", "注", "文"]);
        assert_eq!(words("한국어 текст"), ["한국어", "текст"]);
        assert!(words(&"x".repeat(200)).is_empty() && words(" …").is_empty());
    }
}
