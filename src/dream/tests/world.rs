use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{OptionalExtension, params};
use tempfile::TempDir;

use crate::config;
use crate::dream::{DreamError, Night};
use crate::model::{
    self, Ended, ExchangeId, Feedback, Label, Message, Micros, NightPhase, Role, Scope, Step, ToolCall,
    TrajectoryId, Transcript, Vote, VoteSource,
};
use crate::search::{EmbedError, Embedder};
use crate::store::{Assessment, DataDir, Store, StoreError};

/// 2026-11-01T00:00:00Z.
pub const DAY_ONE: Micros = Micros(1_793_491_200_000_000);

/// Words hashed into 64 dimensions.
pub struct Words;

impl Embedder for Words {
    fn name(&self) -> &str {
        "words-1"
    }

    fn dimensions(&self) -> usize {
        64
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let row = |text: &&str| {
            let mut row = vec![0.0; 64];
            for word in text.split_whitespace() {
                let hash = word.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
                row[hash as usize % 64] += 1.0;
            }
            crate::dream::features::scale(&mut row, 1.0);
            row
        };
        Ok(texts.iter().map(row).collect())
    }
}

pub struct World {
    /// Deleted when the world ends.
    _dir: TempDir,
    pub store: Store,
    pub config: config::Dream,
    count: u64,
}

