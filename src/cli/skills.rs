use clap::{Args, Subcommand};
use serde_json::json;

use super::{Common, Failure, Outcome, open_store, output};
use crate::model::Micros;
use crate::skills::Repo;
use crate::store::{Store, file_name};

/// The learned files and their history.
#[derive(Args, Debug)]
pub(super) struct Skills {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the nights' commits, newest first.
    List {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        json: bool,
    },
    /// Show what a commit changed; without one, the latest.
    Diff {
        #[command(flatten)]
        place: Place,
        commit: Option<String>,
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
                let repo = place.open()?;
                let commit = match commit {
                    Some(commit) => commit,
                    None => latest(&repo)?,
                };
                Ok(output::line(repo.show(&commit)?.trim_end())?)
            }
            Verb::Revert { place, commit } => {
                let new = place.open()?.revert(&commit, Micros::now())?;
                Ok(output::line(format_args!("taken back by commit {new}"))?)
            }
        }
    }
}

fn latest(repo: &Repo) -> Result<String, Failure> {
    let log = repo.log(1)?;
    log.into_iter()
        .next()
        .map(|e| e.id)
        .ok_or_else(|| Failure::Failed(anyhow::anyhow!("nothing is committed yet")))
}

fn list(place: &Place, json: bool) -> Outcome {
    let repo = place.open()?;
    let log = repo.log(SHOWN)?;
    if json {
        let commits: Vec<_> = log
            .iter()
            .map(|e| json!({"id": e.id, "when": e.when.to_string(), "summary": e.summary}))
            .collect();
        return Ok(output::json_line(&json!({"repository": repo.path(), "commits": commits}))?);
    }
    output::line(repo.path().display())?;
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
    fn open(&self) -> Result<Repo, Failure> {
        let store: Store = open_store(&self.common.load()?)?;
        let path = store.dir().learned(&self.tenant);
        let found = Repo::find(&path)?;
        found.ok_or_else(|| {
            let message = format!(
                "{}: nothing is learned yet for tenant {}; run `remora dream`",
                path.display(),
                file_name(&self.tenant)
            );
            Failure::Failed(anyhow::anyhow!(message))
        })
    }
}
