//! Takes names and numbers out of text, so that what is left is the kind of thing that happened.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Longest masked text in characters.
const LONGEST: usize = 140;

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a constant pattern compiles")
}

/// In order: the first that matches takes the text, so that a date is not taken for numbers.
static RULES: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    [
        (r#"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'"`<>)\]]+"#, "<url>"),
        (r"(?i)\bwww\.[^\s]+", "<url>"),
        (r"[\w.+-]+@[\w-]+\.[\w.-]+\w", "<email>"),
        (r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<id>"),
        (r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)?\b", "<date>"),
        (r"\b\d{1,2}[/.]\d{1,2}[/.]\d{2,4}\b", "<date>"),
        (r"\b\d{1,2}:\d\d(?::\d\d)?(?:\s?[AaPp][Mm])?\b", "<time>"),
        (r"(?:[A-Za-z]:)?(?:\\[\w.-]+){2,}", "<path>"),
        (r"(?:~|\.{1,2})?(?:/[\w.@-]+){2,}/?", "<path>"),
        (r"\b0[xX][0-9a-fA-F]+\b", "<id>"),
        // Words that mix letters and digits: order numbers, flight numbers, user names.
        (r"#?\b(?:[A-Za-z_-]+\d|\d+[A-Za-z_-])[\w-]*", "<id>"),
        (r"#\d+\b", "<id>"),
        (r"\b\d{7,}\b", "<id>"),
        (r"[-+]?\b\d+(?:[.,]\d+)*\b%?", "<number>"),
    ]
    .map(|(p, by)| (pattern(p), by))
    .into()
});

/// Quotes count only where no letter is on their outer side: `doesn't` holds none.
static QUOTED: LazyLock<[Regex; 3]> = LazyLock::new(|| {
    [
        pattern(r#"(^|[^\w<])"([^"\n]{1,200})"($|[^\w>])"#),
        pattern(r"(^|[^\w<])'([^'\n]{1,200})'($|[^\w>])"),
        pattern(r"(^|[^\w<])`([^`\n]{1,200})`($|[^\w>])"),
    ]
});

/// Names of properties in the complaints of schema validators are the tool's, not the traffic's: they stay.
static PROPERTY: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r#"["'`]([A-Za-z_]{1,40})["'`] (is a required property|is required|was unexpected)"#)
});
static TYPE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r#"is not of types? ["'`](array|object|string|integer|number|boolean|null)["'`]"#)
});

/// A capitalised word after a small one is a name, unless it speaks of errors.
static NAME: LazyLock<Regex> = LazyLock::new(|| pattern(r"([a-z,]\s)([A-Z][a-z]+)((?:\s[A-Z][a-z]+)*)\b"));

const PLAIN_WORDS: [&str; 12] = [
    "Error",
    "Exception",
    "Warning",
    "Invalid",
    "Unknown",
    "Missing",
    "Table",
    "Column",
    "Failed",
    "Not",
    "No",
    "The",
];

/// The text with numbers, ids, addresses, paths, dates, quoted strings and names replaced by what they are; one line,
/// shortened. Words of SQL and of errors stay. Masking twice changes nothing.
#[must_use]
pub(super) fn mask(text: &str) -> String {
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.len() > 20 * LONGEST {
        text = text.chars().take(20 * LONGEST).collect();
    }
    text = PROPERTY.replace_all(&text, "$1 $2").into_owned();
    text = TYPE.replace_all(&text, "is not of type $1").into_owned();
    for (rule, by) in RULES.iter().take(3) {
        text = rule.replace_all(&text, *by).into_owned();
    }
    for quoted in QUOTED.iter() {
        // Twice: neighbours share the character between them.
        for _ in 0..2 {
            let by = |c: &Captures<'_>| {
                let what = if c[2].contains(' ') { "<text>" } else { "<name>" };
                let what = if c[2].starts_with('<') && c[2].ends_with('>') { &c[2] } else { what };
                format!("{}{what}{}", &c[1], &c[3])
            };
            text = quoted.replace_all(&text, by).into_owned();
        }
    }
    for (rule, by) in RULES.iter().skip(3) {
        text = rule.replace_all(&text, *by).into_owned();
    }
    let by = |c: &Captures<'_>| {
        if PLAIN_WORDS.contains(&&c[2]) { c[0].to_owned() } else { format!("{}<name>", &c[1]) }
    };
    text = NAME.replace_all(&text, by).into_owned();
    shorten(&text, LONGEST)
}

/// What people wrote, with addresses and ids taken out and everything else as it was; one line.
#[must_use]
pub(super) fn redact(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let personal = RULES.iter().filter(|(_, by)| matches!(*by, "<email>" | "<id>" | "<path>"));
    personal.fold(text, |text, (rule, by)| rule.replace_all(&text, *by).into_owned())
}

