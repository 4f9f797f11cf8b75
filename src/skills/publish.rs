use std::collections::{BTreeMap, BTreeSet};

use super::memory::{self, IndexEntry};
use super::merge::{self, OwnerDecision};
use super::repo::Change;
use super::skill::{self, Kind};
use super::{DiaryEntry, Document, Repo, SkillsError};
use crate::model::{Cluster, Lesson, LessonId, LessonState, Micros, NightId, Scope};
use crate::store::DataDir;

/// What a night wants to be written.
#[derive(Clone, Debug)]
pub struct Publication<'a> {
    pub scope: &'a Scope,
    pub night: NightId,
    pub when: Micros,
    /// All lessons of the scope, retired ones too.
    pub lessons: &'a [Lesson],
    pub clusters: &'a [Cluster],
    pub diary: &'a DiaryEntry,
    /// The commit's message, without its trailer.
    pub message: &'a str,
    /// Commit on `proposals/<night>` instead of writing files.
    pub propose: bool,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// None when the files say all of it already.
    pub commit: Option<String>,
    /// Lessons that no file had room for.
    pub dropped: Vec<LessonId>,
}

/// Retired lines kept in one archive file; older ones stay in git.
const ARCHIVE_LINES: usize = 200;
/// Trajectories named for one lesson in `evidence.md`.
const EVIDENCE_IDS: usize = 12;

/// Writes what a night learned, in one commit. The second time for the same night it finds that commit and changes
/// nothing.
pub fn publish(repo: &Repo, p: &Publication<'_>) -> Result<Published, SkillsError> {
    if let Some(commit) = repo.commit_of(p.night)? {
        return Ok(Published { commit: Some(commit), dropped: Vec::new() });
    }
    if !p.propose {
        repo.commit_owner_edits(p.when)?;
    }
    let folder = folder(p.scope);
    let (mut files, dropped) = files(repo, p, &folder)?;
    files.retain(|path, content| repo.head_file(path) != *content);
    if files.is_empty() {
        return Ok(Published { commit: None, dropped });
    }
    let diary = format!("{folder}/DREAMS.md");
    let text = p.diary.onto(repo.head_file(&diary).as_deref());
    files.insert(diary, Some(text));
    let changes: Vec<Change> = files.into_iter().collect();
    let message = format!("{}\n\nNight: {}\n", p.message.trim_end(), p.night);
    let commit = if p.propose {
        repo.propose(&format!("proposals/{}", p.night), &changes, &message, p.when)?
    } else {
        repo.commit(&changes, &message, p.when, None)?
    };
    Ok(Published { commit: Some(commit), dropped })
}

/// What the owner did by hand to lessons of a scope since the last night.
pub fn owner_decisions(repo: &Repo, scope: &Scope) -> Result<Vec<OwnerDecision>, SkillsError> {
    let mut all = Vec::new();
    for path in lesson_files(repo, &folder(scope))? {
        let Some(base) = parsed(repo.base_file(&path)?) else { continue };
        let current = match repo.working_file(&path) {
            None => Document::default(),
            // Frontmatter broken by hand says nothing about the lessons.
            Some(text) => match Document::parse(&text) {
                Ok(document) => document,
                Err(_) => continue,
            },
        };
        all.extend(merge::decisions(&base, &current));
    }
    Ok(all)
}

/// The scope's folder in its tenant's repository.
fn folder(scope: &Scope) -> String {
    // The same naming as the data directory's, so that hostile app names stay one component.
    DataDir::new("")
        .learned(&scope.app)
        .file_name()
        .map_or_else(|| "app".into(), |n| n.to_string_lossy().into_owned())
}

fn parsed(text: Option<String>) -> Option<Document> {
    Document::parse(&text?).ok()
}

fn lesson_files(repo: &Repo, folder: &str) -> Result<Vec<String>, SkillsError> {
    let mut files = repo.base_files(&format!("{folder}/"))?;
    files.retain(|f| f.ends_with("/SKILL.md") || f.starts_with(&format!("{folder}/memory/")));
    Ok(files)
}

type Files = BTreeMap<String, Option<String>>;

