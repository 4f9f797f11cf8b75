use super::world::*;
use crate::config::Review;
use crate::model::{LessonState, Micros, Scope};
use crate::skills::{Repo, SkillsError, accept, reject};

const WHEN: Micros = Micros(DAY_ONE.0 + 3_600_000_000 * 50);
const SKILL: &str = "default/skills/cancel-order/SKILL.md";

fn proposing() -> World {
    let mut world = World::new();
    world.config.review = Review::Propose;
    day(&mut world, 0, 6);
    world
}

fn repo(world: &World) -> Repo {
    Repo::open(&world.learned()).expect("a repository")
}

fn states(world: &World) -> Vec<LessonState> {
    world.store.lessons(&Scope::default()).expect("lessons").iter().map(|l| l.state).collect()
}

#[test]
fn an_accepted_proposal_is_files_a_merge_and_active_lessons() {
    let world = proposing();
    let night = world.night(24);
    let repo = repo(&world);
    let open = repo.proposals().expect("proposals");
    assert_eq!((open.len(), open[0].entry.night), (1, Some(night.id)));
    let given = night.id.to_string();
    let done = accept(&world.store, &repo, "default", &given, WHEN).expect("accepted");
    assert_eq!((done.branch, done.activated), (format!("proposals/{}", night.id), 2));
    assert!(world.file(SKILL).contains("## Rules\n\n- Before calling `cancel_order`, call `get_order`;"));
    assert_eq!(states(&world), [LessonState::Active; 2]);
    assert_eq!(repo.proposals().expect("proposals"), []);
    let log = repo.log(9).expect("log");
    assert_eq!(done.commit.as_ref(), Some(&log[0].id));
    assert!(log[0].summary.starts_with("Accept: Night of "), "{}", log[0].summary);
    // And back again.
    repo.revert(&log[0].id, WHEN).expect("reverted");
    assert!(world.files().is_empty());
}

#[test]
fn what_was_accepted_stays_active_and_only_news_is_proposed() {
    let mut world = proposing();
    let first = world.night(24);
    accept(&world.store, &repo(&world), "default", &first.id.to_string(), WHEN).expect("accepted");
    day(&mut world, 20, 6);
    let second = world.night(72);
    assert_eq!(states(&world), [LessonState::Active; 2]);
    let repo = repo(&world);
    let patch = repo.show(second.commit.as_ref().expect("more evidence")).expect("a patch");
    assert!(patch.contains("-- Before calling") && patch.contains("+- Before calling"), "{patch}");
    accept(&world.store, &repo, "default", &second.id.to_string()[..12], WHEN).expect("accepted");
    assert!(world.file("default/DREAMS.md").contains(&second.id.to_string()));
}

#[test]
fn a_rejected_proposal_does_not_come_back() {
    let mut world = proposing();
    let night = world.night(24);
    let (branch, dropped) =
        reject(&world.store, &repo(&world), &format!("proposals/{}", night.id), WHEN).expect("rejected");
    assert_eq!((branch, dropped), (format!("proposals/{}", night.id), 2));
    assert_eq!(states(&world), [LessonState::Retired; 2]);
    day(&mut world, 20, 3);
    world.night(72);
    assert_eq!(states(&world), [LessonState::Retired; 2]);
    assert!(world.files().is_empty());
}

#[test]
fn a_proposal_that_conflicts_changes_nothing() {
    let mut world = proposing();
    let first = world.night(24);
    day(&mut world, 20, 6);
    let second = world.night(72);
    accept(&world.store, &repo(&world), "default", &first.id.to_string(), WHEN).expect("accepted");
    let (files, before) = (world.files(), states(&world));
    let refused = accept(&world.store, &repo(&world), "default", &second.id.to_string(), WHEN);
    let Err(error @ SkillsError::ProposalConflict { .. }) = refused else { panic!("{refused:?}") };
    let said = error.to_string();
    assert!(
        said.contains("SKILL.md") && said.contains("nothing was merged") && !said.contains('\n'),
        "{said}"
    );
    assert_eq!((world.files(), states(&world)), (files, before));
    assert_eq!(repo(&world).proposals().expect("proposals").len(), 1);
}

#[test]
fn what_the_owner_took_out_before_accepting_stays_out() {
    let mut world = proposing();
    let first = world.night(24);
    accept(&world.store, &repo(&world), "default", &first.id.to_string(), WHEN).expect("accepted");
    let text = world.file(SKILL);
    let kept: String =
        text.lines().filter(|l| !l.starts_with("- Before")).map(|l| format!("{l}\n")).collect();
    std::fs::write(world.learned().join(SKILL), kept).expect("write");
    for i in 0..9 {
        let mut run = searched(300 + i);
        run.failed = i % 2 == 0;
        run.correction = run.failed.then(|| "Ask for the size first.".to_owned());
        world.add(&run);
    }
    let second = world.night(72);
    let _ = accept(&world.store, &repo(&world), "default", &second.id.to_string(), WHEN);
    assert!(!world.file(SKILL).contains("- Before calling"), "{}", world.file(SKILL));
    day(&mut world, 40, 4);
    world.config.review = Review::Auto;
    world.night(96);
    assert!(!world.file(SKILL).contains("- Before calling"), "{}", world.file(SKILL));
}

#[test]
fn an_unknown_proposal_is_named() {
    let world = proposing();
    world.night(24);
    let error = reject(&world.store, &repo(&world), "ni_0000", WHEN).expect_err("there is none");
    assert!(matches!(error, SkillsError::NoProposal { .. }), "{error}");
    assert_eq!(repo(&world).proposals().expect("proposals").len(), 1);
}
