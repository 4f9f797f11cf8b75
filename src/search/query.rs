use std::collections::HashMap;

use serde::Serialize;
use tantivy::collector::TopDocs;
use tantivy::query::{BooleanQuery, BoostQuery, ConstScoreQuery, Occur, Query, QueryParser, TermQuery};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::snippet::SnippetGenerator;
use tantivy::{DocAddress, Searcher, TantivyDocument, Term};

use super::document::key;
use super::fusion::fuse;
use super::words::words;
use super::{Embedder, Index, SearchError, cosine};
use crate::model::{Label, Trajectory, TrajectoryId};
use crate::store::{EmbeddingFilter, Store};

/// Words of the task weigh more than words somewhere in the conversation.
const TASK_BOOST: f32 = 2.0;

/// Each list is this many times as long as what is asked for: fusion needs ranks below the cut.
const DEPTH: usize = 4;

/// Cosines below are chance, not likeness.
const COSINE_FLOOR: f32 = 0.15;

/// A query's syntax is read up to this many bytes and opening parentheses, since tantivy's parser recurses; what is
/// longer is words. Of those so many are searched.
const MAX_SYNTAX_BYTES: usize = 500;
const MAX_SYNTAX_GROUPS: usize = 10;
const MAX_WORDS: usize = 100;

/// Characters of a snippet.
const SNIPPET_CHARS: usize = 200;

/// Where to look, and how many hits are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub tenant: Option<String>,
    pub app: Option<String>,
    pub label: Option<Label>,
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { tenant: None, app: None, label: None, limit: 10 }
    }
}

/// A trajectory that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Hit {
    pub trajectory: Trajectory,
    /// Higher is better; only compares within one query.
    pub score: f64,
    /// Plain text, untrusted, in one line.
    pub snippet: String,
    pub why: Why,
}

/// Which lists a hit was on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Why {
    /// Rank by words (BM25), from 1.
    pub words: Option<usize>,
    /// Rank by meaning, from 1, and the cosine of query and trajectory.
    pub meaning: Option<usize>,
    pub cosine: Option<f32>,
}

/// Finds trajectories by words and by meaning, best first.
///
/// `text` may use tantivy's syntax (`tool:refund`, `"exact words"`, `-not`); what is no valid query is searched as
/// plain words. An embedder that fails leaves the search by words.
///
/// # Errors
/// When the index or the store cannot be read.
pub fn query(
    index: &Index,
    store: &Store,
    embedder: &dyn Embedder,
    text: &str,
    filter: &Filter,
) -> Result<Vec<Hit>, SearchError> {
    if text.trim().is_empty() || filter.limit == 0 {
        return Ok(Vec::new());
    }
    // Another process may have committed.
    index.reader.reload().map_err(index.failed("read"))?;
    let searcher = index.reader.searcher();
    let wanted = filter.limit.saturating_mul(DEPTH);
    let parsed = parse(index, text);
    let by_words = by_words(index, store, &searcher, &*parsed, filter, wanted)?;
    let by_meaning = by_meaning(store, embedder, text, filter, wanted)?;

    let lists = [by_words.iter().map(|w| w.0.id).collect(), by_meaning.iter().map(|m| m.0).collect()];
    let mut found: HashMap<TrajectoryId, (Trajectory, DocAddress)> =
        by_words.into_iter().map(|(t, address)| (t.id, (t, address))).collect();
    let mut snippets =
        SnippetGenerator::create(&searcher, &*parsed, index.fields.text).map_err(index.failed("read"))?;
    snippets.set_max_num_chars(SNIPPET_CHARS);
    let mut hits = Vec::with_capacity(filter.limit);
    for (id, score) in fuse(&lists) {
        if hits.len() == filter.limit {
            break;
        }
        let mut snippet = String::new();
        let trajectory = match found.remove(&id) {
            Some((trajectory, address)) => {
                let document: TantivyDocument = searcher.doc(address).map_err(index.failed("read"))?;
                snippet = one_line(snippets.snippet_from_doc(&document).fragment());
                trajectory
            }
            // Found by meaning alone; gone if it was forgotten meanwhile.
            None => match store.trajectory(id)? {
                Some(trajectory) => trajectory,
                None => continue,
            },
        };
        if snippet.is_empty() {
            snippet = one_line(&trajectory.task);
        }
        let rank = |list: &[TrajectoryId]| list.iter().position(|i| *i == id).map(|i| i + 1);
        let meaning = rank(&lists[1]);
        let why = Why { words: rank(&lists[0]), meaning, cosine: meaning.map(|rank| by_meaning[rank - 1].1) };
        hits.push(Hit { trajectory, score, snippet, why });
    }
    Ok(hits)
}

