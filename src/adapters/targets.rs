use super::{Server, SwapError};
use crate::config::Config;
use crate::model::Scope;
use crate::store::DataDir;
use crate::upstream::{Setup, UpstreamError};

/// The servers that take a scope's adapters: those of `adapters.targets`, and the one that `remora run` embeds, where it
/// runs, also if only its command line says so. Where it does not run, that is no failure: it serves what the registry says
/// when it starts.
///
/// # Errors
/// When a connection cannot be set up.
pub async fn targets(config: &Config, scope: &Scope, setup: &Setup) -> Result<Vec<Server>, SwapError> {
    let mut servers = Vec::new();
    for (i, target) in config.adapters.targets_of(&scope.to_string()) {
        servers.push(Server::build(target, &format!("adapters.targets[{i}]"), setup)?);
    }
    if let Some(target) = config.embedded_target(DataDir::new(config.data_dir()).embedded()) {
        let server = Server::build(&target, "serve", setup)?;
        match server.models().await {
            Err(SwapError::Unreachable(error @ UpstreamError::Connect { .. })) => {
                tracing::warn!(%error, "the embedded model does not run; it will serve what is released when it starts");
            }
            // What else may be wrong is told by whoever swaps.
            _ => servers.push(server),
        }
    }
    Ok(servers)
}
