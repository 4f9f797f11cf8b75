use std::collections::{BTreeMap, HashMap};

use super::{Document, Front, LessonLine, Line};
use crate::model::LessonId;

/// What the owner did by hand to a lesson since the last night.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerDecision {
    /// The line says something else now.
    Edited { id: LessonId, text: String },
    /// The line is gone.
    Removed { id: LessonId },
}

/// What a night wants a file to hold.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub front: Front,
    /// Lines above the first section of a new file.
    pub intro: Vec<String>,
    /// Sections in order: heading (`## Rules`) and its lessons.
    pub sections: Vec<(&'static str, Vec<LessonLine>)>,
}

/// What the owner did between `base`, as a night left it, and `current`.
#[must_use]
pub(super) fn decisions(base: &Document, current: &Document) -> Vec<OwnerDecision> {
    let now: HashMap<&LessonId, &str> = current.lessons().map(|l| (&l.id, l.text.as_str())).collect();
    base.lessons()
        .filter_map(|was| match now.get(&was.id) {
            None => Some(OwnerDecision::Removed { id: was.id.clone() }),
            Some(text) if *text != was.text => {
                Some(OwnerDecision::Edited { id: was.id.clone(), text: (*text).to_owned() })
            }
            Some(_) => None,
        })
        .collect()
}

/// The file after a night: the wanted lessons in the owner's document. Lines that the owner wrote, changed or took out
/// stay as the owner left them.
#[must_use]
pub(super) fn merge(base: Option<&Document>, current: Option<&Document>, wanted: &Wanted) -> Document {
    let empty = Document::default();
    let (base, fresh) = (base.unwrap_or(&empty), current.is_none());
    let mut doc = current.cloned().unwrap_or_else(|| Document {
        front: Some(wanted.front.clone()),
        lines: wanted.intro.iter().map(|l| Line::Text(l.clone())).collect(),
    });
    if !fresh {
        doc.front = Some(merge_front(base.front.as_ref(), doc.front.as_ref(), &wanted.front));
    }
    let ours: HashMap<&LessonId, &str> = base.lessons().map(|l| (&l.id, l.text.as_str())).collect();
    // Kept at their place: the owner's own, and ours that they changed.
    let kept: Vec<LessonId> = doc
        .lessons()
        .filter(|l| ours.get(&l.id).is_none_or(|text| *text != l.text))
        .map(|l| l.id.clone())
        .collect();
    let removed: Vec<LessonId> = decisions(base, &doc)
        .into_iter()
        .filter_map(|d| match d {
            OwnerDecision::Removed { id } => Some(id),
            OwnerDecision::Edited { .. } => None,
        })
        .filter(|_| !fresh)
        .collect();
    doc.lines.retain(|l| !matches!(l, Line::Lesson(lesson) if !kept.contains(&lesson.id)));

    for (heading, lessons) in &wanted.sections {
        let mut lines: Vec<Line> = lessons
            .iter()
            .filter(|l| !kept.contains(&l.id) && !removed.contains(&l.id))
            .map(|l| Line::Lesson(l.clone()))
            .collect();
        let at = doc.lines.iter().position(|l| matches!(l, Line::Text(t) if t == heading));
        match at {
            Some(at) => {
                let after = doc.lines.get(at + 1).is_some_and(Line::is_blank);
                if !after && !lines.is_empty() {
                    lines.insert(0, Line::Text(String::new()));
                }
                let at = at + 1 + usize::from(after);
                doc.lines.splice(at..at, lines);
            }
            None if lines.is_empty() => {}
            None => {
                if doc.lines.last().is_some_and(|l| !l.is_blank()) {
                    doc.lines.push(Line::Text(String::new()));
                }
                doc.lines.push(Line::Text((*heading).to_owned()));
                doc.lines.push(Line::Text(String::new()));
                doc.lines.append(&mut lines);
            }
        }
    }
    tidy(&mut doc, wanted);
    doc
}

/// Drops our own headings that nothing stands under, and blank lines doubled or at the end.
fn tidy(doc: &mut Document, wanted: &Wanted) {
    let mut at = 0;
    while at < doc.lines.len() {
        let ours = matches!(&doc.lines[at], Line::Text(t) if wanted.sections.iter().any(|(h, _)| h == t));
        let end = (at + 1..doc.lines.len()).find(|i| !doc.lines[*i].is_blank()).unwrap_or(doc.lines.len());
        if ours && (end == doc.lines.len() || doc.lines[end].is_heading()) {
            doc.lines.drain(at..end);
            continue;
        }
        // A heading has a blank line above.
        if doc.lines[at].is_heading() && at > 0 && !doc.lines[at - 1].is_blank() {
            doc.lines.insert(at, Line::Text(String::new()));
            at += 1;
        }
        at += 1;
    }
    doc.lines.dedup_by(|b, a| a.is_blank() && b.is_blank());
    while doc.lines.last().is_some_and(Line::is_blank) {
        doc.lines.pop();
    }
}

fn merge_front(base: Option<&Front>, current: Option<&Front>, wanted: &Front) -> Front {
    let Some(current) = current else { return wanted.clone() };
    let mut front = current.clone();
    let untouched = base.is_some_and(|b| b.description == current.description);
    if untouched || current.description.is_empty() {
        front.description.clone_from(&wanted.description);
    }
    front.name = current.name.clone().or_else(|| wanted.name.clone());
    let mut metadata: BTreeMap<_, _> =
        front.metadata.into_iter().filter(|(k, _)| !k.starts_with("remora.")).collect();
    metadata.extend(wanted.metadata.clone());
    front.metadata = metadata;
    front
}