/// A masked text as people read it, at most so long: placeholders as `…` and `N`; a long one ends with a clause rather
/// than in the middle of one. Of several complaints those that name something come first.
#[must_use]
pub(super) fn readable(masked: &str, longest: usize) -> String {
    let (masked, was_cut) = masked.strip_suffix('…').map_or((masked, false), |m| (m, true));
    let mut clauses: Vec<&str> = masked.split("; ").collect();
    if was_cut && clauses.len() > 1 {
        clauses.pop();
    }
    let told: Vec<&str> = clauses.iter().copied().filter(|c| !c.contains('<')).collect();
    let several = clauses.len() > 1 && !told.is_empty();
    let text = if several { told.join("; ") } else { clauses.join("; ") };
    let was_cut = was_cut && masked.matches("; ").count() == 0;
    let text = text.replace("<number>", "N");
    let text = PLACEHOLDER.replace_all(&text, "…");
    // Quotes and brackets around what was taken out say nothing.
    let text = EMPTY.replace_all(&text, "…");
    // Where a validator looked: `/item_ids: … is not of type array`.
    let text = PLACE.replace(&text, "$1 ");
    let text = HANGING.replace(text.trim_end_matches(['.', ' ']), "$1");
    let text = text.trim().trim_end_matches(['.', ':', ',', ';', ' ']);
    if text.trim_matches(['…', ' ', 'N']).is_empty() {
        return String::new();
    }
    if text.chars().count() <= longest && !was_cut {
        return text.to_owned();
    }
    let head: String = text.chars().take(longest).collect();
    let ends = ["; ", ". ", ", ", ": ", " (", " - "].iter().filter_map(|b| head.rfind(b));
    match ends.max().filter(|at| *at * 3 >= longest) {
        Some(at) => head[..at].trim_end_matches(['.', ':', ',', ';', ' ']).to_owned(),
        None => {
            let cut = head.rfind(' ').map_or(head.as_str(), |at| &head[..at]);
            // Not with a word that wants another.
            let mut words: Vec<&str> = cut.split(' ').collect();
            while words.len() > 3 && words.last().is_some_and(|w| LINKS.contains(w)) {
                words.pop();
            }
            words.join(" ")
        }
    }
}

const LINKS: [&str; 28] = [
    "a", "an", "the", "of", "for", "to", "in", "on", "at", "by", "with", "without", "from", "and", "or",
    "but", "because", "that", "which", "when", "is", "was", "are", "be", "not", "as", "than", "if",
];
static PLACEHOLDER: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"<(?:url|email|id|date|time|path|name|text)>"));
static PLACE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^/(\w+): (?:… )?"));
static HANGING: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(\w ?…?) (?:in|at|on|near|for|from|to|with|of|by) …$"));
static EMPTY: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"[\[("'#]*…[\])"']*(?:[ ,/]+[\[("'#]*…[\])"']*)*"#));

/// The beginning of a text, cut between words.
#[must_use]
pub(super) fn shorten(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let cut: String = text.chars().take(longest).collect();
    let cut = cut.rfind(' ').map_or(cut.as_str(), |at| &cut[..at]);
    // No half placeholder at the end.
    let cut = match (cut.rfind('<'), cut.rfind('>')) {
        (Some(open), close) if close.is_none_or(|c| c < open) => &cut[..open],
        _ => cut,
    };
    format!("{}…", cut.trim_end_matches([' ', ',', ';', ':']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_text_reads_like_a_sentence() {
        for (text, read) in [
            ("Unknown column 'T1.id' in 'field list'", "Unknown column …"),
            ("unknown sku 'desk lamp'", "unknown sku …"),
            (
                "refund of 120.50 euros exceeds the limit of 100 euros.",
                "refund of N euros exceeds the limit of N euros",
            ),
            (
                "'a@b.example' does not match '^C'; 'postal_code' is a required property",
                "postal_code is a required property",
            ),
            (r#"/item_ids: "[1]" is not of type "array""#, "item_ids is not of type array"),
            (
                "the order 7 was sent to Jane Roe in the morning of the day before, which nobody had",
                "the order N was sent to … in the morning of the day before",
            ),
            ("'x'", ""),
        ] {
            assert_eq!(readable(&mask(text), 70), read);
        }
    }

    #[test]
    fn a_readable_text_ends_with_no_half_sentence() {
        let long = "refund of 500 euros exceeds the limit of 100 for refunds without approval by anybody";
        assert_eq!(readable(&mask(long), 60), "refund of N euros exceeds the limit of N for refunds");
        let cut = format!("first thing; second thing {}", "word ".repeat(60));
        assert_eq!(readable(&mask(&cut), 100), "first thing");
    }

    #[test]
    fn what_varies_is_masked_and_what_tells_stays() {
        for (text, masked) in [
            ("Table 'poker_player.results' doesn't exist", "Table <name> doesn't exist"),
            ("Unknown column 'T1.id' in 'field list'", "Unknown column <name> in <text>"),
            ("order #W2378156 cannot be cancelled", "order <id> cannot be cancelled"),
            (
                "payment amount does not add up, total price is 375, but paid 400.50",
                "payment amount does not add up, total price is <number>, but paid <number>",
            ),
            ("no user jane.doe@example.com on 2024-05-15T10:00:00Z", "no user <email> on <date>"),
            ("not found: /home/jane/a.txt at https://x.example/y?z=1", "not found: <path> at <url>"),
            ("id 550e8400-e29b-41d4-a716-446655440000 and 0xdeadbeef", "id <id> and <id>"),
            ("flights for Mia Li from New York", "flights for <name> from <name>"),
            (
                "You have an error in your SQL syntax near 'SELECT 1' at line 1",
                "You have an error in your SQL syntax near <text> at line <number>",
            ),
        ] {
            assert_eq!(mask(text), masked);
            assert_eq!(mask(masked), masked, "masking twice changes nothing");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_words_and_placeholders() {
        let text = "word 12 ".repeat(60);
        let masked = mask(&text);
        assert!(masked.chars().count() <= LONGEST + 1, "{masked}");
        assert_eq!(masked.matches('<').count(), masked.matches('>').count(), "{masked}");
    }
}
