use std::sync::atomic::Ordering;
use std::sync::mpsc;

use serde_json::json;

use super::worker::CHUNK;
use super::*;
use crate::onnx::lora::Lora;
use crate::serve::engine::EngineError;
use crate::serve::grammar::Grammars;
use crate::serve::sampling::Sampling;
use crate::serve::scripted::{self, END, Rule, Scripted, ScriptedText, VOCABULARY, Work, chatter, reciting};
use crate::tasks::Tasks;

/// A scheduler whose worker runs.
struct Running {
    scheduler: Scheduler,
    work: Arc<Work>,
    tasks: Tasks,
}

fn run(engine: Scripted, longest: usize) -> Running {
    let work = engine.work();
    let (scheduler, worker) = build(Box::new(engine), Arc::new(ScriptedText), longest);
    let tasks = Tasks::new();
    tasks.thread("engine", move || worker.run()).unwrap();
    Running { scheduler, work, tasks }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.scheduler.abandon();
    }
}

fn encoded(text: &str) -> Vec<u32> {
    ScriptedText.encode(text).unwrap()
}

fn order(prompt: &str, limit: usize) -> Order {
    Order {
        prompts: vec![encoded(prompt)],
        choices: 1,
        limit,
        adapter: None,
        sampling: Sampling {
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            bias: Arc::from([]),
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logprobs: None,
        },
        stops: vec![],
        stop_tokens: vec![END],
        grammar: None,
    }
}

/// An answer's text, with how it ended.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    text: String,
    finish: Option<Finish>,
    tokens: usize,
    cached: usize,
}

async fn all(mut answer: Answer, answers: usize) -> Result<Vec<Said>, Failure> {
    let mut said = vec![Said::default(); answers];
    while let Some(event) = answer.next().await {
        match event {
            Event::Said { choice, text, .. } => said[choice].text += &text,
            Event::Ended { choice, finish, tokens, cached } => {
                said[choice] = Said { finish: Some(finish), tokens, cached, ..said[choice].clone() };
            }
            Event::Failed(failure) => return Err(failure),
        }
    }
    assert!(said.iter().all(|said| said.finish.is_some()), "each answer ended");
    Ok(said)
}

async fn said(running: &Running, order: Order) -> Result<Said, Failure> {
    let answer = running.scheduler.submit(order).expect("there is room");
    Ok(all(answer, 1).await?.remove(0))
}

/// A rule that waits at its first call until it is let go.
fn held(mut rule: Rule) -> (Rule, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel();
    let mut held = true;
    let rule: Rule = Box::new(move |tokens, adapter| {
        if std::mem::take(&mut held) {
            let _ = wait.recv();
        }
        rule(tokens, adapter)
    });
    (rule, go)
}

#[tokio::test]
async fn eight_requests_with_four_adapters_say_what_each_says_alone() {
    let adapters: Vec<Arc<Lora>> = (1..=3).map(|n| Arc::new(scripted::adapter(n))).collect();
    let orders = || {
        (0..8).map(|at| {
            let mut order = order(&format!("<|user|>request {at}<|end|><|assistant|>"), 24 + at);
            order.adapter = (at % 4).checked_sub(1).map(|a| adapters[a].clone());
            order.sampling.temperature = if at < 4 { 0.0 } else { 1.0 };
            order.sampling.seed = at as u64;
            order
        })
    };
    let mut alone = Vec::new();
    for order in orders() {
        alone.push(said(&run(Scripted::new(1, 256, chatter()), 8), order).await.unwrap().text);
    }
    assert_eq!(alone.iter().collect::<std::collections::BTreeSet<_>>().len(), 8, "all differ");
    for (slots, copies) in [(8, false), (8, true), (3, false), (2, true)] {
        let (rule, go) = held(chatter());
        let engine = Scripted::new(slots, 256, rule);
        let running = run(if copies { engine.copying() } else { engine }, 8);
        let answers: Vec<Answer> = orders().map(|order| running.scheduler.submit(order).unwrap()).collect();
        go.send(()).unwrap();
        for (answer, alone) in answers.into_iter().zip(&alone) {
            assert_eq!(&all(answer, 1).await.unwrap()[0].text, alone);
        }
        assert_eq!(running.work.widest.load(Ordering::Relaxed), slots, "one step serves them all");
    }
}

