//! An adapter that was kept goes to the servers that take its scope's adapters, behind the scope's alias.

use super::Run;
use super::runs::Ended;
use crate::adapters::{AdapterError, Registry, Released, promote, targets};
use crate::config::Config;
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

/// Swaps what a run kept in at all targets and points the scope's alias at it. None where nothing was kept, nor
/// is left over from a night before.
pub async fn release(run: &Run, dir: &DataDir, config: &Config, setup: &Setup) -> Option<Release> {
    let adapter = run.adapter.filter(|_| matches!(run.outcome, Ended::Kept | Ended::NothingNew))?;
    let alias = config.adapters.alias_of(&run.scope.tenant, &run.scope.app);
    let servers = targets(config, &run.scope, setup).await;
    let done = match servers {
        Ok(servers) => {
            let reason = "it passed the gate";
            promote(&Registry::open(dir), &servers, adapter, &alias, reason).await
        }
        Err(error) => Err(error.into()),
    };
    Some(Release { adapter, alias, done })
}
