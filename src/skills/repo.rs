use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use git2::{Commit, DiffFormat, DiffOptions, IndexAddOption, IndexEntry, ObjectType, Oid, Repository};
use git2::{RepositoryInitOptions, Sort, Tree};

use super::SkillsError;
use super::commit::{Author, EMAIL, conflicts, index_entry, stage};
use crate::model::{Micros, NightId};

/// A file's new content, or none to delete it; by path inside the repository.
pub type Change = (String, Option<String>);

/// A commit, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Full hash.
    pub id: String,
    pub when: Micros,
    /// First line of the message.
    pub summary: String,
    pub message: String,
    /// The night that made it; none for the owner's.
    pub night: Option<NightId>,
}

/// The git repository of a tenant. No remote, no hooks; names are given with each commit, never read from anybody's
/// configuration.
pub struct Repo {
    pub(super) git: Repository,
    pub(super) path: PathBuf,
}

/// Before a night's files are written, what they will be; so that a killed night's files are not taken for the owner's.
const PLAN: &str = "remora-plan.json";

impl Repo {
    /// Opens the repository, making it where there is none.
    pub fn open(path: &Path) -> Result<Self, SkillsError> {
        let failed = |source| SkillsError::Git { operation: "open", path: path.to_owned(), source };
        let git = match Repository::open(path) {
            Ok(git) => git,
            Err(e) if e.code() == git2::ErrorCode::NotFound => {
                let mut options = RepositoryInitOptions::new();
                options.initial_head("main").external_template(false).mkpath(true);
                Repository::init_opts(path, &options).map_err(failed)?
            }
            Err(e) => return Err(failed(e)),
        };
        Ok(Self { git, path: path.to_owned() })
    }

    /// The repository, or none where nothing was learned yet.
    pub fn find(path: &Path) -> Result<Option<Self>, SkillsError> {
        if path.join(".git").exists() { Self::open(path).map(Some) } else { Ok(None) }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn failed(&self, operation: &'static str) -> impl FnOnce(git2::Error) -> SkillsError {
        let path = self.path.clone();
        move |source| SkillsError::Git { operation, path, source }
    }

    pub(super) fn head(&self) -> Option<Commit<'_>> {
        self.git.head().ok()?.peel_to_commit().ok()
    }

    /// Commits from the newest.
    pub fn log(&self, limit: usize) -> Result<Vec<Entry>, SkillsError> {
        Ok(self.walk()?.into_iter().take(limit).map(|c| entry(&c)).collect())
    }

