use askama::Template;
use serde::Serialize;

use super::{Choice, Frame, Section, TrajectoryLink, id, missing, scope_choices};
use crate::adapters::{Alias, Entry, MoveKind, Registry};
use crate::dashboard::error::PageError;
use crate::dashboard::parts::{Block, When};
use crate::dashboard::site::View;
use crate::dashboard::text::{self, Text};
use crate::model::{AdapterId, AdapterScores, AdapterState, BeforeAfter, Scope};

/// Adapters on the page: one is made a night and app at most, and older ones are in the JSON.
const SHOWN: usize = 200;
/// Trajectories linked from one adapter.
const LINKED: usize = 200;

/// What was trained, latest first, and which of it apps get.
#[derive(Template)]
#[template(path = "adapters.html")]
pub(in crate::dashboard) struct AdaptersPage {
    frame: Frame,
    scopes: Vec<Choice>,
    filtered: bool,
    aliases: Vec<AliasRow>,
    rows: Vec<AdapterRow>,
    more: usize,
    broken: Vec<Text>,
}

/// One adapter: how good, from what, decided by whom.
#[derive(Template)]
#[template(path = "adapter.html")]
pub(in crate::dashboard) struct AdapterPage {
    frame: Frame,
    id: String,
    adapter: AdapterRow,
    since: When,
    reason: Option<Text>,
    examples: Vec<(&'static str, String, &'static str)>,
    base_hash: Text,
    code: Text,
    weights: Text,
    directory: Text,
    options: Block,
    decisions: Vec<(When, AdapterState, Text)>,
    moves: Vec<MoveRow>,
    trajectories: Vec<TrajectoryLink>,
    more_trajectories: usize,
}

struct AliasRow {
    name: Text,
    /// None: the base model.
    adapter: Option<(String, String)>,
    since: When,
    reason: Text,
}

struct AdapterRow {
    href: String,
    short: String,
    aliases: Vec<Text>,
    state: AdapterState,
    /// Why the gate refused it.
    refused: Option<Text>,
    scope: Text,
    base: Text,
    task: Option<Pair>,
    loss: Option<Pair>,
    perplexity: Option<String>,
    trajectories: String,
    corrections: String,
    created: When,
}

/// Before → after.
struct Pair {
    before: String,
    after: String,
    better: bool,
}

/// A step of an alias that came to or left this adapter.
struct MoveRow {
    at: When,
    alias: Text,
    what: &'static str,
    reason: Text,
}

/// The same for programs.
#[derive(Serialize)]
pub(in crate::dashboard) struct AdaptersAnswer {
    adapters: Vec<Entry>,
    aliases: Vec<Alias>,
    broken: Vec<String>,
}

fn registry(view: &View<'_>) -> Registry {
    Registry::open(view.store.dir())
}

pub(super) fn answer(view: &View<'_>) -> Result<AdaptersAnswer, PageError> {
    let registry = registry(view);
    let listing = registry.list()?;
    let broken = listing.broken.iter().map(ToString::to_string).collect();
    Ok(AdaptersAnswer { adapters: listing.entries, aliases: registry.aliases()?, broken })
}

pub(super) fn list(view: &View<'_>) -> Result<AdaptersPage, PageError> {
    let AdaptersAnswer { mut adapters, aliases, broken } = answer(view)?;
    let mut scopes: Vec<Scope> = adapters.iter().map(|a| a.lineage.scope.clone()).collect();
    scopes.sort();
    scopes.dedup();
    let scope = view.params.scope(&scopes)?;
    adapters.retain(|a| scope.as_ref().is_none_or(|scope| *scope == a.lineage.scope));
    let frame = Frame::scoped("Adapters", Some(Section::Adapters), view.params);
    Ok(AdaptersPage {
        frame: frame.with_json("/api/adapters".to_owned()),
        scopes: scope_choices(&scopes, scope.as_ref()),
        filtered: scope.is_some(),
        aliases: if scope.is_some() { Vec::new() } else { alias_rows(&aliases, view) },
        more: adapters.len().saturating_sub(SHOWN),
        rows: adapters.iter().take(SHOWN).map(|a| row(a, view)).collect(),
        broken: broken.iter().map(|error| Text::line(error, 400)).collect(),
    })
}

