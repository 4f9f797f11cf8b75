use std::cell::RefCell;
use std::ops::ControlFlow;

use super::*;
use crate::config::{Adapters, Config, TrainExamples};
use crate::model::{Label, TrajectoryId};
use crate::store::DataDir;
use crate::train::pass::tests::Parrot;
use crate::train::pass::{General, run};
use crate::train::select::tests::World;
use crate::upstream::Setup;

fn settings() -> Train {
    let mut settings =
        Train { examples: TrainExamples { least: 8, ..TrainExamples::default() }, ..Train::default() };
    settings.gate.answer = 32;
    settings
}

/// `n` questions of which every answer was corrected.
fn corrected(world: &mut World, numbers: std::ops::Range<usize>) -> Vec<TrajectoryId> {
    let correct = |n: usize| {
        let id = world.ask(&format!("number {n}"), "no idea");
        world.feedback(&id, Some(Label::Failure), Some(&format!("{{\"n\": {n}}}")))
    };
    numbers.map(correct).collect()
}

/// A child process that is a shell script.
fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

/// Trains in this process when the child should be started, and starts a child that finds all done.
fn in_process(learner: &RefCell<Parrot>) -> impl Fn(&Work) -> Command + '_ {
    move |work| {
        let told = &mut |_: &Line| ControlFlow::Continue(());
        run(work, &mut *learner.borrow_mut(), &General::default(), told).expect("the pass ends");
        shell("echo no progress; echo '{\"phase\":\"train\",\"done\":1,\"total\":2}'")
    }
}

fn night(world: &World, settings: &Train, start: &dyn Fn(&Work) -> Command) -> Run {
    crate::outcome::assess(&world.store, Micros::now()).expect("assessed");
    let means = Means { store: &world.store, settings, model: "parrot", again: false, start };
    let night = Night::begin(means).expect("nobody else trains");
    night.train(&Scope::default(), &mut |_| {}).expect("it ends")
}

fn is_clean(dir: &DataDir) -> bool {
    !dir.training().join("work").exists()
}

#[tokio::test]
async fn corrections_become_an_adapter_behind_the_alias_of_their_scope() {
    let mut world = World::new();
    let given = corrected(&mut world, 0..40);
    let learner = RefCell::new(Parrot { learns: true, ..Parrot::default() });
    crate::outcome::assess(&world.store, Micros::now()).expect("assessed");
    let (settings, start) = (settings(), in_process(&learner));
    let means =
        Means { store: &world.store, settings: &settings, model: "parrot", again: false, start: &start };
    let mut lines = Vec::new();
    let night = Night::begin(means).expect("nobody else trains");
    let run = night.train(&Scope::default(), &mut |line| lines.push(line.clone())).expect("it ends");

    assert_eq!(run.outcome, Ended::Kept, "{:?}", run.reasons);
    assert_eq!(lines.len(), 1, "what is no progress is passed over");
    assert_eq!(run.selected.training + run.selected.held_out, 40);
    assert_eq!(run.selected.corrections, run.selected.training);
    let dir = world.store.dir();
    assert!(is_clean(dir));
    let registry = Registry::open(dir);
    let entry = registry.get(run.adapter.expect("an adapter")).expect("it is registered");
    assert_eq!(entry.state, AdapterState::Candidate);
    let lineage = &entry.lineage;
    assert_eq!((lineage.base.hash.as_str(), lineage.base.model.as_str()), ("ba5e", "parrot"));
    assert_eq!(lineage.trajectories.len() as u64, run.selected.training);
    assert!(lineage.trajectories.iter().all(|id| given.contains(id)));
    assert_eq!(lineage.scores.task, Some(BeforeAfter { before: 0.0, after: 1.0 }));
    assert_eq!(lineage.options["lora"]["rank"], 16);

    // A server that is not there: the alias stays where it is.
    let target = serde_json::from_value(json!({"kind": "serve", "url": "http://127.0.0.1:1"}));
    let adapters = Adapters { targets: vec![target.expect("a target")], ..Adapters::default() };
    let away = Config { adapters, ..Config::default() };
    let refused = release(&run, dir, &away, &Setup::default()).await.expect("it was kept");
    assert!(refused.done.is_err() && registry.aliases().expect("readable").is_empty());

    let released = release(&run, dir, &Config::default(), &Setup::default()).await.expect("it was kept");
    assert_eq!(released.done.expect("promoted").moved.to, run.adapter);
    assert_eq!(registry.find("default-default").expect("an alias"), released.adapter);
    drop(night);
    assert_eq!(runs(dir).expect("readable"), [run]);
}

#[tokio::test]
async fn an_adapter_that_learned_nothing_is_registered_as_refused_and_released_nowhere() {
    let mut world = World::new();
    corrected(&mut world, 0..40);
    let learner = RefCell::new(Parrot::default());
    let run = night(&world, &settings(), &in_process(&learner));
    assert_eq!(run.outcome, Ended::Refused);
    let registry = Registry::open(world.store.dir());
    let entry = registry.get(run.adapter.expect("registered")).expect("readable");
    assert_eq!(entry.state, AdapterState::Rejected);
    assert!(entry.reason.contains("held-out loss"), "{}", entry.reason);
    let released = release(&run, world.store.dir(), &Config::default(), &Setup::default()).await;
    assert!(released.is_none());
    assert!(registry.aliases().expect("readable").is_empty());
}