    fn walk(&self) -> Result<Vec<Commit<'_>>, SkillsError> {
        if self.head().is_none() {
            return Ok(Vec::new());
        }
        let read = || -> Result<Vec<_>, git2::Error> {
            let mut walk = self.git.revwalk()?;
            walk.set_sorting(Sort::TOPOLOGICAL)?;
            walk.push_head()?;
            walk.map(|id| self.git.find_commit(id?)).collect()
        };
        read().map_err(self.failed("list commits"))
    }

    /// The commit that a night made on this branch, if it did.
    pub fn commit_of(&self, night: NightId) -> Result<Option<String>, SkillsError> {
        Ok(self.walk()?.iter().map(entry).find(|e| e.night == Some(night)).map(|e| e.id))
    }

    /// What a commit changed, as a patch.
    pub fn show(&self, commit: &str) -> Result<String, SkillsError> {
        let commit = self.resolve(commit)?;
        let read = || {
            let parent = commit.parent(0).ok().map(|p| p.tree()).transpose()?;
            let mut options = DiffOptions::new();
            let diff =
                self.git.diff_tree_to_tree(parent.as_ref(), Some(&commit.tree()?), Some(&mut options))?;
            let mut patch = String::new();
            diff.print(DiffFormat::Patch, |_, _, line| {
                if matches!(line.origin(), '+' | '-' | ' ') {
                    patch.push(line.origin());
                }
                patch += &String::from_utf8_lossy(line.content());
                true
            })?;
            Ok(patch)
        };
        read().map_err(self.failed("show a commit"))
    }

    /// Takes a commit back with a new one, by the owner's order: what it added does not come back by itself.
    ///
    /// # Errors
    /// [`SkillsError::Conflict`] where later commits changed the same lines; nothing is changed then.
    pub fn revert(&self, commit: &str, when: Micros) -> Result<String, SkillsError> {
        let target = self.resolve(commit)?;
        self.commit_owner_edits(when)?;
        let head = self.head().expect("a repository with a commit has a head");
        // Of a merge: what it brought into the branch.
        let mainline = u32::from(target.parent_count() > 1);
        let mut index =
            self.git.revert_commit(&target, &head, mainline, None).map_err(self.failed("revert"))?;
        if let Some(files) = conflicts(&index).map_err(self.failed("revert"))? {
            return Err(SkillsError::Conflict { commit: target.id().to_string(), files });
        }
        let mut apply = || {
            let tree = self.git.find_tree(index.write_tree_to(&self.git)?)?;
            let summary = target.summary().ok().flatten().unwrap_or("a commit").to_owned();
            let message = format!("Take back: {summary}\n\nReverts: {}\n", target.id());
            // Files first: a kill in between leaves the owner's uncommitted edit, which is what it is.
            let mut checkout = git2::build::CheckoutBuilder::new();
            checkout.force().remove_untracked(false);
            self.git.checkout_tree(tree.as_object(), Some(&mut checkout))?;
            self.commit_tree(&tree, &message, Author::Owner, when, None)
        };
        apply().map(|id| id.to_string()).map_err(self.failed("revert"))
    }

    fn resolve(&self, given: &str) -> Result<Commit<'_>, SkillsError> {
        // Only hashes: other revision syntax has surprises (`HEAD@{yesterday}`).
        let plain = given.len() >= 4 && given.bytes().all(|b| b.is_ascii_hexdigit());
        let found = plain.then(|| self.git.revparse_single(given).and_then(|o| o.peel_to_commit()));
        match found {
            Some(Ok(commit)) => Ok(commit),
            _ => Err(SkillsError::NoCommit { given: given.to_owned(), path: self.path.clone() }),
        }
    }

    /// A file as the last night left it; none where no night wrote it.
    pub(super) fn base_file(&self, path: &str) -> Result<Option<String>, SkillsError> {
        Ok(self.base()?.and_then(|tree| self.file_in(&tree, path)))
    }

    /// Paths under a folder as the last night left them.
    pub(super) fn base_files(&self, folder: &str) -> Result<Vec<String>, SkillsError> {
        let Some(tree) = self.base()? else { return Ok(Vec::new()) };
        self.files_in(&tree, folder)
    }

    /// Paths under a folder of a tree.
    pub(super) fn files_in(&self, tree: &Tree<'_>, folder: &str) -> Result<Vec<String>, SkillsError> {
        let mut files = Vec::new();
        tree.walk(git2::TreeWalkMode::PreOrder, |parent, item| {
            if item.kind() == Some(ObjectType::Blob) {
                let path = format!("{parent}{}", item.name().unwrap_or_default());
                if path.starts_with(folder) {
                    files.push(path);
                }
            }
            git2::TreeWalkResult::Ok
        })
        .map_err(self.failed("list files"))?;
        Ok(files)
    }

    fn base(&self) -> Result<Option<Tree<'_>>, SkillsError> {
        let nights = |c: &Commit<'_>| c.author().email().is_ok_and(|e| e == EMAIL);
        self.walk()?
            .into_iter()
            .find(nights)
            .map(|c| c.tree())
            .transpose()
            .map_err(self.failed("read a commit"))
    }

    pub(super) fn file_in(&self, tree: &Tree<'_>, path: &str) -> Option<String> {
        let blob = tree.get_path(Path::new(path)).ok()?.to_object(&self.git).ok()?.peel_to_blob().ok()?;
        String::from_utf8(blob.content().to_vec()).ok()
    }

    /// A file as it is committed; none where it is missing or no text.
    pub(super) fn head_file(&self, path: &str) -> Option<String> {
        self.file_in(&self.head()?.tree().ok()?, path)
    }

    /// A file as it stands in the working tree; none where it is missing or no text.
    pub(super) fn working_file(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path.join(path)).ok()
    }

    /// Commits what the owner changed by hand, so that nothing of it can be lost. Returns the commit, if one was due.
    pub fn commit_owner_edits(&self, when: Micros) -> Result<Option<String>, SkillsError> {
        let planned = self.planned();
        let ours = |path: &Path| {
            let planned = path.to_str().and_then(|p| planned.get(p));
            planned.is_some_and(|want| *want == self.working_oid(path).map(|o| o.to_string()))
        };
        let mut skip = |path: &Path, _: &[u8]| i32::from(ours(path));
        let mut commit = || {
            let mut index = self.git.index()?;
            index.read(true)?;
            index.add_all(["*"], IndexAddOption::DEFAULT, Some(&mut skip))?;
            index.update_all(["*"], Some(&mut skip))?;
            let tree = self.git.find_tree(index.write_tree()?)?;
            index.write()?;
            let before = self.head().map(|h| h.tree_id());
            if before == Some(tree.id()) || (before.is_none() && tree.is_empty()) {
                return Ok(None);
            }
            self.commit_tree(&tree, "Owner's edits\n", Author::Owner, when, None).map(Some)
        };
        let id = commit().map_err(self.failed("commit the owner's edits"))?;
        Ok(id.map(|id| id.to_string()))
    }

    fn working_oid(&self, path: &Path) -> Option<Oid> {
        Oid::hash_file(ObjectType::Blob, self.path.join(path)).ok()
    }

    fn planned(&self) -> BTreeMap<String, Option<String>> {
        let text = std::fs::read_to_string(self.git.path().join(PLAN)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Writes files and commits them, on the branch that is checked out; `merged` is a second parent.
    pub(super) fn commit(
        &self,
        changes: &[Change],
        message: &str,
        when: Micros,
        merged: Option<&Commit<'_>>,
    ) -> Result<String, SkillsError> {
        let mut plan = BTreeMap::new();
        for (path, content) in changes {
            let oid = content.as_ref().map(|c| Oid::hash_object(ObjectType::Blob, c.as_bytes())).transpose();
            plan.insert(path.clone(), oid.map_err(self.failed("hash a file"))?.map(|o| o.to_string()));
        }
        let plan = serde_json::to_string(&plan).expect("a map of strings is JSON");
        let plan_path = self.git.path().join(PLAN);
        self.write_whole(&plan_path, &plan)?;
        for (path, content) in changes {
            let file = self.path.join(path);
            match content {
                Some(content) => self.write_whole(&file, content)?,
                None => self.delete(&file)?,
            }
        }
        let commit = || {
            let mut index = self.git.index()?;
            index.read(true)?;
            stage(&mut index, changes)?;
            let tree = self.git.find_tree(index.write_tree()?)?;
            index.write()?;
            self.commit_tree(&tree, message, Author::Remora, when, merged)
        };
        let id = commit().map_err(self.failed("commit"))?;
        // Left behind by a kill here it does no harm: the files equal the commit.
        let _ = std::fs::remove_file(plan_path);
        Ok(id.to_string())
    }

    /// Commits changes on a branch of their own; the files and the branch that is checked out stay as they are.
    pub(super) fn propose(
        &self,
        branch: &str,
        changes: &[Change],
        message: &str,
        when: Micros,
    ) -> Result<String, SkillsError> {
        let commit = || {
            let mut index = git2::Index::new()?;
            let head = self.head();
            if let Some(head) = &head {
                index.read_tree(&head.tree()?)?;
            }
            for (path, content) in changes {
                match content {
                    Some(content) => {
                        let id = self.git.blob(content.as_bytes())?;
                        index.add(&IndexEntry { id, ..index_entry(path) })?;
                    }
                    None => index.remove(Path::new(path), 0)?,
                }
            }
            let tree = self.git.find_tree(index.write_tree_to(&self.git)?)?;
            let (author, parents) = (Author::Remora.signature(when)?, head.iter().collect::<Vec<_>>());
            let id = self.git.commit(None, &author, &author, message, &tree, &parents)?;
            self.git.reference(&format!("refs/heads/{branch}"), id, true, "a night's proposal")?;
            Ok(id)
        };
        commit().map(|id| id.to_string()).map_err(self.failed("commit a proposal"))
    }

    fn commit_tree(
        &self,
        tree: &Tree<'_>,
        message: &str,
        author: Author,
        when: Micros,
        merged: Option<&Commit<'_>>,
    ) -> Result<Oid, git2::Error> {
        let parent = self.head();
        let parents: Vec<_> = parent.iter().chain(merged).collect();
        let committer = Author::Remora.signature(when)?;
        self.git.commit(Some("HEAD"), &author.signature(when)?, &committer, message, tree, &parents)
    }

    /// Writes a file whole or not at all. The temporary file lies in `.git`, where no status sees it.
    fn write_whole(&self, path: &Path, content: &str) -> Result<(), SkillsError> {
        let failed = |operation| {
            let path = path.to_owned();
            move |source| SkillsError::File { operation, path, source }
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed("create the folder of"))?;
        }
        let mut file = tempfile::NamedTempFile::new_in(self.git.path()).map_err(failed("write"))?;
        std::io::Write::write_all(&mut file, content.as_bytes()).map_err(failed("write"))?;
        file.as_file().sync_data().map_err(failed("write"))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let plain = std::fs::Permissions::from_mode(0o644);
            file.as_file().set_permissions(plain).map_err(failed("write"))?;
        }
        file.persist(path).map_err(|e| failed("replace")(e.error))?;
        Ok(())
    }

    fn delete(&self, path: &Path) -> Result<(), SkillsError> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(SkillsError::File { operation: "delete", path: path.to_owned(), source: e })
            }
            _ => {
                // Folders that became empty go too, as git would have it.
                let inside = path.ancestors().skip(1).take_while(|p| *p != self.path);
                let _ = inside.map(std::fs::remove_dir).take_while(Result::is_ok).count();
                Ok(())
            }
        }
    }
}

pub(super) fn entry(commit: &Commit<'_>) -> Entry {
    let message = commit.message().unwrap_or_default().to_owned();
    Entry {
        id: commit.id().to_string(),
        when: Micros(commit.time().seconds().saturating_mul(1_000_000)),
        summary: message.lines().next().unwrap_or_default().to_owned(),
        night: message.lines().find_map(|l| l.strip_prefix("Night: ")?.parse().ok()),
        message,
    }
}
