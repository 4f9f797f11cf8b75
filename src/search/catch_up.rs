use tantivy::directory::error::LockError;
use tantivy::indexer::IndexWriterOptions;
use tantivy::{IndexWriter, TantivyDocument, TantivyError, Term};

use super::document::{Document, key, meaning};
use super::index::tantivy_index;
use super::{Embedder, Index, SearchError};
use crate::model::{Progress, TrajectoryId, Transcript};
use crate::store::{Indexed, Store, StoreError, Unindexed};

/// Trajectories between two commits: bounds what a kill makes be done again, and memory (100 kB of text each at most).
const BATCH: u32 = 64;

/// The smallest that tantivy allows is 15 MB.
const WRITER_MEMORY: usize = 48_000_000;

/// What catching up did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaughtUp {
    /// Trajectories whose text was indexed, and whose vectors were computed.
    pub indexed: usize,
    pub embedded: usize,
    /// Why it stopped short, for people.
    pub note: Option<String>,
}

/// Reads what was said in a trajectory.
type Load<'a> = dyn Fn(TrajectoryId) -> Result<Option<Transcript>, StoreError> + 'a;

impl Index {
    /// Indexes and embeds all trajectories that changed since, in batches; each is committed to the index first and
    /// then marked in the store. Blocks; safe to kill at any point, and to run in several processes.
    ///
    /// Where another process is indexing, or the embedder fails, it goes as far as it can and says so in the note.
    ///
    /// # Errors
    /// When the index or the store cannot be written.
    pub fn catch_up(
        &self,
        store: &Store,
        embedder: &dyn Embedder,
        progress: &dyn Progress,
    ) -> Result<CaughtUp, SearchError> {
        self.catch_up_with(store, embedder, progress, &|id| crate::trajectory::transcript(store, id))
    }

    pub(super) fn catch_up_with(
        &self,
        store: &Store,
        embedder: &dyn Embedder,
        progress: &dyn Progress,
        load: &Load<'_>,
    ) -> Result<CaughtUp, SearchError> {
        let due = store.count_unindexed(embedder.name())?;
        if due == 0 {
            return Ok(CaughtUp::default());
        }
        let Some(mut writer) = self.writer()? else {
            let note = "another process is indexing: what it has not reached yet is not found".to_owned();
            return Ok(CaughtUp { note: Some(note), ..CaughtUp::default() });
        };
        progress.begin("Indexing trajectories", Some(due));
        let mut done = CaughtUp::default();
        let mut after = 0;
        let result = loop {
            match self.batch(store, embedder, load, &mut writer, after, &mut done) {
                Ok(Some(last)) => after = last,
                Ok(None) => break Ok(done),
                Err(error) => break Err(error),
            }
            progress.reached(done.indexed.max(done.embedded) as u64);
        };
        // Merges of small segments end before the lock is given back; what is committed does not depend on them.
        if let Err(error) = writer.wait_merging_threads() {
            tracing::warn!(%error, "the search index could not be compacted");
        }
        progress.end();
        result
    }

    /// Takes trajectories out of the index and their words off the disk, as when their data is forgotten.
    ///
    /// # Errors
    /// When the index cannot be written, or another process is writing it.
    pub fn forget(&self, trajectories: &[TrajectoryId]) -> Result<(), SearchError> {
        let mut writer = self.writer()?.ok_or_else(|| SearchError::Busy { path: self.path.clone() })?;
        for id in trajectories {
            writer.delete_term(Term::from_field_text(self.fields.id, &key(*id)));
        }
        let failed = self.failed("forget in");
        writer.commit().map_err(&failed)?;
        // A deleted document is only marked; a merge writes segments without it and drops the old ones.
        let segments = writer.index().searchable_segment_ids().map_err(&failed)?;
        if !segments.is_empty() {
            writer.merge(&segments).wait().map_err(&failed)?;
        }
        writer.garbage_collect_files().wait().map_err(&failed)?;
        writer.wait_merging_threads().map_err(&failed)
    }

    /// One batch; returns where the next begins, none after the last.
    fn batch(
        &self,
        store: &Store,
        embedder: &dyn Embedder,
        load: &Load<'_>,
        writer: &mut IndexWriter,
        after: i64,
        done: &mut CaughtUp,
    ) -> Result<Option<i64>, SearchError> {
        let due = store.unindexed(embedder.name(), after, BATCH)?;
        let Some(last) = due.last().map(|d| d.last_seq) else { return Ok(None) };
        let mut meanings = Vec::with_capacity(due.len());
        for one in &due {
            // A trajectory whose bodies are gone or damaged is still found by its task.
            let transcript = load(one.trajectory.id).unwrap_or_else(|error| {
                tracing::warn!(trajectory = %one.trajectory.id, %error, "indexed without its messages");
                None
            });
            if one.text {
                let document = Document::of(&one.trajectory, transcript.as_ref());
                writer.delete_term(Term::from_field_text(self.fields.id, &document.id));
                writer.add_document(self.fields.fill(document)).map_err(self.failed("write"))?;
            }
            meanings.push(meaning(&one.trajectory, transcript.as_ref()));
        }
        let vectors = embed(embedder, &due, &meanings, done);
        writer.commit().map_err(self.failed("write"))?;

        let indexed: Vec<Indexed> = due
            .iter()
            .zip(vectors)
            .map(|(one, vector)| Indexed {
                trajectory: one.trajectory.id,
                revision: one.revision,
                text: one.text,
                vector,
            })
            .collect();
        store.mark_indexed(embedder.name(), &indexed)?;
        done.indexed += indexed.iter().filter(|i| i.text).count();
        done.embedded += indexed.iter().filter(|i| i.vector.is_some()).count();
        Ok(Some(last))
    }

    /// The writer, with its lock; none where another process has it.
    fn writer(&self) -> Result<Option<IndexWriter<TantivyDocument>>, SearchError> {
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .memory_budget_per_thread(WRITER_MEMORY)
            .num_merge_threads(1);
        match tantivy_index(&self.path).and_then(|index| index.writer_with_options(options.build())) {
            Ok(writer) => Ok(Some(writer)),
            Err(TantivyError::LockFailure(LockError::LockBusy, _)) => Ok(None),
            Err(source) => Err(self.failed("open")(source)),
        }
    }

    pub(super) fn failed(&self, operation: &'static str) -> impl Fn(TantivyError) -> SearchError + '_ {
        move |source| SearchError::Index { operation, path: self.path.clone(), source }
    }
}

/// Vectors for those that need one; after the first failure none any more in this run, and a note.
fn embed(
    embedder: &dyn Embedder,
    due: &[Unindexed],
    meanings: &[String],
    done: &mut CaughtUp,
) -> Vec<Option<Vec<f32>>> {
    let wanted: Vec<usize> = (0..due.len()).filter(|i| due[*i].vector && done.note.is_none()).collect();
    let texts: Vec<&str> = wanted.iter().map(|i| meanings[*i].as_str()).collect();
    let mut vectors = vec![None; due.len()];
    match embedder.embed(&texts) {
        Ok(rows) => wanted.into_iter().zip(rows).for_each(|(i, row)| vectors[i] = Some(row)),
        Err(error) => {
            tracing::warn!(%error, "trajectories are indexed without vectors");
            done.note = Some(format!("trajectories are only found by words: {error}"));
        }
    }
    vectors
}
