//! An adapter that was kept goes to the servers that take its scope's adapters, behind the scope's alias.

use super::Run;
use super::runs::Ended;
use crate::adapters::{AdapterError, Registry, Released, Server, promote};
use crate::config::Adapters;
use crate::model::AdapterId;
use crate::store::DataDir;
use crate::upstream::Setup;

/// What became of an adapter that was kept.
#[derive(Debug)]
pub struct Release {
    pub adapter: AdapterId,
    pub alias: String,
    /// The error leaves alias and servers as they were; the next night, or `remora adapters promote`, tries again.
    pub done: Result<Released, AdapterError>,
}

/// Swaps what a run kept in at all configured targets and points the scope's alias at it. None where nothing was kept, nor
/// is left over from a night before.
pub async fn release(run: &Run, dir: &DataDir, settings: &Adapters, setup: &Setup) -> Option<Release> {
    let adapter = run.adapter.filter(|_| matches!(run.outcome, Ended::Kept | Ended::NothingNew))?;
    let alias = settings.alias_of(&run.scope.tenant, &run.scope.app);
    let scope = run.scope.to_string();
    let servers: Result<Vec<Server>, _> = settings
        .targets_of(&scope)
        .map(|(i, target)| Server::build(target, &format!("adapters.targets[{i}]"), setup))
        .collect();
    let done = match servers {
        Ok(servers) => {
            let reason = "it passed the gate";
            promote(&Registry::open(dir), &servers, adapter, &alias, reason).await
        }
        Err(error) => Err(error.into()),
    };
    Some(Release { adapter, alias, done })
}