pub(super) fn page(view: &View<'_>, given: &str) -> Result<AdapterPage, PageError> {
    let id: AdapterId = id("adapter", given)?;
    let registry = registry(view);
    if !registry.directory(id).exists() {
        return Err(missing("adapter", given));
    }
    let entry = registry.get(id)?;
    let lineage = &entry.lineage;
    let n = lineage.examples;
    let adapter = row(&entry, view);
    Ok(AdapterPage {
        frame: Frame::new(&format!("Adapter {}", adapter.short), Some(Section::Adapters)),
        id: id.to_string(),
        adapter,
        since: When::new(entry.since, view.now),
        reason: (!entry.reason.is_empty()).then(|| Text::line(&entry.reason, 400)),
        examples: vec![
            ("trajectories", text::count(lineage.trajectories.len() as u64), "it learned from"),
            ("examples", text::count(n.training), "trained on"),
            ("corrections", text::count(n.corrections), "of these, by people"),
            ("replayed", text::count(n.replay), "of these, to keep what the base knows"),
            ("held out", text::count(n.held_out), "to measure on"),
        ],
        base_hash: Text::line(&lineage.base.hash, 80),
        code: Text::line(&lineage.code, 40),
        weights: Text::line(&lineage.weights_sha256, 80),
        directory: Text::line(entry.directory.display().to_string(), 400),
        options: Block::mono(&lineage.options.to_string()),
        decisions: entry
            .decisions
            .iter()
            .rev()
            .map(|d| (When::new(d.at, view.now), d.state, Text::line(&d.reason, 400)))
            .collect(),
        moves: moves(&registry.aliases()?, id, view),
        trajectories: lineage.trajectories.iter().take(LINKED).map(|t| TrajectoryLink::new(*t)).collect(),
        more_trajectories: lineage.trajectories.len().saturating_sub(LINKED),
    })
}

fn alias_rows(aliases: &[Alias], view: &View<'_>) -> Vec<AliasRow> {
    aliases
        .iter()
        .filter_map(|alias| {
            let last = alias.moves.last()?;
            Some(AliasRow {
                name: Text::line(&alias.name, 130),
                adapter: alias.current().map(|id| (href(id), short(id))),
                since: When::new(last.at, view.now),
                reason: Text::line(&last.reason, 200),
            })
        })
        .collect()
}

/// Latest first.
fn moves(aliases: &[Alias], id: AdapterId, view: &View<'_>) -> Vec<MoveRow> {
    let mut found = Vec::new();
    for alias in aliases {
        let mut before = None;
        for step in &alias.moves {
            let what = match (step.to == Some(id), before == Some(id), step.kind) {
                (true, _, MoveKind::Promote) => Some("promoted"),
                (true, _, MoveKind::Rollback) => Some("brought back"),
                (false, true, MoveKind::Promote) => Some("replaced"),
                (false, true, MoveKind::Rollback) => Some("rolled back"),
                _ => None,
            };
            before = step.to;
            if let Some(what) = what {
                let reason = Text::line(&step.reason, 400);
                let at = When::new(step.at, view.now);
                found.push((step.at, MoveRow { at, alias: Text::line(&alias.name, 130), what, reason }));
            }
        }
    }
    found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    found.into_iter().map(|(_, row)| row).collect()
}

fn href(id: AdapterId) -> String {
    format!("/adapters/{id}")
}

/// The end of the id: the beginning of ids made in one minute is the same.
fn short(id: AdapterId) -> String {
    let id = id.to_string();
    format!("…{}", &id[id.len() - 8..])
}

fn row(entry: &Entry, view: &View<'_>) -> AdapterRow {
    let lineage = &entry.lineage;
    let AdapterScores { held_out_loss, task, perplexity_rise } = entry.scores;
    AdapterRow {
        href: href(lineage.id),
        short: short(lineage.id),
        aliases: entry.aliases.iter().map(|alias| Text::line(alias, 130)).collect(),
        state: entry.state,
        refused: (entry.state == AdapterState::Rejected).then(|| Text::line(&entry.reason, 200)),
        scope: Text::line(lineage.scope.to_string(), 80),
        base: Text::line(&lineage.base.model, 80),
        task: task.map(|pair| Pair::new(pair, |x| format!("{:.0} %", 100.0 * x), |p| p.after > p.before)),
        loss: held_out_loss.map(|pair| Pair::new(pair, |x| format!("{x:.3}"), |p| p.after < p.before)),
        perplexity: perplexity_rise.map(|rise| format!("{:+.1} %", 100.0 * rise)),
        trajectories: text::count(lineage.trajectories.len() as u64),
        corrections: text::count(lineage.examples.corrections),
        created: When::new(lineage.created, view.now),
    }
}

impl Pair {
    fn new(
        pair: BeforeAfter,
        write: impl Fn(f64) -> String,
        better: impl FnOnce(&BeforeAfter) -> bool,
    ) -> Self {
        Self { before: write(pair.before), after: write(pair.after), better: better(&pair) }
    }
}