#[test]
fn lineage_names_what_was_learned_and_nothing_else() {
    let night_of = |tokens: Option<usize>| {
        let mut world = World::new();
        corrected(&mut world, 0..40);
        let mut settings = settings();
        if let Some(tokens) = tokens {
            settings.examples.tokens = tokens;
        }
        let learner = RefCell::new(Parrot { learns: true, ..Parrot::default() });
        let run = night(&world, &settings, &in_process(&learner));
        let entry =
            Registry::open(world.store.dir()).get(run.adapter.expect("an adapter")).expect("readable");
        (run.pass.expect("a report"), run.selected.training, entry.lineage)
    };
    let (all, selected, lineage) = night_of(None);
    assert_eq!(lineage.trajectories.len() as u64, selected);
    let (some, selected, lineage) = night_of(Some(all.tokens as usize * 3 / 4));
    let learned = some.training - some.replay;
    assert!(learned < selected && learned > selected / 2, "{learned} of {selected}");
    assert_eq!(lineage.trajectories.len() as u64, learned);
    assert_eq!(lineage.examples.corrections, learned);
    assert_eq!(some.learned.len() as u64, learned);
    assert_eq!(some.learned.last().map(|place| *place as u64), Some(selected - 1), "the newest come first");
}

#[test]
fn a_killed_child_costs_its_night_and_the_next_is_fine() {
    let mut world = World::new();
    corrected(&mut world, 0..40);
    let killed = night(&world, &settings(), &|_: &Work| shell("kill -9 $$"));
    assert_eq!(killed.outcome, Ended::Failed);
    assert!(killed.reasons[0].contains("signal: 9"), "{:?}", killed.reasons);
    let refused = |work: &Work| {
        work.fail("the disk is full");
        shell("exit 1")
    };
    assert_eq!(night(&world, &settings(), &refused).reasons, ["the disk is full"]);
    let gone = night(&world, &settings(), &|_: &Work| Command::new("/nowhere/at/all"));
    assert!(gone.reasons[0].contains("could not be started"), "{:?}", gone.reasons);
    assert!(is_clean(world.store.dir()));
    // A night that was killed itself leaves its directory.
    let left = world.store.dir().training().join("work");
    std::fs::create_dir_all(left.join("1/adapter")).expect("made");
    std::fs::write(left.join("1/report.json"), "{}").expect("written");
    let learner = RefCell::new(Parrot { learns: true, ..Parrot::default() });
    let run = night(&world, &settings(), &in_process(&learner));
    assert_eq!(run.outcome, Ended::Kept, "{:?}", run.reasons);
    assert!(is_clean(world.store.dir()));
    assert_eq!(runs(world.store.dir()).expect("readable").len(), 4);
}

#[tokio::test]
async fn without_anything_new_nothing_is_trained() {
    let mut world = World::new();
    corrected(&mut world, 0..40);
    let learner = RefCell::new(Parrot { learns: true, ..Parrot::default() });
    assert_eq!(night(&world, &settings(), &in_process(&learner)).outcome, Ended::Kept);
    let never = |_: &Work| -> Command { panic!("nothing is to be trained") };
    // It could not be put to use: the next night tries again, until it is.
    let run = night(&world, &settings(), &never);
    assert_eq!(run.outcome, Ended::NothingNew);
    let released = release(&run, world.store.dir(), &Config::default(), &Setup::default()).await;
    assert_eq!(released.expect("it was left over").done.expect("promoted").moved.to, run.adapter);
    let run = night(&world, &settings(), &never);
    assert_eq!((run.outcome, run.adapter), (Ended::NothingNew, None));
    let other = Train { lora: crate::config::TrainLora { rank: 8, ..settings().lora }, ..settings() };
    assert_eq!(night(&world, &other, &in_process(&learner)).outcome, Ended::Kept);
    corrected(&mut world, 40..41);
    assert_eq!(night(&world, &other, &in_process(&learner)).outcome, Ended::Kept);
}

#[test]
fn too_few_corrections_wait_for_a_later_night() {
    let mut world = World::new();
    corrected(&mut world, 0..6);
    let never = |_: &Work| -> Command { panic!("nothing is to be trained") };
    let run = night(&world, &settings(), &never);
    assert_eq!(run.outcome, Ended::TooFew);
    assert!(run.reasons[0].contains("8 are wanted"), "{:?}", run.reasons);
    corrected(&mut world, 6..12);
    let run = night(&world, &settings(), &never);
    assert!(run.reasons[0].contains("held out"), "{:?}", run.reasons);
}

#[test]
fn two_nights_do_not_train_at_once() {
    let world = World::new();
    let (settings, start) = (settings(), |_: &Work| shell("true"));
    let means =
        || Means { store: &world.store, settings: &settings, model: "parrot", again: false, start: &start };
    let first = Night::begin(means()).expect("nobody else trains");
    assert!(matches!(Night::begin(means()), Err(NightError::Running { .. })));
    drop(first);
    drop(Night::begin(means()).expect("its turn"));
}
