use super::backlog::Backlog;
use super::flight::{Open, RequestState, Saved};
use super::redact::Redactor;
use crate::model::{Body, Ended, Exchange, ExchangeId, Headers, Micros, Response};
use crate::store::journal::{Entry, HeaderLines, JournalWriter};
use crate::telemetry::Metrics;

/// Turns what was captured into entries of the journal, credentials replaced, and appends them.
pub(super) struct Writer {
    journal: JournalWriter,
    redactor: Redactor,
    metrics: Metrics,
    backlog: Backlog,
    /// Bytes that the journal may hold before records are dropped.
    limit: u64,
    /// The last write failed: said once, for a full disk lasts.
    failing: bool,
}

impl Writer {
    pub fn new(
        journal: JournalWriter,
        redactor: Redactor,
        metrics: Metrics,
        backlog: Backlog,
        limit: u64,
    ) -> Self {
        Self { journal, redactor, metrics, backlog, limit, failing: false }
    }

    /// Appends finished exchanges; counts those that are lost.
    #[expect(clippy::vec_box, reason = "they come in boxes")]
    pub fn write(&mut self, opens: Vec<Box<Open>>) {
        let count = opens.len();
        if self.backlog.bytes() >= self.limit {
            self.metrics.lost_journal_full.increment(count as u64);
            for open in opens.iter().filter(|open| open.saved.is_some()) {
                self.forget(open.id);
            }
            self.fail(&format_args!("the journal has reached capture.journal"));
            return;
        }
        let (redactor, metrics) = (&mut self.redactor, &self.metrics);
        let mut saved = Vec::new();
        // Memory counts as held until what it held is appended.
        let mut shares = Vec::with_capacity(count * 2);
        let entries = opens.into_iter().map(|open| {
            if open.saved.is_some() {
                saved.push(open.id);
            }
            if open.request.out_of_memory() || open.response.out_of_memory() {
                metrics.truncated_by_memory.increment(1);
            }
            entry(redactor, *open, &mut shares)
        });
        let (kept, bytes, error) = match self.journal.append(entries) {
            Ok(bytes) => (count, bytes, None),
            Err(error) => (error.kept, error.bytes, Some(error)),
        };
        self.metrics.recorded.increment(kept as u64);
        self.backlog.appended(bytes, kept as u64);
        for id in saved {
            self.journal.end_checkpoints(id);
        }
        match error {
            None if std::mem::take(&mut self.failing) => tracing::info!("recording again"),
            None => {}
            Some(error) => {
                self.metrics.lost_write_failed.increment((count - kept) as u64);
                self.fail(&error);
            }
        }
    }

    fn fail(&mut self, reason: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(
                %reason,
                "cannot record; traffic goes on, losses are counted in remora_exchanges_lost_total"
            );
        }
    }

    /// What is new of an exchange under way since it was last saved, and whether it is the first; none where nothing is.
    pub fn news(&mut self, open: &mut Open) -> Option<(Entry, bool)> {
        let now = Saved {
            request: open.request.kept(),
            response: open.response.kept(),
            head: open.response_head.is_some(),
        };
        if open.saved == Some(now) {
            return None;
        }
        let before = open.saved.replace(now);
        let first = before.is_none();
        let before = before.unwrap_or(Saved { request: 0, response: 0, head: false });
        let (request_line, request) = open.request.since(before.request);
        let (response_line, response) = open.response.since(before.response);
        let mut exchange = described(&mut self.redactor, open);
        exchange.request_body = request_line;
        exchange.request_body.truncated |= open.request_state != RequestState::Ended;
        exchange.ended = Ended::Interrupted;
        exchange.timing.ended = Micros::now();
        let request_headers = self.redactor.headers(&open.head.headers);
        let mut response_headers = HeaderLines::default();
        if let Some((status, headers)) = &open.response_head {
            response_headers = self.redactor.headers(headers);
            exchange.response =
                Some(Response { status: *status, headers: Headers::default(), body: response_line });
        }
        Some((Entry { exchange, request_headers, response_headers, request, response }, first))
    }

    /// Saves what is new of an exchange under way. False where that fails: nothing of it is saved any more.
    pub fn save(&mut self, entry: &Entry, first: bool) -> bool {
        let saved = self.journal.checkpoint(entry, first);
        if let Err(error) = &saved {
            self.metrics.checkpoints_failed.increment(1);
            self.fail(error);
        }
        saved.is_ok()
    }

    /// Forgets what was saved of an exchange under way: it has ended.
    pub fn forget(&self, id: ExchangeId) {
        self.journal.end_checkpoints(id);
    }

    /// Looks after the journal's files; to be called now and then.
    pub fn tend(&mut self) {
        if let Err(error) = self.journal.tend() {
            self.fail(&error);
        }
    }
}

/// An exchange without its headers and bodies.
fn described(redactor: &mut Redactor, open: &Open) -> Exchange {
    let head = &open.head;
    Exchange {
        id: open.id,
        scope: head.scope.clone(),
        connection: head.connection,
        client_key: redactor.client_key(&head.headers),
        method: head.method.to_string(),
        target: redactor.target(&head.target),
        upstream: head.upstream.to_string(),
        request_headers: Headers::default(),
        request_body: Body::default(),
        response: None,
        timing: open.timing,
        ended: open.ended,
        detail: open.detail.clone(),
    }
}

fn entry(redactor: &mut Redactor, open: Open, shares: &mut Vec<super::memory::Share>) -> Entry {
    let mut exchange = described(redactor, &open);
    let cut = open.request.fell_short() || open.response.fell_short();
    let (mut request_line, request, share) = open.request.into_parts();
    shares.push(share);
    // An answer may come before the request's end; what came later is not in the record.
    request_line.truncated |= open.request_state != RequestState::Ended;
    exchange.request_body = request_line;
    let (response_line, mut response, share) = open.response.into_parts();
    shares.push(share);
    if cut && exchange.ended == Ended::Complete {
        exchange.ended = Ended::TruncatedByLimit;
    }
    let request_headers = redactor.headers(&open.head.headers);
    let mut response_headers = HeaderLines::default();
    match &open.response_head {
        Some((status, headers)) => {
            response_headers = redactor.headers(headers);
            exchange.response =
                Some(Response { status: *status, headers: Headers::default(), body: response_line });
        }
        None => response.clear(),
    }
    Entry { exchange, request_headers, response_headers, request, response }
}
