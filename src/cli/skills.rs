use clap::{Args, Subcommand};
use serde_json::json;

use super::{Common, Failure, Outcome, open_store, output};
use crate::model::Micros;
use crate::skills::{Repo, accept, reject};
use crate::store::{Store, file_name};

/// The learned files and their history.
#[derive(Args, Debug)]
pub(super) struct Skills {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List open proposals and the nights' commits, newest first.
    List {
        #[command(flatten)]
        place: Place,
        /// End with one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what a commit or a proposal changes; without one, the latest.
    Diff {
        #[command(flatten)]
        place: Place,
        /// A commit, or the night or branch of an open proposal.
        commit: Option<String>,
    },
    /// Merge what a night proposed (`dream.review: propose`); its lessons become active.
    Accept {
        #[command(flatten)]
        place: Place,
        /// The night, or its branch: proposals/NIGHT.
        #[arg(value_name = "NIGHT|BRANCH")]
        proposal: String,
    },
    /// Drop what a night proposed; its lessons are not proposed again.
    Reject {
        #[command(flatten)]
        place: Place,
        /// The night, or its branch: proposals/NIGHT.
        #[arg(value_name = "NIGHT|BRANCH")]
        proposal: String,
    },
    /// Take a commit back with a new one. What it added does not come back by itself.
    Revert {
        #[command(flatten)]
        place: Place,
        commit: String,
    },
}

#[derive(Args, Debug)]
struct Place {
    #[command(flatten)]
    common: Common,
    /// Whose repository.
    #[arg(long, default_value = "default")]
    tenant: String,
}

/// Commits shown at most.
const SHOWN: usize = 50;

impl Skills {
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::List { place, json } => list(&place, json),
            Verb::Diff { place, commit } => {
                let repo = place.open()?.1;
                let commit = match commit {
                    Some(given) => repo.proposal(&given).map_or(given, |p| p.entry.id),
                    None => latest(&repo)?,
                };
                Ok(output::line(repo.show(&commit)?.trim_end())?)
            }
            Verb::Accept { place, proposal } => {
                let (store, repo) = place.open()?;
                let done = accept(&store, &repo, &place.tenant, &proposal, Micros::now())?;
                let active = count(done.activated, "lesson");
                let merged = match done.commit {
                    Some(commit) => format!("is merged by commit {commit}"),
                    None => "holds nothing new".to_owned(),
                };
                Ok(output::line(format_args!("{} {merged}; {active} made active", done.branch))?)
            }
            Verb::Reject { place, proposal } => {
                let (store, repo) = place.open()?;
                let (branch, dropped) = reject(&store, &repo, &proposal, Micros::now())?;
                let dropped = count(dropped, "lesson");
                Ok(output::line(format_args!("{branch} is deleted; {dropped} will not be proposed again"))?)
            }
            Verb::Revert { place, commit } => {
                let new = place.open()?.1.revert(&commit, Micros::now())?;
                Ok(output::line(format_args!("taken back by commit {new}"))?)
            }
        }
    }
}

fn latest(repo: &Repo) -> Result<String, Failure> {
    let newest = repo.log(1)?.into_iter().next();
    let newest = newest.or(repo.proposals()?.into_iter().next().map(|p| p.entry));
    newest.map(|e| e.id).ok_or_else(|| Failure::Failed(anyhow::anyhow!("nothing is committed yet")))
}

fn list(place: &Place, json: bool) -> Outcome {
    let (_, repo) = place.open()?;
    let (log, open) = (repo.log(SHOWN)?, repo.proposals()?);
    if json {
        let commits: Vec<_> = log
            .iter()
            .map(|e| json!({"id": e.id, "when": e.when.to_string(), "summary": e.summary}))
            .collect();
        let proposals: Vec<_> = open
            .iter()
            .map(|p| {
                let e = &p.entry;
                json!({"branch": p.branch, "id": e.id, "when": e.when.to_string(), "summary": e.summary})
            })
            .collect();
        let listed = json!({"repository": repo.path(), "commits": commits, "proposals": proposals});
        return Ok(output::json_line(&listed)?);
    }
    output::line(repo.path().display())?;
    if !open.is_empty() {
        output::line("open proposals, for `remora skills diff|accept|reject`:")?;
    }
    for p in &open {
        let summary = output::safe(&p.entry.summary, 100);
        output::line(format_args!("  {}  {}  {summary}", output::safe(&p.branch, 80), p.entry.when))?;
    }
    for entry in log {
        output::line(format_args!(
            "{}  {}  {}",
            &entry.id[..entry.id.len().min(12)],
            entry.when,
            output::safe(&entry.summary, 100)
        ))?;
    }
    Ok(())
}

impl Place {
    fn open(&self) -> Result<(Store, Repo), Failure> {
        let store: Store = open_store(&self.common.load()?)?;
        let path = store.dir().learned(&self.tenant);
        let found = Repo::find(&path)?;
        let repo = found.ok_or_else(|| {
            let message = format!(
                "{}: nothing is learned yet for tenant {}; run `remora dream`",
                path.display(),
                file_name(&self.tenant)
            );
            Failure::Failed(anyhow::anyhow!(message))
        })?;
        Ok((store, repo))
    }
}

/// `1 lesson`, `2 lessons`.
fn count(n: usize, of: &str) -> String {
    if n == 1 { format!("1 {of}") } else { format!("{n} {of}s") }
}