#[tokio::test]
async fn orders_begin_in_the_order_in_which_they_came() {
    let begun = Arc::new(Mutex::new(Vec::new()));
    let log = begun.clone();
    let mut inner = reciting("ok");
    let (rule, go) = held(Box::new(move |tokens, adapter| {
        if tokens.last() == Some(&(END + 3)) {
            log.lock().unwrap().push(tokens[0]);
        }
        inner(tokens, adapter)
    }));
    let running = run(Scripted::new(2, 64, rule), 16);
    let answers: Vec<Answer> = (b'a'..=b'h')
        .map(|name| running.scheduler.submit(order(&format!("{}<|assistant|>", name as char), 8)).unwrap())
        .collect();
    go.send(()).unwrap();
    for answer in answers {
        assert_eq!(all(answer, 1).await.unwrap()[0].text, "ok");
    }
    assert_eq!(*begun.lock().unwrap(), (b'a'..=b'h').map(u32::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_long_prompt_does_not_hold_up_an_answer_that_runs() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = calls.clone();
    let mut inner = chatter();
    let (rule, go) = held(Box::new(move |tokens, adapter| {
        log.lock().unwrap().push((tokens[0], tokens.len()));
        inner(tokens, adapter)
    }));
    let running = run(Scripted::new(2, 4096, rule), 4);
    let short = running.scheduler.submit(order("s", 40)).unwrap();
    let long = running.scheduler.submit(order(&"l".repeat(CHUNK * 5 + 3), 3)).unwrap();
    go.send(()).unwrap();
    all(short, 1).await.unwrap();
    all(long, 1).await.unwrap();
    assert_eq!(running.work.longest.load(Ordering::Relaxed), CHUNK);
    let calls = calls.lock().unwrap();
    let chunks: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].0 == u32::from(b'l')).take(6).collect();
    assert_eq!(chunks.iter().map(|at| calls[*at].1).last(), Some(CHUNK * 5 + 3), "{calls:?}");
    for pair in chunks.windows(2) {
        assert_eq!(pair[1] - pair[0], 2, "a token of the short one between two chunks: {calls:?}");
    }
}

#[tokio::test]
async fn a_prompt_that_begins_like_an_earlier_one_is_read_from_there() {
    let system = "<|system|>You are a desk that answers politely and briefly.<|end|>";
    let first = order(&format!("{system}<|user|>one<|end|><|assistant|>"), 4);
    let second = || order(&format!("{system}<|user|>two<|end|><|assistant|>"), 12);
    let alone = said(&run(Scripted::new(1, 512, chatter()), 1), second()).await.unwrap();

    let running = run(Scripted::new(1, 512, chatter()), 1);
    assert_eq!(said(&running, first).await.unwrap().cached, 0);
    let before = running.work.read.load(Ordering::Relaxed);
    let again = said(&running, second()).await.unwrap();
    let shared = encoded(system).len() + 1;
    assert_eq!(again.cached, shared);
    assert_eq!(running.work.read.load(Ordering::Relaxed) - before, second().prompts[0].len() - shared);
    assert_eq!(again.text, alone.text, "and says the same");

    let mut other = second();
    other.adapter = Some(Arc::new(scripted::adapter(1)));
    assert_eq!(said(&running, other).await.unwrap().cached, 0, "what another adapter wrote is of no use");
    let whole = said(&running, second()).await.unwrap();
    assert_eq!((whole.cached, whole.text), (0, alone.text.clone()));
    let same = said(&running, second()).await.unwrap();
    assert_eq!(
        (same.cached, same.text),
        (second().prompts[0].len() - 1, alone.text),
        "the last token is read again"
    );
}

#[tokio::test]
async fn a_conversation_is_not_given_up_for_a_beginning_that_all_share() {
    let running = run(Scripted::new(2, 1024, chatter()), 1);
    let long = format!("system{}", "x".repeat(300));
    said(&running, order(&long, 2)).await.unwrap();
    assert_eq!(said(&running, order("system of another", 2)).await.unwrap().cached, 0);
    assert_eq!(said(&running, order(&format!("{long}more"), 2)).await.unwrap().cached, long.len());
}

