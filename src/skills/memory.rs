use super::{MEMORY_CHARS, MEMORY_LINES};

/// What the index says of one file.
#[derive(Clone, Debug)]
pub(super) struct IndexEntry {
    /// Relative to the scope's folder.
    pub path: String,
    pub name: String,
    pub description: String,
    /// Lines from its `Rules` section.
    pub rules: Vec<String>,
}

const BEGIN: &str = "<!-- remora:begin -->";
const END: &str = "<!-- remora:end -->";
const HEAD: &str =
    "# Memory\n\nWhat was learned from recorded traffic. Read a file below before the work it is about.\n\n";
/// Rules quoted in the index for each file; the file has all.
const TOP_RULES: usize = 2;

/// `MEMORY.md`: a block of our own between two marks; what the owner writes around it stays.
#[must_use]
pub(super) fn print(current: Option<&str>, entries: &[IndexEntry]) -> String {
    let current = current.map_or_else(|| format!("{HEAD}{BEGIN}\n{END}\n"), str::to_owned);
    let (before, after) = match (current.find(BEGIN), current.find(END)) {
        (Some(begin), Some(end)) if begin < end => (&current[..begin], &current[end + END.len()..]),
        // The owner took the marks out: the block goes below.
        _ => (current.as_str(), "\n"),
    };
    let mut before = before.to_owned();
    if !before.is_empty() && !before.ends_with("\n\n") {
        before += if before.ends_with('\n') { "\n" } else { "\n\n" };
    }
    let mut lines_left = MEMORY_LINES.saturating_sub(before.lines().count() + after.lines().count() + 2);
    let mut chars_left = MEMORY_CHARS
        .saturating_sub(before.chars().count() + after.chars().count() + BEGIN.len() + END.len() + 2);
    let mut block = String::new();
    let mut push = |line: String| {
        let chars = line.chars().count() + 1;
        let fits = lines_left >= 1 && chars_left >= chars;
        if fits {
            lines_left -= 1;
            chars_left -= chars;
            block += &line;
            block.push('\n');
        }
        fits
    };
    // All files first: a file that is not in the index is not found.
    for e in entries {
        push(format!("- [{}]({}): {}", e.name, e.path, e.description));
    }
    let mut headed = false;
    for (name, rule) in entries.iter().flat_map(|e| e.rules.iter().take(TOP_RULES).map(move |r| (&e.name, r)))
    {
        if !headed {
            headed = push(String::new()) && push("Rules that passed their test:".into());
        }
        push(format!("- {name}: {rule}"));
    }
    format!("{before}{BEGIN}\n{block}{END}{after}")
}
