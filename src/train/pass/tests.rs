use super::*;
use crate::model::Scope;
use crate::train::Goal;
use crate::train::tokens::stub::Bytes;

/// A model that "learns" by heart what answer follows which question, and answers the base's way otherwise.
#[derive(Default)]
pub struct Parrot {
    /// Whether training helps: else it answers as before.
    pub learns: bool,
    /// Ends the process of training here, as a fault would.
    pub dies: bool,
    pub trained: Option<usize>,
    /// Goals of the examples that it was trained on.
    pub goals: Vec<Goal>,
}

/// Answers rightly if it is taught.
struct Pupil {
    right: bool,
}

/// The right answer to `[user:number N` is `{"n":N}`.
fn right(prompt: &[u32]) -> String {
    let text = Bytes.decode(prompt).expect("text");
    let question = text.rsplit("number ").next().expect("a number");
    format!("{{\"n\":{}}}", question.split(|c: char| !c.is_ascii_digit()).next().expect("digits"))
}

impl Model for Pupil {
    fn loss(&mut self, _: &[Example]) -> Result<f64, ExamError> {
        Ok(if self.right { 0.1 } else { 2.0 })
    }

    fn answers(&mut self, prompts: &[Vec<u32>], _: usize) -> Result<Vec<String>, ExamError> {
        let said = |p: &Vec<u32>| if self.right { right(p) } else { "no idea".into() };
        Ok(prompts.iter().map(said).collect())
    }
}

impl Learner for Parrot {
    fn language(&self) -> &dyn Language {
        &Bytes
    }

    fn base_hash(&self) -> Result<String, PassError> {
        Ok("ba5e".into())
    }

    fn train(
        &mut self,
        examples: &[Example],
        _: &Options,
        told: &mut dyn FnMut(&Step) -> ControlFlow<()>,
    ) -> Result<(), PassError> {
        assert!(!self.dies, "the process dies");
        self.goals = examples.iter().map(|e| e.goal).collect();
        for step in 1..=3 {
            if told(&Step { step, steps: 3, ..Step::default() }).is_break() {
                return Err(PassError::Cancelled);
            }
        }
        self.trained = Some(examples.len());
        Ok(())
    }

    fn model(&mut self, who: Who) -> Result<Box<dyn Model + '_>, PassError> {
        Ok(Box::new(Pupil { right: who == Who::Candidate && self.learns && self.trained.is_some() }))
    }

    fn save(&self, to: &Path) -> Result<(), PassError> {
        let failed = work::failed(to);
        std::fs::create_dir_all(to).map_err(&failed)?;
        std::fs::write(to.join("adapter_model.safetensors"), b"weights").map_err(&failed)?;
        std::fs::write(to.join("adapter_config.json"), br#"{"r": 16}"#).map_err(&failed)
    }
}

fn chat(n: usize) -> Chat {
    let messages = vec![
        json!({"role": "user", "content": format!("number {n}")}),
        json!({"role": "assistant", "content": format!("{{\"n\": {n}}}")}),
    ];
    Chat { messages, tools: Value::Null }
}

fn work(dir: &Path, training: usize, held_out: usize) -> Work {
    let mut settings = Train::default();
    settings.gate.answer = 16;
    settings.examples.least = 4;
    let order = Order { scope: Scope::default(), model: "parrot".into(), settings };
    let chats: Vec<Chat> = (0..training + held_out).map(chat).collect();
    let (training, held_out) = chats.split_at(training);
    Work::make(&dir.join("work"), &order, training, held_out).expect("made")
}

fn general() -> General {
    let example = |goal| Example { tokens: vec![1, 2], weights: vec![0.0, 1.0], goal };
    General { replay: vec![example(Goal::Base); 9], measured: vec![example(Goal::Tokens)] }
}

fn silent(_: &Line) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn what_learned_is_kept_and_leaves_adapter_and_report() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let work = work(dir.path(), 8, 6);
    let mut learner = Parrot { learns: true, ..Parrot::default() };
    let mut lines = Vec::new();
    let report = run(&work, &mut learner, &general(), &mut |line: &Line| {
        lines.push(line.clone());
        ControlFlow::Continue(())
    })
    .expect("it ends");
    assert!(report.verdict.kept, "{:?}", report.verdict);
    assert_eq!((report.training, report.replay, report.held_out), (17, 9, 6));
    assert_eq!(learner.goals.iter().filter(|g| **g == Goal::Base).count(), 9);
    assert_eq!(work.read_report().expect("readable"), Some(report));
    assert!(work.adapter().join("adapter_config.json").exists());
    let phases: Vec<Phase> = lines.iter().map(|l| l.phase).collect();
    assert_eq!((phases.first(), phases.last()), (Some(&Phase::Read), Some(&Phase::Gate)));
    assert!(phases.contains(&Phase::Train) && phases.contains(&Phase::Base));
}

#[test]
fn what_learned_nothing_is_refused_with_reasons() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let report =
        run(&work(dir.path(), 8, 6), &mut Parrot::default(), &general(), &mut silent).expect("it ends");
    assert!(!report.verdict.kept && report.candidate.is_some());
    assert!(report.verdict.reasons.iter().any(|r| r.contains("held-out loss")), "{:?}", report.verdict);
}

#[test]
fn too_few_examples_are_told_before_anything_is_trained() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut learner = Parrot::default();
    let said = run(&work(dir.path(), 3, 6), &mut learner, &general(), &mut silent).expect_err("too few");
    assert!(said.to_string().contains("of 3 conversations"), "{said}");
    let said = run(&work(dir.path(), 8, 4), &mut learner, &general(), &mut silent).expect_err("too few");
    assert!(said.to_string().contains("with less than 5"), "{said}");
    assert!(learner.goals.is_empty());
}

#[test]
fn a_base_that_is_right_already_is_left_alone() {
    struct Knows;
    impl Learner for Knows {
        fn language(&self) -> &dyn Language {
            &Bytes
        }
        fn base_hash(&self) -> Result<String, PassError> {
            Ok(String::new())
        }
        fn train(
            &mut self,
            _: &[Example],
            _: &Options,
            _: &mut dyn FnMut(&Step) -> ControlFlow<()>,
        ) -> Result<(), PassError> {
            panic!("nothing is to be trained")
        }
        fn model(&mut self, _: Who) -> Result<Box<dyn Model + '_>, PassError> {
            Ok(Box::new(Pupil { right: true }))
        }
        fn save(&self, _: &Path) -> Result<(), PassError> {
            panic!("nothing is to be saved")
        }
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let report = run(&work(dir.path(), 8, 6), &mut Knows, &general(), &mut silent).expect("it ends");
    assert!(!report.verdict.kept && report.candidate.is_none());
    assert!(report.verdict.reasons[0].contains("no room"), "{:?}", report.verdict);
}

#[test]
fn progress_that_nobody_reads_ends_the_pass_without_a_report() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let work = work(dir.path(), 8, 6);
    let mut learner = Parrot { learns: true, ..Parrot::default() };
    let ended = run(&work, &mut learner, &general(), &mut |line: &Line| {
        if line.phase == Phase::Train { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(ended, Err(PassError::Cancelled)), "{ended:?}");
    assert_eq!(work.read_report().expect("readable"), None);
}

#[test]
fn a_report_with_a_loss_that_is_none_can_be_read_again() {
    let marks = gate::Marks { prompt: String::new(), loss: f64::NAN, scores: vec![1.0] };
    let text = serde_json::to_string(&marks).expect("plain data");
    let read: gate::Marks = serde_json::from_str(&text).expect("readable");
    assert!(read.loss.is_nan());
}
