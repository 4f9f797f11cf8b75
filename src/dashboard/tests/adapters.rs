//! Adapters of the invented support desk.

use crate::adapters::{CONFIG, Candidate, Registry, WEIGHTS};
use crate::model::{
    AdapterBase, AdapterExamples, AdapterId, AdapterScores, AdapterState, BeforeAfter, Scope, TrajectoryId,
};
use crate::store::Store;

/// The alias that two of them had.
pub(super) const ALIAS: &str = "acme-support-desk";

/// Five: retired, refused, active, refused, undecided.
pub(super) fn fill(
    store: &Store,
    trajectories: &[TrajectoryId],
    say: &dyn Fn(&str) -> String,
) -> Vec<AdapterId> {
    let registry = Registry::open(store.dir());
    let files = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(files.path().join(WEIGHTS), b"\0\0\0\0\0\0\0\0").expect("written");
    std::fs::write(files.path().join(CONFIG), r#"{"r": 16}"#).expect("written");
    let mut ids = Vec::new();
    for (i, (before, after, loss, rise)) in [
        (0.12, 0.71, 0.912, 0.021),
        (0.71, 0.64, 0.88, 0.094),
        (0.71, 0.9, 0.412, 0.034),
        (0.9, 0.91, 0.4, 0.171),
        (0.9, 0.9, 0.41, 0.0),
    ]
    .into_iter()
    .enumerate()
    {
        let measured = AdapterScores {
            task: Some(BeforeAfter { before, after }),
            held_out_loss: Some(BeforeAfter { before: 2.31, after: loss }),
            perplexity_rise: Some(rise),
        };
        let candidate = Candidate {
            files: files.path().to_owned(),
            scope: Scope { tenant: "acme".into(), app: say("support-desk"), user: String::new() },
            base: AdapterBase {
                model: say("SmolLM2-135M-Instruct"),
                hash: "5e1f0c6ad94b0f5bb21d9f1f3b1c5f7e0d4a6b8c9e2f3a4b5c6d7e8f90a1b2c3".into(),
            },
            trajectories: trajectories.iter().take(40 + 10 * i).copied().collect(),
            examples: AdapterExamples {
                training: 1200,
                corrections: 31 + i as u64,
                replay: 300,
                held_out: 24,
            },
            options: serde_json::json!({"rank": 16, "alpha": 32.0, "note": say("as usual")}),
            scores: if i == 4 { AdapterScores::default() } else { measured },
        };
        let id = registry.add(candidate).expect("added");
        match i {
            0 => drop(registry.promote(id, ALIAS, &say("better on 24 held-out tasks")).expect("promoted")),
            2 => {
                registry
                    .record_decision(id, AdapterState::Candidate, &say("passed"), None)
                    .expect("recorded");
                registry.promote(id, ALIAS, &say("19 points better on 24 held-out tasks")).expect("promoted");
            }
            1 | 3 => registry
                .record_decision(
                    id,
                    AdapterState::Rejected,
                    &say("the perplexity rose by more than 5 %"),
                    None,
                )
                .expect("recorded"),
            _ => {}
        }
        ids.push(id);
    }
    ids
}