fn files(repo: &Repo, p: &Publication<'_>, folder: &str) -> Result<(Files, Vec<LessonId>), SkillsError> {
    let mut by_file: BTreeMap<&str, Vec<&Lesson>> = BTreeMap::new();
    for lesson in p.lessons.iter().filter(|l| l.state != LessonState::Retired) {
        by_file.entry(&lesson.file).or_default().push(lesson);
    }
    let written = lesson_files(repo, folder)?;
    let prefix = format!("{folder}/");
    let paths: BTreeSet<&str> =
        by_file.keys().copied().chain(written.iter().filter_map(|f| f.strip_prefix(&prefix))).collect();

    let deleted = Document::default();
    let (mut files, mut dropped, mut index) = (Files::new(), Vec::new(), Vec::new());
    for path in paths {
        let lessons = by_file.get(path).map_or(&[][..], Vec::as_slice);
        let clusters: Vec<&Cluster> =
            p.clusters.iter().filter(|c| lessons.iter().any(|l| l.cluster == Some(c.id))).collect();
        let (wanted, lost) = skill::wanted(path, p.scope, lessons, &clusters);
        dropped.extend(lost);
        let full = format!("{folder}/{path}");
        let base = parsed(repo.base_file(&full)?);
        let current = repo.head_file(&full);
        let document = match current.as_deref().map(Document::parse) {
            // Not readable: the owner's to mend.
            Some(Err(_)) => continue,
            Some(Ok(current)) => merge::merge(base.as_ref(), Some(&current), &wanted),
            // Gone although a night wrote it: the owner deleted the file.
            None => merge::merge(base.as_ref(), base.as_ref().map(|_| &deleted), &wanted),
        };
        let untouched = parsed(current) == base;
        let evidence = format!("{}/references/evidence.md", full.trim_end_matches("/SKILL.md"));
        let is_skill = Kind::of(path) == Kind::Skill;
        if document.lessons().next().is_none() && (untouched || repo.head_file(&full).is_none()) {
            files.insert(full, None);
            if is_skill {
                files.insert(evidence, None);
            }
            continue;
        }
        index.push(IndexEntry {
            path: path.to_owned(),
            name: skill::name_in(path).to_owned(),
            description: document.front.as_ref().map(|f| f.description.clone()).unwrap_or_default(),
            rules: document.lessons_under(skill::RULES).map(|l| l.text.clone()).collect(),
        });
        files.insert(full, Some(document.print()));
        if is_skill {
            files.insert(evidence, Some(evidence_of(lessons)));
        }
    }
    let memory = format!("{folder}/MEMORY.md");
    let current = repo.head_file(&memory);
    if !index.is_empty() || current.is_some() {
        files.insert(memory, Some(memory::print(current.as_deref(), &index)));
    }
    archive(p, folder, &mut files);
    Ok((files, dropped))
}

fn evidence_of(lessons: &[&Lesson]) -> String {
    let mut out =
        String::from("# Evidence\n\nThe recorded trajectories behind each line, and the numbers.\n");
    let mut lessons = lessons.to_vec();
    lessons.sort_by(|a, b| a.id.cmp(&b.id));
    for l in lessons {
        let cluster = l.cluster.map(|c| format!(", {c}")).unwrap_or_default();
        out += &format!("\n## {} ({} {}{cluster})\n\n{}\n\n", l.id, l.state, l.kind, l.support);
        for id in l.evidence.iter().take(EVIDENCE_IDS) {
            out += &format!("- {id}\n");
        }
        if l.evidence.len() > EVIDENCE_IDS {
            out += &format!("- and {} more\n", l.evidence.len() - EVIDENCE_IDS);
        }
    }
    out
}

fn archive(p: &Publication<'_>, folder: &str, files: &mut Files) {
    let mut retired: BTreeMap<&str, Vec<&Lesson>> = BTreeMap::new();
    for lesson in p.lessons.iter().filter(|l| l.state == LessonState::Retired) {
        retired.entry(skill::name_in(&lesson.file)).or_default().push(lesson);
    }
    for (name, lessons) in retired {
        let mut out = format!("# Taken out of {name}\n\nKept for the record; not to be followed.\n\n");
        for l in lessons.iter().rev().take(ARCHIVE_LINES) {
            out += &format!("- {} ({}; {})\n", l.text, l.id, l.support);
        }
        files.insert(format!("{folder}/archive/{name}.md"), Some(out));
    }
}
