//! Votes failure when the user says that the answer was not it, or asks the same again.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::{Regex, RegexSet};

use super::acknowledgement::is_thanks;
use super::observe::{is_person, quote, step_at};
use crate::model::{Role, Transcript, Vote, VoteSource};

const CONFIDENCE: f64 = 0.7;
/// Corrected more than once.
const AGAIN: f64 = 0.8;
/// The conversation went on for at least two more user turns without another correction.
const LONG_AGO: f64 = 0.55;

/// Verdicts on an answer; an environment may give them as well as a person. Said at the beginning of a sentence.
static VERDICTS: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new([
        r"(?im)(?:^|[.!?,;]\s+|^no[,.]?\s+|^but\s+)(?:that|this|it|which)(?:'s|’s| is| was) (?:still |completely |just |also )?(?:wrong\b|incorrect\b|not (?:right|correct|true|it\b|what i)|false\b)",
        r"(?im)(?:^|[.!?,;]\s+)(?:your|the) (?:last |previous |final )?(?:answer|solution|response|result|output|code|reply) (?:is|was|are) (?:still )?(?:wrong|incorrect|not (?:right|correct))",
        r"(?i)\b(?:is|was|'s|’s)(?: not|n't|n’t) what i(?:'d|’d| had)? (?:asked|wanted|meant|said|requested|ordered|need)",
        r"(?im)(?:^|[.!?,;]\s+)(?:but |no,? )?you(?:'re|’re| are) (?:wrong|mistaken|not listening|misunderstanding)",
        r"(?im)(?:^|[.!?,;]\s+)(?:but |no,? )?you(?:'ve|’ve| have)? (?:misunderst\w+|got (?:it|that|this) wrong|made (?:a|another) mistake|ignored (?:my|what|the)|forgot (?:to|my|the|about))",
    ])
    .expect("the patterns are valid")
});

/// What only a person says.
static COMPLAINTS: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new([
        r"(?im)^\W*(?:no[,.!]?\s+)?(?:but\s+)?(?:as\s+)?i (?:already |just |clearly )?(?:said|told you|asked you (?:to|for)|asked for|meant)\b",
        r"(?im)^\W*(?:no|nope|wrong|incorrect)[,.!]*\s+(?:that(?:'s|’s| is| was)|it(?:'s|’s| is| was)|you) (?:not |wrong|incorrect)",
        r"(?im)^\W*(?:that(?:'s|’s| is)? )?(?:wrong|incorrect)\s*(?:[.!,]|$)",
        r"(?im)(?:^|[.!?,;]\s+)(?:that|it|this) (?:still )?(?:doesn(?:'|’)t|does not|didn(?:'|’)t|did not) (?:work|help|answer)",
        r"(?im)^\W*(?:it(?:'s|’s| is)? )?still (?:not working|broken|wrong|fail\w*|the same (?:error|problem|issue))",
    ])
    .expect("the patterns are valid")
});

/// A bare no. It may answer a question of the assistant's, and it may be polite.
static NO: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^\W*(?:(?:no|nope)\b\s*[,.!;–—-]|wrong\b)[,.!;\s–—-]*\w").expect("the pattern is valid")
});
static POLITE_NO: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^\W*(?:no|nope)\b\W+(?:thank|thx|problem|worries|need\b|rush|that(?:'s|’s| is| will be|'ll be| should be)? (?:all|it|fine|ok|everything|correct|right|good|great)|nothing|i(?:'m|’m| am) (?:good|fine|all|done|ok)|i(?:'ve|’ve| have)? (?:don(?:'|’)t|do not|no|got|think|have)|it(?:'s|’s| is) (?:fine|ok|good|all)|everything|further|more|other|go ahead|all (?:good|set))")
        .expect("the pattern is valid")
});
static YES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^\W*(?:yes|yeah|yep|sure|ok|okay|correct|right|please (?:go ahead|proceed)|go ahead|i confirm|confirmed|great|perfect|thank)")
        .expect("the pattern is valid")
});

