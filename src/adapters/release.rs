//! The record and the servers, moved together.

use std::path::{Path, PathBuf};

use super::swap::Swap;
use super::{AdapterError, Moved, Registry, Server, SwapError};
use crate::model::AdapterId;

/// What was moved, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    pub moved: Moved,
    /// URLs of the servers that answer with it now.
    pub servers: Vec<String>,
}

/// Loads an adapter into all `servers` under `alias`, then points the alias at it in the registry. Done again, it loads
/// it again: for servers that were started anew.
///
/// # Errors
/// When the registry or a server refuses. Servers that had taken it already go back to what they had, and the registry
/// stays as it was.
pub async fn promote(
    registry: &Registry,
    servers: &[Server],
    id: AdapterId,
    alias: &str,
    reason: &str,
) -> Result<Released, AdapterError> {
    let _turn = registry.releasing()?;
    let from = registry.may_promote(id, alias)?;
    let taken = move_all(registry, servers, alias, from, Some(id)).await?;
    let moved = match registry.promote(id, alias, reason) {
        Ok(moved) => moved,
        Err(error) => {
            go_back(registry, servers, alias, Some(id), from).await;
            return Err(error);
        }
    };
    Ok(Released { moved, servers: taken })
}

/// Takes the latest promotion of `alias` back, on all `servers` and in the registry.
///
/// Where the alias goes back to the base model, servers get an adapter that changes nothing under it: an alias that
/// vanished would fail the apps that use it.
///
/// # Errors
/// As [`promote`].
pub async fn rollback(
    registry: &Registry,
    servers: &[Server],
    alias: &str,
    reason: &str,
) -> Result<Released, AdapterError> {
    let _turn = registry.releasing()?;
    let known = registry.known_alias(alias)?;
    let from = known.current();
    let to = known.before().ok_or_else(|| AdapterError::NothingBefore { alias: alias.to_owned() })?;
    let taken = move_all(registry, servers, alias, from, to).await?;
    let moved = match registry.rollback(alias, reason) {
        Ok(moved) => moved,
        Err(error) => {
            go_back(registry, servers, alias, to, from).await;
            return Err(error);
        }
    };
    Ok(Released { moved, servers: taken })
}

/// The directory that stands for one side of a move: the adapter's, or one like the other side's that changes nothing.
fn directory(
    registry: &Registry,
    of: Option<AdapterId>,
    other: Option<AdapterId>,
) -> Result<Option<PathBuf>, AdapterError> {
    match (of, other) {
        (Some(id), _) => Ok(Some(registry.directory(id))),
        (None, Some(other)) => registry.blank(other).map(Some),
        (None, None) => Ok(None),
    }
}

/// All servers answer with the adapter `to`, or with what they had.
async fn move_all(
    registry: &Registry,
    servers: &[Server],
    alias: &str,
    from: Option<AdapterId>,
    to: Option<AdapterId>,
) -> Result<Vec<String>, AdapterError> {
    let mut taken = Vec::new();
    if servers.is_empty() {
        return Ok(taken);
    }
    let Some(path) = directory(registry, to, from)? else { return Ok(taken) };
    let former = directory(registry, from, to)?;
    let version = to.map_or_else(|| format!("{alias}-base"), |id| id.to_string());
    for server in servers {
        let swap = Swap { alias, version: &version, path: &path, former: former.as_deref() };
        match server.swap(swap).await {
            Ok(()) => taken.push(server.url().to_owned()),
            Err(first) => {
                let back = undo(&servers[..taken.len()], alias, former.as_deref()).await;
                return Err(match back {
                    Ok(()) => first,
                    Err(second) => SwapError::Twice { first: Box::new(first), second: Box::new(second) },
                }
                .into());
            }
        }
    }
    Ok(taken)
}

/// Brings servers back to what the alias stood for before; all are tried.
async fn undo(servers: &[Server], alias: &str, former: Option<&Path>) -> Result<(), SwapError> {
    let mut done = Ok(());
    for server in servers {
        let one = match former {
            Some(former) => server.load(alias, former, true).await,
            None => server.unload(alias).await,
        };
        done = done.and(one);
    }
    done
}

async fn go_back(
    registry: &Registry,
    servers: &[Server],
    alias: &str,
    now: Option<AdapterId>,
    before: Option<AdapterId>,
) {
    let former = directory(registry, before, now).ok().flatten();
    if let Err(error) = undo(servers, alias, former.as_deref()).await {
        tracing::error!(%error, alias, "a server could not be brought back to what the registry says");
    }
}
