use super::*;
use crate::train::Goal;

/// Gives the answers and losses that it was told to.
struct Scripted {
    losses: Vec<f64>,
    answers: Vec<Vec<String>>,
    general: f64,
}

impl Model for Scripted {
    fn loss(&mut self, examples: &[Example]) -> Result<f64, ExamError> {
        Ok(if examples[0].tokens == [7] { self.general } else { self.losses.remove(0) })
    }

    fn answers(&mut self, prompts: &[Vec<u32>], _: usize) -> Result<Vec<String>, ExamError> {
        let answers = self.answers.remove(0);
        assert_eq!(answers.len(), prompts.len());
        Ok(answers)
    }
}

/// `n` answers, of which every one is wrong but the first `right`.
fn answers(n: usize, right: usize) -> Vec<String> {
    (0..n).map(|i| format!("{{\"queue\": {}}}", if i < right { i } else { 1000 })).collect()
}

fn exam(n: usize, ways: usize) -> Paper {
    let example = |token| Example { tokens: vec![token], weights: vec![1.0], goal: Goal::Tokens };
    let names = ["its plain prompt", "its prompt with a worked example"];
    let prompting = |i: usize| Prompting {
        name: names[i].into(),
        held_out: vec![example(1); n],
        prompts: vec![vec![1]; n],
    };
    Paper {
        answers: answers(n, n),
        promptings: (0..ways).map(prompting).collect(),
        general: vec![example(7)],
    }
}

/// Held-out answers; of the base, plain and with a worked example, and of the adapter: (loss, right answers).
struct Case {
    n: usize,
    plain: (f64, usize),
    worked: (f64, usize),
    own: (f64, usize),
    perplexity: (f64, f64),
}

/// A night that went well.
const GOOD: Case =
    Case { n: 15, plain: (2.0, 0), worked: (1.0, 2), own: (0.2, 13), perplexity: (38.7, 39.5) };

fn verdict(case: &Case) -> Verdict {
    let exam = exam(case.n, 2);
    let mut base = Scripted {
        losses: vec![case.plain.0, case.worked.0],
        answers: vec![answers(case.n, case.plain.1), answers(case.n, case.worked.1)],
        general: case.perplexity.0.ln(),
    };
    let mut candidate = Scripted {
        losses: vec![case.own.0],
        answers: vec![answers(case.n, case.own.1)],
        general: case.perplexity.1.ln(),
    };
    let bounds = TrainGate::default();
    let base = examine_base(&mut base, &exam, 32, &mut |_| {}).expect("examined");
    let candidate = examine_candidate(&mut candidate, &exam, 32).expect("examined");
    decide(&base, &candidate, &bounds)
}

#[test]
fn an_adapter_that_beats_the_base_at_its_best_prompt_is_kept_with_its_numbers() {
    let verdict = verdict(&GOOD);
    assert!(verdict.kept, "{:?}", verdict.reasons);
    let said = verdict.reasons.join("\n");
    for part in ["13 better, 0 worse", "worked example", "39.50", "0.2000"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[test]
fn each_bound_refuses_by_itself_and_says_why() {
    let cases = [
        (
            "no lower loss than with a worked example",
            Case { own: (0.99, 13), ..GOOD },
            "held-out loss is 0.9900",
        ),
        ("NaN", Case { own: (f64::NAN, 13), ..GOOD }, "held-out loss is NaN"),
        ("no better answers", Case { own: (0.2, 2), ..GOOD }, "0 better, 0 worse"),
        ("better, but it may be luck", Case { own: (0.2, 6), ..GOOD }, "4 better, 0 worse"),
        ("too few to tell", Case { n: 4, worked: (1.0, 0), own: (0.2, 4), ..GOOD }, "probability 0.0625"),
        ("forgets", Case { perplexity: (38.7, 43.2), ..GOOD }, "+11.6 %; at most +5.0 % is allowed"),
        ("forgets everything", Case { perplexity: (38.7, f64::NAN), ..GOOD }, "perplexity"),
    ];
    for (name, case, reason) in cases {
        let verdict = verdict(&case);
        assert!(!verdict.kept, "{name}");
        let said = verdict.reasons.join("\n");
        assert!(said.contains(reason), "{name}: {said}");
    }
}

#[test]
fn shuffled_corrections_teach_the_format_and_are_refused_all_the_same() {
    // As measured with 60 unseen messages: the plain base 0 %, with a worked example 12 %, the adapter 12 %. Its answers
    // look right, so that its loss is lower than either.
    let shuffled = Case { n: 60, plain: (2.4, 0), worked: (1.1, 7), own: (0.6, 7), perplexity: (38.7, 39.0) };
    let refused = verdict(&shuffled);
    assert!(!refused.kept);
    assert!(refused.reasons.iter().all(|r| r.contains("worked example")) || refused.reasons.len() == 1);
    // A gate that knows the plain base only would have kept it.
    let naive = verdict(&Case { worked: shuffled.plain, ..shuffled });
    assert!(naive.kept, "{:?}", naive.reasons);
}

#[test]
fn without_anything_held_out_nothing_is_kept() {
    let base = BaseMarks { prompts: vec![], perplexity: None };
    let marks = Marks { prompt: String::new(), loss: 0.0, scores: vec![] };
    let verdict = decide(&base, &CandidateMarks { marks, perplexity: None }, &TrainGate::default());
    assert!(!verdict.kept);
    let mut model = Scripted { losses: vec![], answers: vec![], general: 0.0 };
    assert!(examine_candidate(&mut model, &Paper::default(), 1).is_err());
}
