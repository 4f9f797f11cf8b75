use git2::{BranchType, Commit, Delta};

use super::commit::conflicts;
use super::repo::{Change, Entry, entry};
use super::{Repo, SkillsError};
use crate::model::Micros;

/// A night's lessons on a branch of their own, waiting for the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// `proposals/ni_…`
    pub branch: String,
    /// Its newest commit.
    pub entry: Entry,
}

const PREFIX: &str = "proposals/";

impl Repo {
    /// Open proposals, the newest night first.
    pub fn proposals(&self) -> Result<Vec<Proposal>, SkillsError> {
        let read = || {
            let mut all = Vec::new();
            for branch in self.git.branches(Some(BranchType::Local))? {
                let (branch, _) = branch?;
                let Some(name) = branch.name()?.filter(|n| n.starts_with(PREFIX)) else { continue };
                let tip = branch.get().peel_to_commit()?;
                all.push(Proposal { branch: name.to_owned(), entry: entry(&tip) });
            }
            // A night's id begins with its time.
            all.sort_by(|a, b| b.branch.cmp(&a.branch));
            Ok(all)
        };
        read().map_err(self.failed("list proposals"))
    }

    /// The open proposal that is meant by a night, the beginning of one, or a branch.
    ///
    /// # Errors
    /// [`SkillsError::NoProposal`] where none or several fit.
    pub fn proposal(&self, given: &str) -> Result<Proposal, SkillsError> {
        let night = given.strip_prefix(PREFIX).unwrap_or(given);
        let mut fitting = self.proposals()?;
        fitting.retain(|p| night.len() > 3 && p.branch[PREFIX.len()..].starts_with(night));
        match fitting.len() {
            1 => Ok(fitting.remove(0)),
            _ => Err(SkillsError::NoProposal { given: given.to_owned(), path: self.path.clone() }),
        }
    }

    /// Merges a proposal into the branch that is checked out, with the owner's edits committed before. Returns the new
    /// commit; none where everything is merged already.
    ///
    /// # Errors
    /// [`SkillsError::ProposalConflict`] where both sides changed the same lines; no file is changed then.
    pub(super) fn merge_proposal(&self, p: &Proposal, when: Micros) -> Result<Option<String>, SkillsError> {
        let on = self.git.find_reference("HEAD").ok();
        let on = on.and_then(|h| h.symbolic_target().ok().flatten().map(str::to_owned)).unwrap_or_default();
        if on.strip_prefix("refs/heads/").is_some_and(|branch| branch.starts_with(PREFIX)) {
            return Err(SkillsError::OnProposal { branch: p.branch.clone(), path: self.path.clone() });
        }
        self.commit_owner_edits(when)?;
        if self.head().is_none() {
            // Something to merge into, so that taking the merge back leads somewhere.
            self.commit(&[], "Begin\n", when, None)?;
        }
        let head = self.head().expect("a commit was made where there was none");
        let theirs = self.tip(p)?;
        let failed = || self.failed("merge a proposal");
        let mut index = self.git.merge_commits(&head, &theirs, None).map_err(failed())?;
        if let Some(files) = conflicts(&index).map_err(failed())? {
            return Err(SkillsError::ProposalConflict { branch: p.branch.clone(), files });
        }
        let mut difference = || -> Result<Vec<Change>, git2::Error> {
            let tree = self.git.find_tree(index.write_tree_to(&self.git)?)?;
            let diff = self.git.diff_tree_to_tree(Some(&head.tree()?), Some(&tree), None)?;
            let path = |d: &git2::DiffDelta<'_>| {
                let file = if d.status() == Delta::Deleted { d.old_file() } else { d.new_file() };
                file.path().and_then(|p| p.to_str()).map(str::to_owned)
            };
            let change = |d: git2::DiffDelta<'_>| path(&d).map(|p| (p.clone(), self.file_in(&tree, &p)));
            Ok(diff.deltas().filter_map(change).collect())
        };
        let changes = difference().map_err(failed())?;
        if changes.is_empty() {
            return Ok(None);
        }
        let message = format!("Accept: {}\n\nAccepts: {}\n", p.entry.summary, theirs.id());
        self.commit(&changes, &message, when, Some(&theirs)).map(Some)
    }

    pub(super) fn tip(&self, p: &Proposal) -> Result<Commit<'_>, SkillsError> {
        let found = self.git.find_branch(&p.branch, BranchType::Local).and_then(|b| b.get().peel_to_commit());
        found.map_err(self.failed("read a proposal"))
    }

    pub(super) fn delete_proposal(&self, p: &Proposal) -> Result<(), SkillsError> {
        let delete = || self.git.find_branch(&p.branch, BranchType::Local)?.delete();
        delete().map_err(self.failed("delete a proposal"))
    }
}
