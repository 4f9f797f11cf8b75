use super::DIARY_CHARS;
use crate::model::{Night, NightId};

/// What `DREAMS.md` says of a night. For people: never a source of evidence.
#[derive(Clone, Debug)]
pub struct DiaryEntry {
    pub night: NightId,
    /// `2026-11-21`.
    pub day: String,
    /// Sentences, one a line; no text from traces but cluster titles and lessons that passed the gate.
    pub lines: Vec<String>,
}

const HEAD: &str = "# Dreams\n\nWhat each night read and wrote, newest first. A diary for people; agents need not read it.\n";

impl DiaryEntry {
    /// The entry of a night with a headline of its counts, followed by `details`.
    #[must_use]
    pub fn of(night: &Night, details: Vec<String>) -> Self {
        let r = &night.report;
        let mut lines = vec![
            format!(
                "Read {} trajectories: {} successes, {} failures.",
                r.trajectories, r.successes, r.failures
            ),
            format!(
                "Clusters: {} new, {} in all; {} failures joined known ones, {} are like no other yet.",
                r.clusters_new, r.clusters_total, r.assigned, r.unclustered
            ),
            format!(
                "Lessons: {} new, {} in all; the gate refused {}.",
                r.lessons_new,
                r.lessons_total,
                r.rejected.len()
            ),
        ];
        lines.extend(details);
        Self { night: night.id, day: night.started.day(), lines }
    }

    fn print(&self) -> String {
        let mut out = format!("## {} {}\n\n", self.day, self.night);
        for line in &self.lines {
            out += &format!("- {line}\n");
        }
        out
    }

    /// The diary with this entry on top: replaced where the night is in it already, oldest nights dropped when it
    /// grows too long.
    #[must_use]
    pub(super) fn onto(&self, diary: Option<&str>) -> String {
        let (head, old) = split(diary.unwrap_or(HEAD));
        let mine = format!("## {} {}", self.day, self.night);
        let mut out = head;
        let mut length = out.chars().count();
        let others = old.into_iter().filter(|e| e.lines().next() != Some(mine.as_str()));
        for (i, entry) in std::iter::once(self.print()).chain(others).enumerate() {
            length += entry.chars().count() + 1;
            if i > 0 && length > DIARY_CHARS {
                break;
            }
            out.push('\n');
            out += entry.trim_end_matches('\n');
            out.push('\n');
        }
        out
    }
}

/// What stands above the first night, and the nights.
fn split(diary: &str) -> (String, Vec<String>) {
    let mut parts = vec![String::new()];
    for line in diary.lines() {
        if line.starts_with("## ") {
            parts.push(String::new());
        }
        let part = parts.last_mut().expect("it begins with one part");
        *part += line;
        part.push('\n');
    }
    let head = format!("{}\n", parts.remove(0).trim_end_matches('\n'));
    (head, parts)
}