#[tokio::test]
async fn what_another_slot_has_read_is_copied() {
    let running = run(Scripted::new(4, 512, chatter()).copying(), 4);
    let prompt = "a prompt that all answers share, and which is read once";
    let mut many = order(prompt, 6);
    many.choices = 4;
    many.sampling.temperature = 1.0;
    let answers = all(running.scheduler.submit(many).unwrap(), 4).await.unwrap();
    let texts: std::collections::BTreeSet<_> = answers.iter().map(|said| &said.text).collect();
    assert!(texts.len() > 1, "choices differ: {texts:?}");
    assert_eq!(
        running.work.read.load(Ordering::Relaxed),
        prompt.len() + 3,
        "once, and the last token of the others"
    );
    assert_eq!(answers.iter().map(|said| said.cached).collect::<Vec<_>>(), [0, 54, 54, 54]);
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_slot() {
    let running = run(Scripted::new(1, 100_000, chatter()), 4);
    let mut gone = running.scheduler.submit(order("endless", 90_000)).unwrap();
    assert!(matches!(gone.next().await, Some(Event::Said { .. })));
    let waiting_and_gone = running.scheduler.submit(order("never begun", 90_000)).unwrap();
    let next = running.scheduler.submit(order("next", 3)).unwrap();
    drop((gone, waiting_and_gone));
    assert_eq!(all(next, 1).await.unwrap()[0].tokens, 3);
    assert!(running.work.rows.load(Ordering::Relaxed) < 80_000, "the endless one was given up");
}

#[tokio::test]
async fn a_full_queue_refuses_and_has_room_again_when_someone_leaves() {
    let (rule, go) = held(reciting("ok"));
    let running = run(Scripted::new(1, 64, rule), 2);
    let submit = || running.scheduler.submit(order("<|assistant|>", 8));
    let mut kept = vec![submit().unwrap()];
    // The first is out of the queue once the engine has it.
    while running.scheduler.load().waiting > 0 {
        tokio::task::yield_now().await;
    }
    kept.extend([submit().unwrap(), submit().unwrap()]);
    let Err(Refusal::Full(after)) = submit() else { panic!("there is no room") };
    assert!((1..=60).contains(&after.as_secs()));
    drop(kept.pop());
    kept.push(submit().expect("one left"));
    go.send(()).unwrap();
    for answer in kept {
        assert_eq!(all(answer, 1).await.unwrap()[0].text, "ok");
    }
}

/// Chatter, but for sequences that begin with `!`.
fn failing(how: fn() -> Result<Vec<f32>, EngineError>) -> Rule {
    let mut inner = chatter();
    Box::new(move |tokens, adapter| if tokens[0] == u32::from(b'!') { how() } else { inner(tokens, adapter) })
}

#[tokio::test]
async fn a_failing_prompt_fails_alone() {
    for how in [|| Err(EngineError("out of order".into())), || panic!("out of order")] {
        let running = run(Scripted::new(3, 4096, failing(how)), 4);
        let mut fine = running.scheduler.submit(order("fine", 200)).unwrap();
        fine.next().await.unwrap();
        let failed = said(&running, order("!", 5)).await.unwrap_err();
        assert!(failed.to_string().contains("out of order"), "{failed}");
        assert_eq!(all(fine, 1).await.unwrap()[0].tokens, 200);
        assert_eq!(said(&running, order("later", 5)).await.unwrap().tokens, 5);
    }
}

#[tokio::test]
async fn a_failing_step_fails_those_in_it_and_the_next_are_served() {
    let mut inner = chatter();
    let (rule, go) = held(Box::new(move |tokens, adapter| {
        // Prompts are read; the fourth token of `!` is not said.
        if tokens[0] == u32::from(b'!') && tokens.len() == 4 {
            return Err(EngineError("a bad step".into()));
        }
        inner(tokens, adapter)
    }));
    let running = run(Scripted::new(2, 256, rule), 4);
    let a = running.scheduler.submit(order("!", 50)).unwrap();
    let b = running.scheduler.submit(order("b", 50)).unwrap();
    let after = running.scheduler.submit(order("b", 50)).unwrap();
    go.send(()).unwrap();
    let alone = said(&run(Scripted::new(1, 256, chatter()), 1), order("b", 50)).await.unwrap();
    assert!(matches!(all(a, 1).await, Err(Failure::Engine(_))));
    assert!(matches!(all(b, 1).await, Err(Failure::Engine(_))));
    let after = all(after, 1).await.unwrap().remove(0);
    assert_eq!((after.text, after.cached), (alone.text, 0), "nothing of what was lost is used");
}

#[tokio::test]
async fn logits_that_are_no_numbers_fail_their_request_only() {
    let rule = failing(|| Ok(vec![f32::NAN; VOCABULARY]));
    let running = run(Scripted::new(2, 64, rule), 4);
    assert!(matches!(said(&running, order("!", 5)).await, Err(Failure::Engine(_))));
    assert_eq!(said(&running, order("fine", 5)).await.unwrap().tokens, 5);
}

#[tokio::test]
async fn draining_finishes_what_was_taken_and_takes_no_more() {
    let (rule, go) = held(reciting("done"));
    let running = run(Scripted::new(1, 64, rule), 4);
    let answers: Vec<Answer> =
        (0..3).map(|_| running.scheduler.submit(order("<|assistant|>", 8)).unwrap()).collect();
    running.scheduler.drain();
    assert!(matches!(running.scheduler.submit(order("late", 8)), Err(Refusal::Stopping)));
    go.send(()).unwrap();
    for answer in answers {
        assert_eq!(all(answer, 1).await.unwrap()[0].text, "done");
    }
    assert_eq!(running.tasks.stop(Duration::from_secs(20)).await, Vec::<&str>::new(), "the thread has ended");
}

#[tokio::test]
async fn giving_up_tells_those_that_run_and_those_that_wait() {
    let running = run(Scripted::new(1, 1_000_000, chatter()), 4);
    let mut runs = running.scheduler.submit(order("endless", 900_000)).unwrap();
    runs.next().await.unwrap();
    let waits = running.scheduler.submit(order("waits", 5)).unwrap();
    running.scheduler.abandon();
    assert_eq!(all(runs, 1).await, Err(Failure::Stopping));
    assert_eq!(all(waits, 1).await, Err(Failure::Stopping));
}

#[tokio::test]
async fn answers_end_at_stop_strings_stop_tokens_and_limits() {
    let running = run(Scripted::new(2, 40, reciting("one two three")), 4);
    let ask = |change: fn(&mut Order)| {
        let mut order = order("<|assistant|>", 30);
        change(&mut order);
        said(&running, order)
    };
    let brief = |said: Said| (said.text, said.finish.unwrap(), said.tokens);
    let whole = ask(|_| {}).await.unwrap();
    assert_eq!(brief(whole), ("one two three".into(), Finish::Stop, 14));
    let stopped = ask(|order| order.stops = vec!["wo".into(), "th".into()]).await.unwrap();
    assert_eq!(brief(stopped), ("one t".into(), Finish::Stop, 7));
    let token = ask(|order| order.stop_tokens = vec![b' '.into()]).await.unwrap();
    assert_eq!(brief(token), ("one".into(), Finish::Stop, 4));
    let limited = ask(|order| order.limit = 5).await.unwrap();
    assert_eq!(brief(limited), ("one t".into(), Finish::Length, 5));
    let endless = ask(|order| order.stop_tokens = vec![]).await.unwrap();
    assert_eq!((endless.finish, endless.tokens), (Some(Finish::Length), 30));
    // What the context leaves is the limit.
    let full = said(&running, order(&format!("{}<|assistant|>", "x".repeat(34)), 30)).await.unwrap();
    assert_eq!(brief(full), ("one t".into(), Finish::Length, 5));
}

/// Every token is possible, all about as likely.
fn babble() -> Rule {
    Box::new(|tokens, _| {
        let mut state: u32 =
            tokens.iter().fold(7, |state, token| state.wrapping_mul(31).wrapping_add(*token));
        let mut logit = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 20_000.0
        };
        Ok((0..VOCABULARY).map(|_| logit()).collect())
    })
}

