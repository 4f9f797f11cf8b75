use clap::Args;
use serde_json::json;

use super::progress::Bars;
use super::{Common, Failure, Outcome, open_store, output};
use crate::model::Micros;
use crate::search::{self, Filter, Index};
use crate::{outcome, trajectory};

/// Find trajectories by words and by meaning.
#[derive(Args, Debug)]
pub(super) struct Search {
    #[command(flatten)]
    common: Common,
    /// What to look for; fields such as tool:cancel_order or session:NAME narrow it.
    #[arg(required = true)]
    query: Vec<String>,
    /// Only these outcomes: success, failure, partial, unknown.
    #[arg(long)]
    label: Option<String>,
    /// Only this app.
    #[arg(long)]
    app: Option<String>,
    /// Hits at most.
    #[arg(long, default_value_t = 10, value_name = "N")]
    limit: usize,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
}

impl Search {
    pub fn run(self) -> Outcome {
        let label = match self.label.as_deref().map(str::parse) {
            None => None,
            Some(Ok(label)) => Some(label),
            Some(Err(())) => {
                return Err(Failure::Usage("--label: expected success, failure, partial or unknown".into()));
            }
        };
        let config = self.common.load()?;
        let store = open_store(&config)?;
        let bars = Bars::default();
        trajectory::catch_up(&store)?;
        outcome::assess(&store, Micros::now())?;
        let embedder = search::embedder(&config.search, &config.onnx, &bars)?;
        let index = Index::open(&store)?;
        let caught_up = index.catch_up(&store, embedder.as_ref(), &bars)?;
        let filter = Filter { app: self.app, label, limit: self.limit, ..Filter::default() };
        let text = self.query.join(" ");
        let hits = search::query(&index, &store, embedder.as_ref(), &text, &filter)?;
        if let Some(note) = &caught_up.note {
            eprintln!("remora: {note}");
        }
        if self.json {
            return Ok(output::json_line(
                &json!({"query": text, "embedder": embedder.name(), "hits": hits}),
            )?);
        }
        if hits.is_empty() {
            output::line(format_args!("nothing found among {} trajectories", index.documents()))?;
        }
        for hit in hits {
            let t = &hit.trajectory;
            let label = t.outcome.as_ref().map_or("unknown", |o| o.label.as_str());
            output::line(format_args!("{}  {label:<8} {}  {}", t.id, t.started, output::safe(&t.task, 80)))?;
            if !hit.snippet.is_empty() {
                output::line(format_args!("    {}", output::safe(&hit.snippet, 200)))?;
            }
        }
        Ok(())
    }
}