/// Points at the answer before the last correction.
pub(super) fn vote(t: &Transcript) -> Option<Vote> {
    let turns: Vec<usize> =
        t.messages.iter().enumerate().filter(|(_, m)| m.role == Role::User).map(|(i, _)| i).collect();
    let found: Vec<(usize, Kind)> = turns
        .iter()
        .enumerate()
        .skip(1)
        .filter_map(|(nth, &index)| kind_of(t, &turns[..nth], index).map(|kind| (nth, kind)))
        .collect();
    let &(nth, kind) = found.last()?;
    // The user is content in the end: the correction worked.
    let after = &turns[nth + 1..];
    if after.iter().any(|&i| is_thanks(&t.messages[i].text)) {
        return None;
    }
    let confidence = if found.len() > 1 {
        AGAIN
    } else if after.len() >= 2 {
        LONG_AGO
    } else {
        CONFIDENCE
    };
    let what = match kind {
        Kind::Said => "The user corrects the answer",
        Kind::Repeated => "The user asks the same again",
    };
    Some(Vote {
        source: VoteSource::UserCorrection,
        value: 0.0,
        confidence,
        step: step_at(t, turns[nth]),
        evidence: format!("{what}: {}", quote(&t.messages[turns[nth]].text)),
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Said,
    Repeated,
}

fn kind_of(t: &Transcript, before: &[usize], index: usize) -> Option<Kind> {
    let m = &t.messages[index];
    // Corrections come first in a message; long ones are tasks and documents, which may quote anything.
    let opening: String = m.text.chars().take(400).collect();
    let answer = t.messages[..index].iter().rev().find(|m| m.role == Role::Assistant)?;
    if VERDICTS.is_match(&opening) {
        return Some(Kind::Said);
    }
    if !is_person(m) {
        return None;
    }
    let asked = answer.text.chars().rev().take(300).any(|c| c == '?');
    if COMPLAINTS.is_match(&opening) || (!asked && NO.is_match(&opening) && !POLITE_NO.is_match(&opening)) {
        return Some(Kind::Said);
    }
    // Who says yes repeats in order to confirm; who was asked repeats in order to answer.
    let repeats = !asked
        && !YES.is_match(&m.text)
        && before
            .iter()
            .rev()
            .take(REPEAT_WITHIN)
            .any(|&i| is_person(&t.messages[i]) && alike(&t.messages[i].text, &m.text));
    repeats.then_some(Kind::Repeated)
}

/// User turns back in which a request counts as the same one.
const REPEAT_WITHIN: usize = 3;
/// Share of words in common (Jaccard) from which two requests are the same.
const ALIKE: f64 = 0.6;
/// Shorter messages say too little to be compared.
const WORDS: usize = 4;

fn alike(a: &str, b: &str) -> bool {
    let (a, b) = (words(a), words(b));
    let common = a.intersection(&b).count();
    let all = a.len() + b.len() - common;
    a.len() >= WORDS && b.len() >= WORDS && common as f64 >= ALIKE * all as f64
}

fn words(text: &str) -> BTreeSet<String> {
    const STOP: [&str; 22] = [
        "the", "and", "you", "can", "could", "would", "please", "for", "with", "that", "this", "what", "are",
        "have", "from", "how", "not", "was", "but", "your", "just", "any",
    ];
    text.to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| w.chars().count() >= 3 && !STOP.contains(w))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::*;

    fn reply(answer: &str, text: &str) -> Option<Vote> {
        vote(&Script::new().user("Book a table").answer(answer).user(text).answer("Hm.").done())
    }

    #[test]
    fn corrections_are_seen_and_point_at_the_answer_before() {
        for text in [
            "No, that's wrong.",
            "That is not what I asked for.",
            "that's incorrect",
            "No, the other one.",
            "I said two persons, not three.",
            "You misunderstood me.",
            "This still doesn't work.",
            "It's not what I meant",
            "Your answer is wrong.",
            "But I asked for Tuesday",
        ] {
            assert_eq!(
                reply("Done: a table.", text).unwrap_or_else(|| panic!("{text}")).step,
                Some(0),
                "{text}"
            );
        }
    }

    #[test]
    fn polite_words_and_other_things_are_no_corrections() {
        for text in [
            "No, thanks.",
            "No, that's all, thank you!",
            "No, that's fine.",
            "No. I don't need anything else.",
            "No problem.",
            "No longer needed, cancel it.",
            "Yes, that is correct.",
            "Is it wrong to ask for more?",
            "My brother said hello.",
            "Nothing is wrong, go on.",
            "Now book a taxi.",
        ] {
            assert_eq!(reply("Done: a table.", text), None, "{text}");
        }
    }

    #[test]
    fn a_no_that_answers_a_question_is_no_correction() {
        assert_eq!(reply("Shall I book for two?", "No, for three."), None);
    }

    #[test]
    fn the_first_message_cannot_correct() {
        assert_eq!(
            vote(&Script::new().user("That's wrong: 2+2=5. Explain.").answer("It is 4.").done()),
            None
        );
    }

    #[test]
    fn a_request_asked_again_votes_and_one_that_is_confirmed_does_not() {
        let first = "Find the cheapest direct flight from Berlin to Madrid";
        let again = "Please find the cheapest direct flight Berlin to Madrid!";
        let t = Script::new().user(first).answer("Here are hotels.").user(again).answer("Hm.").done();
        assert!(vote(&t).expect("a vote").evidence.starts_with("The user asks the same again"));
        let yes = format!("Yes, {first}");
        assert_eq!(
            vote(&Script::new().user(first).answer("From Berlin.").user(&yes).answer("Ok.").done()),
            None
        );
        let other = "Find the nicest hotel in Lisbon near the harbour";
        assert_eq!(vote(&Script::new().user(first).answer("It is X.").user(other).answer("Y.").done()), None);
    }

    #[test]
    fn a_correction_that_ends_in_thanks_is_recovered() {
        let s = Script::new()
            .user("a")
            .answer("b")
            .user("No, that's wrong.")
            .answer("c")
            .user("Perfect, thank you!");
        assert_eq!(vote(&s.answer("Welcome.").done()), None);
    }

    #[test]
    fn two_corrections_weigh_more_and_old_ones_less() {
        let twice = Script::new()
            .user("a")
            .answer("b")
            .user("That's wrong.")
            .answer("c")
            .user("That is still wrong.");
        assert_eq!(vote(&twice.done()).expect("a vote").confidence, AGAIN);
        let old = Script::new()
            .user("a")
            .answer("b")
            .user("That's wrong.")
            .answer("c")
            .user("And d")
            .answer("e")
            .user("f");
        assert_eq!(vote(&old.done()).expect("a vote").confidence, LONG_AGO);
    }
}
