use rusqlite::params;

use super::*;
use crate::model::{Feedback, VoteSource};
use crate::store::DataDir;

struct Bench {
    store: Store,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&DataDir::new(dir.path())).expect("a store");
        Self { store, _dir: dir }
    }

    /// A trajectory whose bodies are not there.
    fn trajectory(&self) -> TrajectoryId {
        const SQL: &str = "INSERT INTO trajectory (id, tenant, app, user, link, link_confidence, started, ended, \
             exchanges, task, last_seq) VALUES (?1, 'default', 'default', '', 'first', 1.0, 1, 2, 1, 'task', 1)";
        let id = TrajectoryId::new();
        self.store
            .write("add a trajectory", |tx| tx.execute(SQL, params![id.as_bytes()]).map(drop))
            .expect("a row");
        id
    }

    fn feedback(&self, id: TrajectoryId, label: Label) {
        let feedback = Feedback {
            label: Some(label),
            reward: None,
            correction: None,
            comment: None,
            source: "user".into(),
            given: Micros::now(),
        };
        self.store.give_feedback(id, None, &feedback).expect("feedback");
    }

    fn outcome(&self, id: TrajectoryId) -> Outcome {
        self.store.trajectory(id).expect("a query").expect("a trajectory").outcome.expect("an outcome")
    }
}

#[test]
fn what_cannot_be_read_is_unknown_and_assessed_once() {
    let bench = Bench::new();
    let ids: Vec<_> = (0..205).map(|_| bench.trajectory()).collect();
    let report = assess(&bench.store, Micros::now()).expect("assessed");
    assert_eq!(report, AssessReport { assessed: 205, unreadable: 205, ..AssessReport::default() });
    assert_eq!(bench.outcome(ids[204]).label, Label::Unknown);
    assert_eq!(assess(&bench.store, Micros::now()).expect("assessed"), AssessReport::default());
}

#[test]
fn late_feedback_makes_a_trajectory_due_again_even_without_its_bodies() {
    let bench = Bench::new();
    let id = bench.trajectory();
    assess(&bench.store, Micros::now()).expect("assessed");
    bench.feedback(id, Label::Failure);
    let report = assess(&bench.store, Micros::now()).expect("assessed");
    assert_eq!((report.assessed, report.failures), (1, 1));
    assert_eq!(bench.outcome(id).label, Label::Failure);
}

#[test]
fn relearning_moves_outcomes_by_what_feedback_taught() {
    let bench = Bench::new();
    let vote = |source, value, confidence| Vote {
        source,
        value,
        confidence,
        step: Some(0),
        evidence: "seen".into(),
    };
    let error = || vote(VoteSource::ToolError, 0.0, 0.75);
    let keep = |votes: Vec<Vote>| {
        let trajectory = bench.trajectory();
        let outcome = outcome(None, &votes, &Accuracies::default());
        bench.store.assess(&[Assessment { trajectory, revision: 1, outcome, votes }]).expect("kept");
        trajectory
    };
    // Users are content although a tool failed: here tool errors mean little.
    for _ in 0..60 {
        keep(vec![error(), vote(VoteSource::Feedback("user".into()), 1.0, 0.95)]);
    }
    let alone = keep(vec![error()]);
    assert_eq!(bench.outcome(alone).label, Label::Failure);
    let report = relearn(&bench.store, &Scope::default()).expect("relearned");
    assert!(report.changed >= 1 && report.learned[0].1 < 0.6, "{report:?}");
    assert_eq!(bench.outcome(alone).label, Label::Unknown);
    assert_eq!(bench.store.votes(alone).expect("votes"), [error()]);
    assert_eq!(relearn(&bench.store, &Scope::default()).expect("relearned").changed, 0);
    assert_eq!(bench.store.unassessed(Micros::now(), 9).expect("a query"), []);
}
