//! The owner's word on what a night proposed: files and the lessons' states change together.

use std::collections::BTreeMap;

use git2::Tree;

use super::merge::decisions;
use super::{Document, OwnerDecision, Proposal, Repo, SkillsError, owner_decisions, skill};
use crate::model::{LessonId, Micros};
use crate::store::Store;

/// What accepting a proposal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub branch: String,
    /// The merge; none where all of it was merged already.
    pub commit: Option<String>,
    /// Lessons that are active since.
    pub activated: usize,
}

/// Merges a proposal and makes its lessons active; the branch goes. Killed anywhere, the same call finishes it.
///
/// # Errors
/// [`SkillsError::NoProposal`]; [`SkillsError::ProposalConflict`], which leaves files and lessons as they are.
pub fn accept(
    store: &Store,
    repo: &Repo,
    tenant: &str,
    given: &str,
    when: Micros,
) -> Result<Accepted, SkillsError> {
    let proposal = repo.proposal(given)?;
    // Read before the merge: what the owner did is told from the last commit of a night.
    let mut decided = Vec::new();
    for scope in store.scopes()?.iter().filter(|s| s.tenant == tenant) {
        decided.extend(owner_decisions(repo, scope)?);
    }
    decided.extend(edits_on_branch(repo, &proposal)?);
    let commit = repo.merge_proposal(&proposal, when)?;
    for decision in decided {
        match decision {
            OwnerDecision::Edited { id, text } => store.hold_lesson(&id, Some(&text), when)?,
            OwnerDecision::Removed { id } => store.hold_lesson(&id, None, when)?,
        }
    }
    let head = repo.head().map(|c| c.tree()).transpose().map_err(repo.failed("read a commit"))?;
    let lines = head.map(|tree| lines(repo, &tree)).transpose()?.unwrap_or_default();
    let active: Vec<LessonId> = lines.into_iter().filter(|(_, active)| *active).map(|(id, _)| id).collect();
    let activated = store.activate_lessons(&active, when)?;
    repo.delete_proposal(&proposal)?;
    Ok(Accepted { branch: proposal.branch, commit, activated })
}

/// Drops a proposal: the branch goes, and the lessons that only it holds do not come back. Lessons that it would have
/// taken out stay. Returns the branch and how many lessons were turned down.
///
/// # Errors
/// [`SkillsError::NoProposal`].
pub fn reject(store: &Store, repo: &Repo, given: &str, when: Micros) -> Result<(String, usize), SkillsError> {
    let proposal = repo.proposal(given)?;
    let read =
        |tree: Result<Tree<'_>, git2::Error>| lines(repo, &tree.map_err(repo.failed("read a commit"))?);
    let theirs = read(repo.tip(&proposal)?.tree())?;
    let ours = repo.head().map(|c| read(c.tree())).transpose()?.unwrap_or_default();
    let only_theirs: Vec<&LessonId> = theirs.keys().filter(|id| !ours.contains_key(*id)).collect();
    for id in &only_theirs {
        store.hold_lesson(id, None, when)?;
    }
    let spared: Vec<LessonId> = ours
        .iter()
        .filter(|(id, active)| **active && !theirs.contains_key(*id))
        .map(|(id, _)| id.clone())
        .collect();
    store.activate_lessons(&spared, when)?;
    let turned_down = only_theirs.len();
    repo.delete_proposal(&proposal)?;
    Ok((proposal.branch, turned_down))
}

/// What the owner changed on the branch itself, after the night's commit.
fn edits_on_branch(repo: &Repo, proposal: &Proposal) -> Result<Vec<OwnerDecision>, SkillsError> {
    let tip = repo.tip(proposal)?;
    let mut made = tip.clone();
    while super::repo::entry(&made).night.is_none() {
        match made.parent(0) {
            Ok(parent) => made = parent,
            Err(_) => return Ok(Vec::new()),
        }
    }
    let trees = (made.tree(), tip.tree());
    let (Ok(made), Ok(tip)) = trees else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for path in repo.files_in(&made, "")? {
        let document = |tree| Document::parse(&repo.file_in(tree, &path)?).ok();
        if let (Some(base), Some(current)) = (document(&made), document(&tip)) {
            all.extend(decisions(&base, &current));
        }
    }
    Ok(all)
}

/// The lessons in the files of a tree, and whether each stands where agents are to follow it.
fn lines(repo: &Repo, tree: &Tree<'_>) -> Result<BTreeMap<LessonId, bool>, SkillsError> {
    let mut all = BTreeMap::new();
    for path in repo.files_in(tree, "")? {
        let Some(Ok(document)) = repo.file_in(tree, &path).map(|t| Document::parse(&t)) else { continue };
        let watched: Vec<&LessonId> = document.lessons_under(skill::WATCH).map(|l| &l.id).collect();
        for lesson in document.lessons() {
            all.insert(lesson.id.clone(), !watched.contains(&&lesson.id));
        }
    }
    Ok(all)
}