/// What the user wrote as a query; where it is not valid, its words.
fn parse(index: &Index, text: &str) -> Box<dyn Query> {
    let fields = index.fields;
    let everywhere = [(fields.task, TASK_BOOST), (fields.text, 1.0), (fields.tool, 1.0)];
    let mut parser = QueryParser::for_index(&index.index, everywhere.map(|(field, _)| field).to_vec());
    parser.set_field_boost(fields.task, TASK_BOOST);
    // The lenient parser drops what it does not understand: `error: timeout` would lose `error`.
    let is_small = text.len() <= MAX_SYNTAX_BYTES && text.matches('(').count() <= MAX_SYNTAX_GROUPS;
    let parsed = if is_small { parser.parse_query(text).ok() } else { None };
    parsed.unwrap_or_else(|| {
        let terms = words(text).into_iter().take(MAX_WORDS).flat_map(|word| {
            everywhere.map(|(field, boost)| {
                let term = TermQuery::new(Term::from_field_text(field, &word), IndexRecordOption::WithFreqs);
                (Occur::Should, Box::new(BoostQuery::new(Box::new(term), boost)) as Box<dyn Query>)
            })
        });
        Box::new(BooleanQuery::new(terms.collect()))
    })
}

/// The best by BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009) that pass the filter and
/// still exist.
fn by_words(
    index: &Index,
    store: &Store,
    searcher: &Searcher,
    parsed: &dyn Query,
    filter: &Filter,
    wanted: usize,
) -> Result<Vec<(Trajectory, DocAddress)>, SearchError> {
    let mut clauses = vec![(Occur::Must, parsed.box_clone())];
    let mut must_be = |field: Field, value: &Option<String>| {
        if let Some(value) = value {
            let term = TermQuery::new(Term::from_field_text(field, value), IndexRecordOption::Basic);
            // No score of its own: a rare tenant is no better match.
            clauses
                .push((Occur::Must, Box::new(ConstScoreQuery::new(Box::new(term), 0.0)) as Box<dyn Query>));
        }
    };
    must_be(index.fields.tenant, &filter.tenant);
    must_be(index.fields.app, &filter.app);
    let scoped = BooleanQuery::new(clauses);

    // The label is the store's: candidates are taken until enough of them have it.
    let mut depth = wanted;
    loop {
        let top = searcher
            .search(&scoped, &TopDocs::with_limit(depth).order_by_score())
            .map_err(index.failed("search"))?;
        let mut passed = Vec::new();
        for (_, address) in &top {
            let Some(id) = id_of(searcher, *address).map_err(index.failed("read"))? else { continue };
            let Some(trajectory) = store.trajectory(id)? else { continue };
            let label = trajectory.outcome.as_ref().map_or(Label::Unknown, |o| o.label);
            if filter.label.is_none_or(|wanted| wanted == label) {
                passed.push((trajectory, *address));
            }
            if passed.len() == wanted {
                return Ok(passed);
            }
        }
        if top.len() < depth {
            return Ok(passed);
        }
        depth *= 4;
    }
}

/// The id of a document, from its column: the stored document holds the whole text.
fn id_of(searcher: &Searcher, address: DocAddress) -> tantivy::Result<Option<TrajectoryId>> {
    let Some(column) = searcher.segment_reader(address.segment_ord).fast_fields().str("id")? else {
        return Ok(None);
    };
    let mut text = String::new();
    let Some(ord) = column.term_ords(address.doc_id).next() else { return Ok(None) };
    column.ord_to_str(ord, &mut text)?;
    Ok(text.parse().ok().filter(|id| key(*id) == text))
}

/// The nearest by cosine, all compared: 100,000 vectors take some tens of milliseconds, less than an index of vectors
/// would be worth.
fn by_meaning(
    store: &Store,
    embedder: &dyn Embedder,
    text: &str,
    filter: &Filter,
    wanted: usize,
) -> Result<Vec<(TrajectoryId, f32)>, SearchError> {
    let question = match embedder.embed(&[text]) {
        Ok(mut rows) => rows.pop().unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "searching by words only");
            return Ok(Vec::new());
        }
    };
    let scope =
        EmbeddingFilter { tenant: filter.tenant.as_deref(), app: filter.app.as_deref(), label: filter.label };
    let mut near: Vec<(TrajectoryId, f32)> = Vec::new();
    store.for_each_embedding(embedder.name(), scope, |id, vector| {
        let cosine = cosine(&question, &vector);
        if cosine >= COSINE_FLOOR {
            near.push((id, cosine));
        }
    })?;
    near.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
    near.truncate(wanted);
    Ok(near)
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(SNIPPET_CHARS).collect()
}
