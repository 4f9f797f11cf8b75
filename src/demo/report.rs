//! What `remora demo` prints: pure functions from plain data to text and JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::plan::{Played, Summary};
use crate::model::{Cluster, Label, Lesson, LessonState, NightReport};

/// All that is known after the night.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub summary: &'a Summary,
    pub night: &'a NightReport,
    /// In the order to be shown; the largest first reads best.
    pub clusters: &'a [Cluster],
    pub lessons: &'a [Lesson],
    pub places: Places<'a>,
}

/// Where to look further.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Base URLs of the proxy and of the admin listener.
    pub proxy: &'a str,
    pub admin: &'a str,
    /// The git repository of what was learned.
    pub learned: &'a str,
    /// Files written, relative to it.
    pub files: &'a [String],
    /// Hash of the night's commit; none when nothing changed.
    pub commit: Option<&'a str>,
}

/// Whether the output may carry terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// With ANSI colours: for a terminal only.
    Terminal,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Terminal => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// Columns that wrapped text may take.
const WIDTH: usize = 100;
/// Lessons shown for a cluster; the files hold all.
const LESSONS_SHOWN: usize = 3;

/// One line on a conversation that has just ended.
#[must_use]
pub fn progress(played: &Played, style: Style) -> String {
    let mark = if played.well { style.paint("32", "went well ") } else { style.paint("31", "went wrong") };
    format!("{:>3}  {mark}  {}", played.index + 1, played.topic)
}

/// The day: what was played and how it went.
#[must_use]
pub fn day(summary: &Summary, style: Style) -> String {
    let mut out = String::new();
    let Summary { conversations, requests, streamed, seconds, .. } = summary;
    line(&mut out, &style.bold("The day"));
    let wrong = summary.wrong();
    line(
        &mut out,
        &format!(
            "  {conversations} conversations, {requests} requests ({streamed} streamed) in {seconds:.1} s"
        ),
    );
    line(&mut out, &format!("  {wrong} went wrong; feedback was given on {}", summary.feedback_given));
    if summary.feedback_refused > 0 {
        line(&mut out, &format!("  {} pieces of feedback were not taken", summary.feedback_refused));
    }
    line(&mut out, "");
    line(&mut out, &style.dim("    well wrong  what was asked for       how it went wrong"));
    for tally in &summary.topics {
        let how = tally.topic.failure().unwrap_or("-");
        line(
            &mut out,
            &format!("    {:>4} {:>5}  {:<23}  {how}", tally.well, tally.wrong, tally.topic.as_str()),
        );
    }
    out
}

/// The night: what was found, what was written, and where to look.
#[must_use]
pub fn night(report: &Report<'_>, style: Style) -> String {
    let mut out = String::new();
    let Report { night, clusters, lessons, places, .. } = report;
    line(&mut out, &style.bold("The night"));
    line(
        &mut out,
        &format!(
            "  {} trajectories: {} successes, {} failures; {} failure clusters, {} lessons, in {:.1} s",
            night.trajectories,
            night.successes,
            night.failures,
            clusters.len(),
            lessons.len(),
            night.seconds
        ),
    );
    for cluster in *clusters {
        line(&mut out, "");
        let size = format!("{} ×", cluster.size);
        wrap(&mut out, "", &format!("{size} {}", cluster.title), |text| style.bold(text));
        let of_cluster: Vec<&Lesson> = lessons.iter().filter(|l| l.cluster == Some(cluster.id)).collect();
        for lesson in of_cluster.iter().take(LESSONS_SHOWN) {
            wrap(&mut out, "        ", &format!("{} {}", mark(lesson), lesson.text), |text| text.to_owned());
            wrap(&mut out, "          ", &lesson.support, |text| style.dim(text));
        }
        match of_cluster.len() {
            0 => line(&mut out, &style.dim("        no lesson was written")),
            n if n > LESSONS_SHOWN => {
                line(&mut out, &style.dim(&format!("        and {} more", n - LESSONS_SHOWN)))
            }
            _ => {}
        }
    }
    line(&mut out, "");
    line(&mut out, &style.bold("Written"));
    line(&mut out, &format!("  {}", places.learned));
    for file in places.files {
        line(&mut out, &format!("    {file}"));
    }
    match places.commit {
        Some(commit) => line(&mut out, &format!("  in commit {}", &commit[..commit.len().min(12)])),
        None => line(&mut out, "  nothing new, so there is no commit"),
    }
    line(&mut out, "");
    line(&mut out, &format!("{}  {}", style.bold("Dashboard"), style.paint("36", places.admin)));
    out
}

/// The same as one JSON object.
#[must_use]
pub fn json(report: &Report<'_>) -> Value {
    let Report { summary, night, clusters, lessons, places } = report;
    let topic = |t: &super::Tally| json!({"topic": t.topic.as_str(), "well": t.well, "wrong": t.wrong, "failure": t.topic.failure()});
    let cluster = |c: &Cluster| {
        let of_cluster = lessons.iter().filter(|l| l.cluster == Some(c.id));
        let lesson =
            |l: &Lesson| json!({"text": l.text, "state": l.state, "support": l.support, "file": l.file});
        json!({
            "cluster_id": c.id.to_string(), "title": c.title, "size": c.size,
            "lessons": of_cluster.map(lesson).collect::<Vec<_>>(),
        })
    };
    json!({
        "proxy": places.proxy,
        "admin": places.admin,
        "day": {
            "conversations": summary.conversations, "wrong": summary.wrong(), "requests": summary.requests,
            "streamed": summary.streamed, "feedback": summary.feedback_given, "seconds": summary.seconds,
            "topics": summary.topics.iter().map(topic).collect::<Vec<_>>(),
        },
        "night": {
            "trajectories": night.trajectories, Label::Success.as_str(): night.successes,
            Label::Failure.as_str(): night.failures, "unclustered": night.unclustered, "seconds": night.seconds,
            "clusters": clusters.iter().map(cluster).collect::<Vec<_>>(), "lessons": lessons.len(),
        },
        "learned": {"path": places.learned, "files": places.files, "commit": places.commit},
    })
}

fn mark(lesson: &Lesson) -> &'static str {
    match lesson.state {
        LessonState::Active => "•",
        LessonState::Watch => "?",
        LessonState::Retired => "-",
    }
}

pub(super) fn line(out: &mut String, text: &str) {
    writeln!(out, "{}", text.trim_end()).expect("a String takes all that is written");
}

/// Writes text in lines of at most [`WIDTH`] columns where words allow it; further lines are indented by two more.
/// Control characters, which recorded text may hold and a terminal would obey, become spaces.
pub(super) fn wrap(out: &mut String, indent: &str, text: &str, paint: impl Fn(&str) -> String) {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut row = String::new();
    let mut first = true;
    let mut flush = |row: &mut String| {
        if !row.is_empty() {
            let more = if first { "" } else { "  " };
            line(out, &format!("{indent}{more}{}", paint(row)));
            first = false;
            row.clear();
        }
    };
    for word in clean.split_whitespace() {
        if row.chars().count() + word.chars().count() + indent.len() + 3 > WIDTH {
            flush(&mut row);
        }
        if !row.is_empty() {
            row.push(' ');
        }
        row.push_str(word);
    }
    flush(&mut row);
}
