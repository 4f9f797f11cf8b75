//! Names for clusters that a person understands, without a model.

use std::collections::{HashMap, HashSet};

use super::case::Case;
use super::mask::readable;
use super::signature::UNEXPLAINED;
use crate::model::Signature;

/// Words shown of a cluster that has no error text.
const TERMS: usize = 3;

/// Longest title in characters.
const LONGEST: usize = 90;

/// The title of a cluster, from its signature; `terms` help where the signature says little.
#[must_use]
pub(super) fn title(signature: &Signature, terms: &[String]) -> String {
    let tool = signature.tool.as_deref().map(|t| format!("`{t}`"));
    let called = tool.clone().unwrap_or_else(|| "a tool".into());
    let error = without_name(&signature.text, signature.tool.as_deref());
    let said = |lead: String| {
        let room = LONGEST.saturating_sub(lead.chars().count() + 2).max(30);
        let text = readable(error, room);
        if text.is_empty() { lead } else { format!("{lead}: {text}") }
    };
    let about = if terms.is_empty() { String::new() } else { format!(" ({})", terms.join(", ")) };
    match signature.class.as_str() {
        "tool_error" => said(format!("{called} fails")),
        "arguments_schema" => said(format!("Wrong arguments for {called}")),
        "output_schema" if signature.text == "no JSON" => {
            format!("The answer is not the JSON that was asked for{about}")
        }
        "output_schema" => said("The answer breaks the requested schema".into()),
        "repeated_call" if signature.text.is_empty() => {
            format!("{called} is called again and again with the same arguments")
        }
        "repeated_call" => said(format!("{called} keeps failing")),
        "truncation" => format!("The answer is cut off at the token limit{about}"),
        "refusal" => format!("The model refuses{about}"),
        "http_error" => {
            let after = tool.map(|t| format!(" after {t}")).unwrap_or_default();
            format!("{}{after}", upstream(&signature.text))
        }
        "user_correction" => match tool {
            Some(tool) => format!("The result after {tool} is corrected{about}"),
            None => format!("The answer is corrected by the user{about}"),
        },
        "abandonment" => format!("The user leaves before it is done{about}"),
        UNEXPLAINED => match tool {
            Some(tool) if !signature.text.is_empty() => said(format!("Ends badly after {tool} failed")),
            Some(tool) => format!("Ends badly after {tool} although no error shows{about}"),
            None => format!("Ends badly without any action{about}"),
        },
        other => said(format!("{} {called}", other.replace('_', " "))),
    }
}

/// What the upstream did: `status 500`, or how the connection ended.
#[must_use]
pub(super) fn upstream(text: &str) -> String {
    match text {
        "" => "The upstream gives no answer".into(),
        "upstream_reset" => "The upstream breaks off".into(),
        "upstream_timeout" => "The upstream does not answer in time".into(),
        other => format!("The upstream answers {}", other.strip_prefix("status ").unwrap_or(other)),
    }
}

/// An error without a lead that only names the tool: `invalid arguments for cancel_order: …`.
#[must_use]
pub(super) fn without_name<'a>(error: &'a str, tool: Option<&str>) -> &'a str {
    const LEAD: usize = 70;
    match error.split_once(": ") {
        Some((lead, rest)) if lead.len() <= LEAD && tool.is_some_and(|t| lead.contains(t)) => rest,
        _ => error,
    }
}

/// The words that set each group's tasks apart from the other groups', by c-TF-IDF (Grootendorst 2022).
#[must_use]
pub(super) fn terms(groups: &[Vec<&Case>]) -> Vec<Vec<String>> {
    const STOP: [&str; 61] = [
        "the", "and", "for", "you", "your", "with", "that", "this", "have", "has", "are", "was", "were",
        "will", "can", "could", "would", "like", "want", "need", "please", "from", "not", "but", "any",
        "all", "what", "which", "who", "how", "when", "where", "name", "number", "text", "help", "also",
        "there", "their", "them", "they", "its", "into", "should", "hello", "thank", "thanks", "been",
        "given", "general", "using", "used", "use", "find", "answer", "question", "task", "make", "get",
        "each", "some",
    ];
    let words = |case: &Case| {
        let plain = |w: &&str| w.len() > 2 && w.chars().all(char::is_alphabetic);
        let found =
            case.task.split(|c: char| !c.is_alphanumeric() && c != '<').filter(plain).map(str::to_lowercase);
        let mut found: Vec<String> = found.filter(|w| !STOP.contains(&w.as_str())).collect();
        // Once a case: a long task is one voice.
        found.sort();
        found.dedup();
        found
    };
    let usual = usual(groups, &words);
    // A word that is never written small is a name.
    let small: HashSet<&str> = groups
        .iter()
        .flatten()
        .flat_map(|c| c.task.split(|c: char| !c.is_alphanumeric()))
        .filter(|w| w.starts_with(char::is_lowercase))
        .collect();
    let counted: Vec<HashMap<String, f64>> = groups
        .iter()
        .map(|group| {
            let mut counts = HashMap::new();
            let telling = |c: &&Case| {
                let common =
                    |w: &String| small.contains(w.as_str()) && !usual.contains(&(c.family, w.clone()));
                words(c).into_iter().filter(common).collect::<Vec<_>>()
            };
            group.iter().flat_map(telling).for_each(|w| *counts.entry(w).or_default() += 1.0);
            counts
        })
        .collect();
    let mut total: HashMap<&str, f64> = HashMap::new();
    for counts in &counted {
        counts.iter().for_each(|(w, n)| *total.entry(w).or_default() += n);
    }
    let all = groups.iter().map(Vec::len).sum::<usize>() as f64;
    let average = total.values().sum::<f64>() / groups.len().max(1) as f64;
    counted
        .iter()
        .zip(groups)
        .map(|(counts, group)| {
            // A word must be common in the group, and more common than elsewhere, to say what it is about.
            let (size, others) = (group.len() as f64, all - group.len() as f64);
            let common = counts.iter().filter(|(w, n)| {
                let elsewhere = (total[w.as_str()] - **n) / others.max(1.0);
                **n >= 3.0 && **n >= 0.5 * size && **n / size >= 2.0 * elsewhere
            });
            let mut scored: Vec<(f64, &String)> = common
                .map(|(w, n)| (n / group.len() as f64 * (1.0 + average / total[w.as_str()]).ln(), w))
                .collect();
            scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
            scored.into_iter().take(TERMS).map(|(_, w)| w.clone()).collect()
        })
        .collect()
}

/// Words that nearly all tasks of an agent have: they come from a template and tell nothing apart.
fn usual(groups: &[Vec<&Case>], words: &dyn Fn(&Case) -> Vec<String>) -> HashSet<(u64, String)> {
    const NEARLY_ALL: f64 = 0.7;
    const AT_LEAST: f64 = 8.0;
    let mut agents: HashMap<u64, f64> = HashMap::new();
    let mut counts: HashMap<(u64, String), f64> = HashMap::new();
    for case in groups.iter().flatten() {
        *agents.entry(case.family).or_default() += 1.0;
        words(case).into_iter().for_each(|w| *counts.entry((case.family, w)).or_default() += 1.0);
    }
    counts
        .into_iter()
        .filter(|((family, _), n)| *n >= AT_LEAST && *n >= NEARLY_ALL * agents[family])
        .map(|(word, _)| word)
        .collect()
}