/// One run to be put into a world.
#[derive(Clone, Default)]
pub struct Run {
    pub messages: Vec<Message>,
    pub failed: bool,
    pub votes: Vec<Vote>,
    pub correction: Option<String>,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&DataDir::new(dir.path())).expect("a store");
        store
            .write("make the tests' table", |tx| {
                tx.execute_batch("CREATE TABLE test_transcript (id BLOB PRIMARY KEY, messages TEXT)")
            })
            .expect("a table");
        Self { _dir: dir, store, config: config::Dream::default(), count: 0 }
    }

    /// Adds a run; each is a minute after the one before, and ids are the same in every world.
    pub fn add(&mut self, run: &Run) -> TrajectoryId {
        self.count += 1;
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&self.count.to_be_bytes());
        let id = TrajectoryId::from_bytes(bytes);
        let when = DAY_ONE.plus(Duration::from_secs(60 * self.count));
        let messages = serde_json::to_string(&run.messages).expect("messages are JSON");
        let task = run.messages.iter().find(|m| m.role == Role::User).map_or("", |m| m.text.as_str());
        self.store
            .write("add a run", |tx| {
                tx.execute(
                    "INSERT INTO trajectory (id, tenant, app, user, link, link_confidence, started, ended, exchanges, \
                     task, last_seq) VALUES (?1, 'default', 'default', '', 'explicit', 1, ?2, ?2, 1, ?3, ?4)",
                    params![bytes, when.0, task, self.count as i64],
                )?;
                tx.execute("INSERT INTO test_transcript VALUES (?1, ?2)", params![bytes, messages])
            })
            .expect("a row");
        if let Some(correction) = &run.correction {
            let feedback = Feedback {
                label: Some(Label::Failure),
                reward: None,
                correction: Some(correction.clone()),
                comment: None,
                source: "user".into(),
                given: when,
            };
            self.store.give_feedback(id, None, &feedback).expect("feedback");
        }
        self.label(id, run.failed, run.votes.clone());
        id
    }

    pub fn label(&self, id: TrajectoryId, failed: bool, mut votes: Vec<Vote>) {
        // So that combining the votes again gives the same label.
        let said = VoteSource::Feedback("test".into());
        votes.push(Vote { value: f64::from(u8::from(!failed)), confidence: 0.99, ..vote(said) });
        let outcome = model::Outcome {
            p_success: Some(if failed { 0.05 } else { 0.95 }),
            label: if failed { Label::Failure } else { Label::Success },
            failing_step: None,
        };
        let revision = self
            .store
            .read("read a revision", |db| {
                db.query_row("SELECT revision FROM trajectory WHERE id = ?1", [id.as_bytes()], |r| r.get(0))
            })
            .expect("a revision");
        self.store.assess(&[Assessment { trajectory: id, revision, outcome, votes }]).expect("an assessment");
    }

    pub fn night(&self, hour: u64) -> model::Night {
        let now = DAY_ONE.plus(Duration::from_secs(3600 * hour));
        Night::run(&self.store, &self.config, &Words, &Scope::default(), now, &mut |_, _, _| {})
            .expect("a night")
    }

    pub fn killed_night(&self, hour: u64, after: NightPhase) {
        let now = DAY_ONE.plus(Duration::from_secs(3600 * hour));
        let end = Night::killed_after(&self.store, &self.config, &Words, &Scope::default(), now, after);
        assert!(matches!(end, Err(DreamError::Killed(at)) if at == after), "{end:?}");
    }

    pub fn learned(&self) -> PathBuf {
        self.store.dir().learned("default")
    }

    /// Every learned file, in order: path and content.
    pub fn files(&self) -> Vec<(String, String)> {
        fn walk(folder: &std::path::Path, root: &std::path::Path, out: &mut Vec<(String, String)>) {
            let Ok(entries) = std::fs::read_dir(folder) else { return };
            for path in entries.map(|e| e.expect("an entry").path()) {
                if path.ends_with(".git") {
                    continue;
                }
                if path.is_dir() {
                    walk(&path, root, out);
                } else {
                    let name = path.strip_prefix(root).expect("inside").to_string_lossy().into_owned();
                    out.push((name, std::fs::read_to_string(&path).expect("text")));
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.learned(), &self.learned(), &mut out);
        out.sort();
        out
    }

    pub fn file(&self, path: &str) -> String {
        std::fs::read_to_string(self.learned().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }
}

/// What `crate::trajectory::transcript` would give.
pub fn transcript(store: &Store, id: TrajectoryId) -> Result<Option<Transcript>, StoreError> {
    let messages: Option<String> = store.read("read a transcript", |db| {
        let sql = "SELECT messages FROM test_transcript WHERE id = ?1";
        db.query_row(sql, [id.as_bytes()], |r| r.get(0)).optional()
    })?;
    Ok(messages.map(|text| {
        let messages: Vec<Message> = serde_json::from_str(&text).expect("messages");
        transcript_of(id, messages)
    }))
}

pub fn transcript_of(id: TrajectoryId, messages: Vec<Message>) -> Transcript {
    let answers = messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant);
    let steps = answers
        .map(|(i, _)| Step {
            exchange: ExchangeId::from_bytes([0; 16]),
            response_id: None,
            message: Some(i),
            status: Some(200),
            ended: Ended::Complete,
            finish_reason: Some("stop".into()),
            model: None,
            usage: None,
            started: DAY_ONE,
            duration: Duration::ZERO,
            time_to_first_byte: None,
        })
        .collect();
    Transcript {
        trajectory: id,
        scope: Scope::default(),
        messages,
        steps,
        tools: Vec::new(),
        output_schema: None,
    }
}

pub fn user(text: impl Into<String>) -> Message {
    Message { role: Role::User, text: text.into(), ..Message::default() }
}

pub fn says(text: impl Into<String>) -> Message {
    Message { role: Role::Assistant, text: text.into(), ..Message::default() }
}

/// A call and its result.
pub fn call(name: &str, arguments: &str, result: impl Into<String>) -> [Message; 2] {
    let id = format!("call_{name}");
    let call = ToolCall { id: id.clone(), name: name.into(), arguments: arguments.into() };
    [
        Message { role: Role::Assistant, tool_calls: vec![call], ..Message::default() },
        Message { role: Role::Tool, text: result.into(), tool_call_id: Some(id), ..Message::default() },
    ]
}

pub fn vote(source: VoteSource) -> Vote {
    Vote { source, value: 0.0, confidence: 0.8, step: None, evidence: "seen".into() }
}

/// A cancellation that looks at the order first.
pub fn cancelled(i: usize) -> Run {
    let order = format!("#W{}", 1000 + i);
    let arguments = format!(r#"{{"order_id": "{order}"}}"#);
    let mut messages = vec![user(format!("please cancel my order {order} today"))];
    messages.extend(call("get_order", &arguments, r#"{"status": "pending"}"#));
    messages.extend(call("cancel_order", &arguments, "cancelled"));
    messages.push(says("It is cancelled."));
    Run { messages, ..Run::default() }
}

/// One that does not, and fails.
pub fn cancelled_blindly(i: usize) -> Run {
    let order = format!("#W{}", 5000 + i);
    let mut messages = vec![user(format!("please cancel my order {order} today"))];
    let error = format!("Error: order {order} cannot be cancelled");
    messages.extend(call("cancel_order", &format!(r#"{{"order_id": "{order}"}}"#), error));
    messages.push(says("I could not do it."));
    Run { messages, failed: true, votes: vec![vote(VoteSource::ToolError)], ..Run::default() }
}

/// One that asks a search the same thing until it gives up.
pub fn searched_in_circles(i: usize) -> Run {
    let mut messages = vec![user(format!("which shoes do you have in size {}", 30 + i))];
    for _ in 0..4 {
        messages.extend(call("search_items", r#"{"text": "shoes"}"#, "[]"));
    }
    messages.push(says("Sorry."));
    Run { messages, failed: true, votes: vec![vote(VoteSource::RepeatedCall)], ..Run::default() }
}

/// One that finds shoes.
pub fn searched(i: usize) -> Run {
    let mut messages = vec![user(format!("which shoes do you have in size {}", 30 + i))];
    messages.extend(call("list_sizes", "{}", "[]"));
    messages.extend(call("search_items", &format!(r#"{{"text": "shoes {i}"}}"#), r#"["a"]"#));
    messages.push(says("These."));
    Run { messages, ..Run::default() }
}

/// A day with all of them, mixed.
pub fn day(world: &mut World, from: usize, rounds: usize) {
    for i in from..from + rounds {
        world.add(&cancelled(2 * i));
        world.add(&cancelled_blindly(i));
        world.add(&searched(i));
        world.add(&cancelled(2 * i + 1));
        world.add(&searched_in_circles(i));
        world.add(&searched(i + 100));
    }
}