#[tokio::test]
async fn under_a_schema_even_babble_is_valid() {
    let schema = json!({
        "type": "object",
        "properties": {
            "topic": {"enum": ["refund", "delivery", "größe"]},
            "urgent": {"type": "boolean"},
            "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        },
        "required": ["topic", "urgent", "items"],
        "additionalProperties": false,
    });
    let grammars = Grammars::new(Arc::new(ScriptedText));
    let grammar = grammars.compile(&schema).unwrap();
    let running = run(Scripted::new(4, 600, babble()), 64);
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut ended = 0;
    let answers: Vec<Answer> = (0..24)
        .map(|seed| {
            let mut order = order("json: ", 500);
            order.grammar = Some(grammar.another());
            (order.sampling.temperature, order.sampling.seed) = (1.0, seed);
            running.scheduler.submit(order).unwrap()
        })
        .collect();
    for answer in answers {
        let said = all(answer, 1).await.unwrap().remove(0);
        if said.finish == Some(Finish::Stop) {
            ended += 1;
            let value = serde_json::from_str(&said.text).unwrap_or_else(|e| panic!("{e}: {:?}", said.text));
            assert!(validator.is_valid(&value), "{value}");
        }
    }
    assert!(ended >= 20, "{ended} of 24 came to an end");
}
