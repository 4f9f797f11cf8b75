use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Common, Failure, Outcome, output, runtime};
use crate::adapters::{self, Entry, Moved, Registry, Released};
use crate::config::Config;
use crate::model::{AdapterId, AdapterScores, AdapterState, BeforeAfter};
use crate::store::DataDir;
use crate::upstream::Setup;

/// The adapters that were trained, and which of them apps get.
#[derive(Args, Debug)]
pub(super) struct Adapters {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List adapters, latest first, and the aliases.
    List {
        #[command(flatten)]
        common: Common,
        /// End with one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one adapter: scores, decisions, and what it was trained on.
    Show {
        #[command(flatten)]
        common: Common,
        /// An id, its beginning or its end, or an alias.
        #[arg(value_name = "ID|ALIAS")]
        adapter: String,
        /// End with one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Load an adapter into the servers of `adapters.targets` and point its scope's alias at it. Done again, it is loaded
    /// again: for servers that were started anew.
    Promote {
        #[command(flatten)]
        common: Common,
        /// An id, its beginning or its end.
        #[arg(value_name = "ID")]
        adapter: String,
        /// The alias, in place of the one that `adapters.alias` gives its scope.
        #[arg(long)]
        alias: Option<String>,
        /// Why; it is kept with the decision.
        #[arg(long, value_name = "TEXT", default_value = "by hand")]
        reason: String,
        /// Also if the gate refused it.
        #[arg(long)]
        anyway: bool,
        /// End with one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Point an alias at exactly what it pointed at before, in servers and in the record.
    Rollback {
        #[command(flatten)]
        common: Common,
        /// May be left out where there is only one.
        alias: Option<String>,
        /// Why; it is kept with the decision.
        #[arg(long, value_name = "TEXT", default_value = "by hand")]
        reason: String,
        /// End with one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write an adapter as a file for another program.
    #[cfg(feature = "onnx")]
    Export(super::adapters_export::Export),
}

impl Adapters {
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::List { common, json } => list(&open(&common)?.1, json),
            Verb::Show { common, adapter, json } => {
                let registry = open(&common)?.1;
                show(&registry.get(registry.find(&adapter)?)?, json)
            }
            Verb::Promote { common, adapter, alias, reason, anyway, json } => {
                let (config, registry) = open(&common)?;
                let entry = registry.get(registry.find(&adapter)?)?;
                let (id, scope) = (entry.lineage.id, &entry.lineage.scope);
                if entry.state == AdapterState::Rejected && !anyway {
                    let reason = output::safe(&entry.reason, 400);
                    return Err(Failure::Failed(anyhow!(
                        "{id} was refused: {reason} (--anyway promotes it)"
                    )));
                }
                let alias = alias.unwrap_or_else(|| config.adapters.alias_of(&scope.tenant, &scope.app));
                let runtime = runtime()?;
                let servers = runtime.block_on(adapters::targets(&config, scope, &Setup::default()))?;
                told(&runtime.block_on(adapters::promote(&registry, &servers, id, &alias, &reason))?, json)
            }
            Verb::Rollback { common, alias, reason, json } => {
                let (config, registry) = open(&common)?;
                let alias = match alias {
                    Some(alias) => alias,
                    None => registry.only_alias()?.name,
                };
                let runtime = runtime()?;
                let servers = match registry.alias(&alias)?.and_then(|alias| alias.current()) {
                    Some(id) => {
                        let scope = registry.get(id)?.lineage.scope;
                        runtime.block_on(adapters::targets(&config, &scope, &Setup::default()))?
                    }
                    None => Vec::new(),
                };
                told(&runtime.block_on(adapters::rollback(&registry, &servers, &alias, &reason))?, json)
            }
            #[cfg(feature = "onnx")]
            Verb::Export(export) => export.run(),
        }
    }
}

pub(super) fn open(common: &Common) -> Result<(Config, Registry), Failure> {
    let config = common.load()?;
    let registry = Registry::open(&DataDir::new(config.data_dir()));
    Ok((config, registry))
}

fn told(released: &Released, json: bool) -> Outcome {
    let Moved { alias, from, to } = &released.moved;
    if json {
        let line = json!({"alias": alias, "from": from, "to": to, "servers": released.servers});
        return Ok(output::json_line(&line)?);
    }
    let name = |id: &Option<AdapterId>| id.map_or_else(|| "the base model".to_owned(), |id| id.to_string());
    if from == to {
        output::line(format_args!("{alias} already is {}", name(to)))?;
    } else {
        output::line(format_args!("{alias} is {} now; it was {}", name(to), name(from)))?;
    }
    for server in &released.servers {
        output::line(format_args!("  loaded into {server}"))?;
    }
    if released.servers.is_empty() {
        output::line("  no server was told: adapters.targets names none for it, and no embedded model runs")?;
    }
    Ok(())
}

fn list(registry: &Registry, json: bool) -> Outcome {
    let listing = registry.list()?;
    let aliases = registry.aliases()?;
    if json {
        let aliases: Vec<_> = aliases
            .iter()
            .map(|a| json!({"name": a.name, "adapter": a.current(), "before": a.before().flatten(), "moves": a.moves}))
            .collect();
        let broken: Vec<String> = listing.broken.iter().map(ToString::to_string).collect();
        let adapters: Vec<Value> = listing.entries.iter().map(summary).collect();
        let listed = json!({"adapters": adapters, "aliases": aliases, "broken": broken});
        return Ok(output::json_line(&listed)?);
    }
    if listing.entries.is_empty() && listing.broken.is_empty() {
        return Ok(output::line("nothing was trained yet")?);
    }
    for alias in &aliases {
        let to = alias.current().map_or_else(|| "the base model".to_owned(), |id| id.to_string());
        output::line(format_args!("{} → {to}", alias.name))?;
    }
    for entry in &listing.entries {
        let lineage = &entry.lineage;
        output::line(format_args!(
            "{}  {:<9}  {}  {}  {}",
            lineage.id,
            entry.state,
            lineage.created,
            output::safe(&lineage.scope.to_string(), 60),
            scores(&entry.scores)
        ))?;
    }
    for error in &listing.broken {
        output::line(format_args!("BROKEN  {}", output::safe(&error.to_string(), 400)))?;
    }
    Ok(())
}

fn show(entry: &Entry, json: bool) -> Outcome {
    let lineage = &entry.lineage;
    if json {
        let mut all = summary(entry);
        all["trajectories"] = json!(lineage.trajectories);
        all["options"] = lineage.options.clone();
        all["decisions"] = json!(entry.decisions);
        return Ok(output::json_line(&all)?);
    }
    let fact = |name: &str, value: &dyn std::fmt::Display| output::line(format_args!("{name:<14} {value}"));
    fact("adapter", &lineage.id)?;
    let reason = output::safe(&entry.reason, 400);
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    fact("state", &format_args!("{} since {}{why}", entry.state, entry.since))?;
    if !entry.aliases.is_empty() {
        fact("alias", &entry.aliases.join(", "))?;
    }
    fact("scope", &output::safe(&lineage.scope.to_string(), 200))?;
    fact("base", &format_args!("{} ({})", output::safe(&lineage.base.model, 200), lineage.base.hash))?;
    fact("trained", &format_args!("{} by version {}", lineage.created, output::safe(&lineage.code, 40)))?;
    let n = &lineage.examples;
    let of = lineage.trajectories.len();
    let counts = format_args!(
        "{} from {of} trajectories, {} of them corrections, {} replayed; {} held out",
        n.training, n.corrections, n.replay, n.held_out
    );
    fact("examples", &counts)?;
    fact("scores", &scores(&entry.scores))?;
    fact("options", &output::safe(&lineage.options.to_string(), 1000))?;
    fact("files", &entry.directory.display())?;
    for d in &entry.decisions {
        fact("decided", &format_args!("{} {}: {}", d.at, d.state, output::safe(&d.reason, 400)))?;
    }
    for id in &lineage.trajectories {
        fact("trajectory", id)?;
    }
    Ok(())
}

fn summary(entry: &Entry) -> Value {
    let lineage = &entry.lineage;
    json!({
        "id": lineage.id,
        "state": entry.state,
        "since": entry.since.to_string(),
        "reason": entry.reason,
        "aliases": entry.aliases,
        "scope": lineage.scope,
        "base": lineage.base,
        "created": lineage.created.to_string(),
        "code": lineage.code,
        "examples": lineage.examples,
        "scores": entry.scores,
        "weights_sha256": lineage.weights_sha256,
        "directory": entry.directory,
    })
}

/// `task 12 % → 90 %, loss 2.310 → 0.840, perplexity +3.1 %`.
fn scores(scores: &AdapterScores) -> String {
    let mut parts = Vec::new();
    if let Some(BeforeAfter { before, after }) = scores.task {
        parts.push(format!("task {:.0} % → {:.0} %", 100.0 * before, 100.0 * after));
    }
    if let Some(BeforeAfter { before, after }) = scores.held_out_loss {
        parts.push(format!("loss {before:.3} → {after:.3}"));
    }
    if let Some(rise) = scores.perplexity_rise {
        parts.push(format!("perplexity {:+.1} %", 100.0 * rise));
    }
    if parts.is_empty() { "not measured".to_owned() } else { parts.join(", ") }
}
