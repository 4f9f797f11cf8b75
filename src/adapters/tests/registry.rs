use std::path::{Path, PathBuf};

use crate::adapters::disk::crash;
use crate::adapters::{AdapterError, CONFIG, Candidate, MoveKind, Registry, WEIGHTS};
use crate::model::{
    AdapterBase, AdapterExamples, AdapterId, AdapterScores, AdapterState, BeforeAfter, Scope, TrajectoryId,
};
use crate::store::DataDir;

struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// Opened anew each time, as by another process.
    fn registry(&self) -> Registry {
        Registry::open(&DataDir::new(self.dir.path().join("data")))
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("data/adapters")
    }

    fn candidate(&self, app: &str) -> Candidate {
        let files = self.dir.path().join("trained");
        std::fs::create_dir_all(&files).expect("a directory");
        let header = br#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let mut weights = (header.len() as u64).to_le_bytes().to_vec();
        weights.extend_from_slice(header);
        weights.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        std::fs::write(files.join(WEIGHTS), weights).expect("written");
        std::fs::write(files.join(CONFIG), r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4}"#)
            .expect("written");
        Candidate {
            files,
            scope: Scope { tenant: "acme".into(), app: app.into(), user: "joan".into() },
            base: AdapterBase { model: "tiny".into(), hash: "00".into() },
            trajectories: vec![TrajectoryId::new()],
            examples: AdapterExamples { training: 12, corrections: 7, replay: 0, held_out: 3 },
            options: serde_json::json!({"rank": 2}),
            scores: AdapterScores::default(),
        }
    }

    fn add(&self) -> AdapterId {
        self.registry().add(self.candidate("desk")).expect("it is added")
    }

    fn state(&self, id: AdapterId) -> AdapterState {
        self.registry().get(id).expect("it is there").state
    }

    fn current(&self, alias: &str) -> Option<AdapterId> {
        self.registry().alias(alias).expect("it can be read").and_then(|a| a.current())
    }
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root)
        .expect("it can be listed")
        .map(|e| e.expect("it can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn an_added_adapter_is_a_candidate_with_its_lineage_and_files() {
    let desk = Desk::new();
    assert!(desk.registry().list().expect("nothing is there yet").entries.is_empty());
    let id = desk.add();
    let entry = desk.registry().get(id).expect("it is there");
    assert_eq!((entry.state, entry.aliases.len()), (AdapterState::Candidate, 0));
    assert_eq!(entry.lineage.scope.to_string(), "acme/desk", "users share what their app learned");
    assert_eq!((entry.lineage.examples.corrections, entry.lineage.trajectories.len()), (7, 1));
    assert_eq!(entry.lineage.code, env!("CARGO_PKG_VERSION"));
    assert_eq!(names(&entry.directory), [CONFIG, WEIGHTS, "lineage.json"]);
    let text = id.to_string();
    for given in [&text, &text[..30], &text["ad_".len()..20], &text[text.len() - 6..]] {
        assert_eq!(desk.registry().find(given).expect("one has it"), id, "{given}");
    }
    assert!(matches!(desk.registry().find("zz"), Err(AdapterError::NoAdapter { .. })));
    desk.add();
    assert!(matches!(desk.registry().find("ad_0"), Err(AdapterError::Ambiguous { .. })));
}

#[test]
fn a_promotion_retires_the_former_and_a_rollback_brings_it_back_exactly() {
    let desk = Desk::new();
    let (a, b) = (desk.add(), desk.add());
    let moved = desk.registry().promote(a, "desk", "better").expect("promoted");
    assert_eq!((moved.from, moved.to), (None, Some(a)));
    desk.registry().promote(b, "desk", "better still").expect("promoted");
    assert_eq!((desk.state(a), desk.state(b)), (AdapterState::Retired, AdapterState::Active));
    assert_eq!(desk.registry().get(a).expect("there").reason, "better still");
    assert_eq!(desk.registry().find("desk").expect("an alias is a name, too"), b);

    let back = desk.registry().rollback("desk", "worse for a customer").expect("rolled back");
    assert_eq!((back.from, back.to), (Some(b), Some(a)));
    assert_eq!((desk.state(a), desk.state(b)), (AdapterState::Active, AdapterState::Retired));
    assert_eq!(desk.registry().get(b).expect("there").reason, "worse for a customer");
    assert_eq!(desk.registry().rollback("desk", "").expect("to the base").to, None);
    assert_eq!(desk.current("desk"), None);
    assert!(matches!(desk.registry().rollback("desk", ""), Err(AdapterError::NothingBefore { .. })));

    let moves = desk.registry().alias("desk").expect("readable").expect("it stays").moves;
    let kinds: Vec<MoveKind> = moves.iter().map(|m| m.kind).collect();
    assert_eq!(kinds, [MoveKind::Promote, MoveKind::Promote, MoveKind::Rollback, MoveKind::Rollback]);
    // Promoted once more, and taken back to the base, not to what was taken back before.
    desk.registry().promote(b, "desk", "again").expect("promoted");
    assert_eq!(desk.registry().rollback("desk", "").expect("rolled back").to, None);
}

#[test]
fn promoting_what_is_active_already_changes_nothing() {
    let desk = Desk::new();
    let id = desk.add();
    desk.registry().promote(id, "desk", "one").expect("promoted");
    let again = desk.registry().promote(id, "desk", "two").expect("nothing to do");
    assert_eq!(again.from, again.to);
    assert_eq!(desk.registry().only_alias().expect("one").moves.len(), 1);
}

#[test]
fn an_alias_stays_with_the_scope_that_it_was_made_for() {
    let desk = Desk::new();
    let own = desk.add();
    let other = desk.registry().add(desk.candidate("shop")).expect("added");
    desk.registry().promote(own, "desk", "").expect("promoted");
    desk.registry().rollback("desk", "").expect("rolled back");
    let error = desk.registry().promote(other, "desk", "").expect_err("another app's");
    assert!(error.to_string().contains("belongs to acme/desk"), "{error}");
    for name in ["", "a b", "ad_x", "ä", "a\n"] {
        assert!(
            matches!(desk.registry().promote(own, name, ""), Err(AdapterError::AliasName { .. })),
            "{name:?}"
        );
    }
}

#[test]
fn decisions_have_reasons_and_scores_and_do_not_touch_what_is_in_use() {
    let desk = Desk::new();
    let id = desk.add();
    let task = Some(BeforeAfter { before: 0.12, after: 0.1 });
    let scores = AdapterScores { task, ..AdapterScores::default() };
    desk.registry()
        .record_decision(id, AdapterState::Rejected, "the task check fell from 12 % to 10 %", Some(scores))
        .expect("recorded");
    let entry = desk.registry().get(id).expect("there");
    assert_eq!((entry.state, entry.scores.task), (AdapterState::Rejected, task));
    assert!(entry.reason.contains("12 %"));
    assert!(matches!(
        desk.registry().record_decision(id, AdapterState::Active, "", None),
        Err(AdapterError::NotByDecision { .. })
    ));
    desk.registry().promote(id, "desk", "all the same").expect("promoted");
    assert_eq!(desk.state(id), AdapterState::Active);
    assert!(matches!(
        desk.registry().record_decision(id, AdapterState::Rejected, "", None),
        Err(AdapterError::InUse { .. })
    ));
}

#[test]
fn weights_that_changed_are_not_promoted() {
    let desk = Desk::new();
    let id = desk.add();
    let file = desk.registry().directory(id).join(WEIGHTS);
    let mut weights = std::fs::read(&file).expect("there");
    *weights.last_mut().expect("not empty") ^= 1;
    std::fs::write(&file, weights).expect("written");
    let error = desk.registry().promote(id, "desk", "").expect_err("other weights").to_string();
    assert!(error.contains(WEIGHTS) && error.contains("SHA-256"), "{error}");
    assert_eq!(desk.current("desk"), None);
}

#[test]
fn damaged_and_foreign_files_are_named_and_left_alone() {
    let desk = Desk::new();
    let (good, bad) = (desk.add(), desk.add());
    std::fs::write(desk.registry().directory(bad).join("lineage.json"), "{").expect("written");
    for foreign in ["notes.txt", "ad_x", "other"] {
        std::fs::write(desk.root().join(foreign), "mine").expect("written");
    }
    let listing = desk.registry().list().expect("the others are readable");
    assert_eq!(listing.entries.iter().map(|e| e.lineage.id).collect::<Vec<_>>(), [good]);
    assert!(listing.broken[0].to_string().contains(&bad.to_string()), "{:?}", listing.broken);

    desk.registry().promote(good, "desk", "").expect("promoted");
    let file = desk.root().join("aliases.json");
    let sound = std::fs::read_to_string(&file).expect("there");
    for damaged in
        ["", "[]", &sound.replace("\"version\": 1", "\"version\": 2"), &sound.replace("promote", "rollback")]
    {
        std::fs::write(&file, damaged).expect("written");
        let error = desk.registry().promote(good, "desk", "").expect_err("damaged").to_string();
        assert!(error.contains("aliases.json"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), damaged, "it is left as it is");
    }
    std::fs::write(&file, sound).expect("written");
    assert_eq!(desk.current("desk"), Some(good));
}

#[test]
fn a_directory_that_holds_no_adapter_is_not_added() {
    let desk = Desk::new();
    let candidate = desk.candidate("desk");
    std::fs::write(candidate.files.join(CONFIG), "{}").expect("written");
    assert!(matches!(desk.registry().add(candidate), Err(AdapterError::Damaged { .. })));
    let mut candidate = desk.candidate("desk");
    candidate.files.push("nowhere");
    assert!(matches!(desk.registry().add(candidate), Err(AdapterError::File { .. })));
    assert!(desk.registry().list().expect("readable").entries.is_empty());
}

#[test]
fn what_stands_for_the_base_has_the_same_shapes_and_only_zeros() {
    let desk = Desk::new();
    let id = desk.add();
    let blank = desk.registry().blank(id).expect("written");
    assert_eq!(desk.registry().blank(id).expect("it is there already"), blank);
    let (of, like) = (desk.registry().directory(id), blank);
    let read = |dir: &Path, name| std::fs::read(dir.join(name)).expect("there");
    assert_eq!(read(&of, CONFIG), read(&like, CONFIG));
    let (weights, zeros) = (read(&of, WEIGHTS), read(&like, WEIGHTS));
    let data = weights.len() - 8;
    assert_eq!((weights.len(), &weights[..data]), (zeros.len(), &zeros[..data]));
    assert_eq!(zeros[data..], [0; 8]);
    assert_eq!(desk.registry().list().expect("readable").entries.len(), 1, "it is no adapter of its own");
}

/// Lets the process die before every single step of `act`. After each death the registry must be readable, and `holds`
/// says what else must be true then, knowing whether `act` came to its end.
fn dies_anywhere<T: std::fmt::Debug>(
    prepare: impl Fn(&Desk) -> Vec<AdapterId>,
    act: impl Fn(&Desk, &[AdapterId]) -> Result<T, AdapterError>,
    holds: impl Fn(&Desk, &[AdapterId], bool),
) {
    for steps in 0.. {
        let desk = Desk::new();
        let ids = prepare(&desk);
        let done = crash::dies_after(steps, || act(&desk, &ids));
        let listing = desk.registry().list().expect("readable after a death");
        assert!(listing.broken.is_empty(), "after {steps} steps: {:?}", listing.broken);
        holds(&desk, &ids, done.is_some());
        if let Some(done) = done {
            done.expect("alive, it works");
            assert!(steps > 3, "only {steps} steps: deaths were not tried");
            return;
        }
        // The next process goes on as if nothing had been.
        act(&desk, &ids).unwrap_or_else(|e| panic!("after {steps} steps: {e}"));
        holds(&desk, &ids, true);
        assert!(names(&desk.root()).iter().all(|name| !name.starts_with(".new-")), "leftovers after {steps}");
    }
}

#[test]
fn a_process_that_dies_while_adding_leaves_a_whole_adapter_or_none() {
    dies_anywhere(
        |desk| vec![desk.add()],
        |desk, _| desk.registry().add(desk.candidate("desk")),
        |desk, ids, done| {
            let listed = desk.registry().list().expect("readable").entries;
            assert!(listed.len() >= ids.len() + usize::from(done));
            for entry in listed {
                assert_eq!(names(&entry.directory), [CONFIG, WEIGHTS, "lineage.json"]);
            }
        },
    );
}

#[test]
fn a_process_that_dies_while_promoting_leaves_the_alias_where_it_was_or_where_it_goes() {
    dies_anywhere(
        |desk| {
            let ids = vec![desk.add(), desk.add()];
            desk.registry().promote(ids[0], "desk", "").expect("promoted");
            ids
        },
        |desk, ids| desk.registry().promote(ids[1], "desk", ""),
        |desk, ids, done| {
            let now = desk.current("desk").expect("it points at an adapter");
            assert!(if done { now == ids[1] } else { ids.contains(&now) });
            let former = if now == ids[0] { ids[1] } else { ids[0] };
            assert_eq!(desk.state(now), AdapterState::Active);
            assert_ne!(desk.state(former), AdapterState::Active);
        },
    );
}

#[test]
fn a_process_that_dies_while_rolling_back_goes_back_once() {
    dies_anywhere(
        |desk| {
            let ids = vec![desk.add(), desk.add(), desk.add()];
            for id in &ids {
                desk.registry().promote(*id, "desk", "").expect("promoted");
            }
            ids
        },
        |desk, ids| match desk.current("desk") {
            // A person who sees that it is done does not do it again.
            Some(now) if now == ids[2] => desk.registry().rollback("desk", "").map(drop),
            _ => Ok(()),
        },
        |desk, ids, done| {
            let now = desk.current("desk").expect("it points at an adapter");
            assert!(now == ids[1] || !done && now == ids[2]);
        },
    );
}

#[test]
fn a_process_that_dies_while_deciding_leaves_the_decision_or_none() {
    dies_anywhere(
        |desk| vec![desk.add()],
        |desk, ids| desk.registry().record_decision(ids[0], AdapterState::Rejected, "no better", None),
        |desk, ids, done| {
            let state = desk.state(ids[0]);
            assert!(state == AdapterState::Rejected || !done && state == AdapterState::Candidate, "{state}");
        },
    );
}
