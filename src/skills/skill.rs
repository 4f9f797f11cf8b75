use std::collections::BTreeMap;

use super::merge::Wanted;
use super::{DESCRIPTION_CHARS, Front, LessonLine, SKILL_CHARS, TOPIC_BYTES};
use crate::model::{Cluster, Lesson, LessonId, LessonKind, LessonState, Scope};

pub(super) const RULES: &str = "## Rules";
pub(super) const CORRECTIONS: &str = "## Corrections by users";
pub(super) const PITFALLS: &str = "## Pitfalls";
pub(super) const WATCH: &str = "## Watch: seen, not proven";

/// Which of the two kinds of files a path names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Skill,
    Topic,
}

impl Kind {
    pub(super) fn of(path: &str) -> Self {
        if path.ends_with("/SKILL.md") { Self::Skill } else { Self::Topic }
    }

    fn fits(self, printed: &str) -> bool {
        match self {
            Self::Skill => printed.chars().count() <= SKILL_CHARS,
            Self::Topic => printed.len() <= TOPIC_BYTES,
        }
    }
}

/// The name in a path: `skills/NAME/SKILL.md` or `memory/NAME.md`.
#[must_use]
pub(super) fn name_in(path: &str) -> &str {
    let path = path.strip_suffix("/SKILL.md").or_else(|| path.strip_suffix(".md")).unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

/// What a file should hold, most useful lines first within each section; and what did not fit.
#[must_use]
pub(super) fn wanted(
    path: &str,
    scope: &Scope,
    lessons: &[&Lesson],
    clusters: &[&Cluster],
) -> (Wanted, Vec<LessonId>) {
    let mut ordered: Vec<&Lesson> = lessons.to_vec();
    // Rules before pitfalls before what is only watched; then by evidence.
    ordered.sort_by_key(|l| (section_rank(l), std::cmp::Reverse(l.evidence.len()), l.id.clone()));
    let mut dropped = Vec::new();
    loop {
        let wanted = draw_up(path, scope, &ordered, clusters);
        let printed = super::merge::merge(None, None, &wanted).print();
        if Kind::of(path).fits(&printed) {
            return (wanted, dropped);
        }
        match ordered.pop() {
            Some(last) => dropped.push(last.id.clone()),
            None => return (wanted, dropped),
        }
    }
}

fn section_rank(lesson: &Lesson) -> u8 {
    match (lesson.state, lesson.kind) {
        (LessonState::Active, LessonKind::Rule) => 0,
        (LessonState::Active, LessonKind::Correction) => 1,
        (LessonState::Active, LessonKind::Pitfall) => 2,
        _ => 3,
    }
}

fn draw_up(path: &str, scope: &Scope, lessons: &[&Lesson], clusters: &[&Cluster]) -> Wanted {
    let section = |rank: u8| {
        let of_rank = lessons.iter().filter(|l| section_rank(l) == rank);
        of_rank
            .map(|l| LessonLine {
                text: l.text.clone(),
                id: l.id.clone(),
                support: u32::try_from(l.evidence.len()).unwrap_or(u32::MAX),
                cluster: l.cluster.map(|c| c.to_string()),
            })
            .collect::<Vec<_>>()
    };
    let sections =
        vec![(RULES, section(0)), (CORRECTIONS, section(1)), (PITFALLS, section(2)), (WATCH, section(3))];
    let tool = clusters.iter().find_map(|c| c.signature.tool.clone());
    let mut sources: Vec<_> = lessons.iter().flat_map(|l| &l.evidence).collect();
    sources.sort();
    sources.dedup();
    let name = name_in(path).to_owned();
    let metadata = BTreeMap::from([
        ("remora.version".to_owned(), "1".to_owned()),
        ("remora.scope".to_owned(), scope.of_app().to_string()),
        ("remora.sources".to_owned(), sources.len().to_string()),
    ]);
    match Kind::of(path) {
        Kind::Skill => {
            let title = tool.map_or_else(|| name.clone(), |t| format!("`{t}`"));
            Wanted {
                front: Front {
                    description: describe(&title, clusters, "Use when calling"),
                    name: Some(name),
                    metadata,
                    ..Front::default()
                },
                intro: vec![
                    String::new(),
                    format!("# {title}"),
                    String::new(),
                    "Learned from recorded runs. Where each line comes from: `references/evidence.md`."
                        .to_owned(),
                ],
                sections,
            }
        }
        // Letta's hook refuses keys other than `description`, so that ours stay in the lines' comments.
        Kind::Topic => Wanted {
            front: Front {
                description: describe(&name.replace('-', " "), clusters, "About"),
                ..Front::default()
            },
            intro: vec![String::new(), format!("# {}", heading(&name))],
            sections,
        },
    }
}

/// `cut-off-answers` as `Cut off answers`.
fn heading(name: &str) -> String {
    let words = name.replace('-', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// What it is and when to read it, at most [`DESCRIPTION_CHARS`]. Angle brackets are not allowed in descriptions.
fn describe(title: &str, clusters: &[&Cluster], when: &str) -> String {
    let mut text = format!("{when} {title}.");
    let mut seen = " Seen to go wrong:";
    for cluster in clusters {
        let next = format!("{seen} {}", cluster.title.replace('<', "[").replace('>', "]"));
        if text.chars().count() + next.chars().count() + 1 > DESCRIPTION_CHARS {
            break;
        }
        text += &next;
        seen = ";";
    }
    if seen == ";" && !text.ends_with('…') {
        text.push('.');
    }
    text.chars().take(DESCRIPTION_CHARS).collect()
}
