use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use http::StatusCode;
use serde_json::{Value, json};

use super::answer::Answer;
use super::case::Case;
use super::client::{Client, Outcome};
use super::desk::Desk;
use super::draw::chance;
use super::error::DemoError;
use super::plan::{Plan, Played, Summary};
use super::tools::{tools, triage_format};
use super::topic::Topic;
use super::upstream::MODEL;

const DESK: &str =
    "You are the support desk of a shop. Use the tools; do not promise what you have not done.";
const SORTER: &str =
    "You sort support tickets. Answer with a JSON object of the requested form and nothing else.";

/// Model calls in one conversation after which the app gives up.
const MOST_CALLS: u32 = 12;

/// Plays all conversations of a plan against a proxy and then gives feedback on a part of them.
///
/// `proxy` is its base URL without a path; `progress` hears of each conversation when it ends. The work is done in the
/// caller's task.
///
/// # Errors
/// When the proxy cannot be reached or answers with something that is no chat completion.
pub async fn play(
    proxy: &str,
    plan: &Plan,
    progress: &mut (dyn FnMut(&Played) + Send),
) -> Result<Summary, DemoError> {
    let started = Instant::now();
    let client = Client::new(proxy);
    let tools = tools();
    let next = AtomicUsize::new(0);
    let done = Mutex::new((Vec::new(), progress));
    let worker = || async {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= plan.conversations {
                return Ok(());
            }
            let case = Case::new(plan.seed, index);
            let played = Conversation::new(&client, plan, &tools, &case).play().await?;
            let mut done = done.lock().expect("progress does not panic");
            (done.1)(&played);
            done.0.push(played);
        }
    };
    let workers = (0..plan.concurrency.max(1)).map(|_| Box::pin(worker()) as Worker<'_>);
    all(workers.collect()).await?;

    let (mut played, _) = done.into_inner().expect("progress does not panic");
    played.sort_by_key(|p| p.index);
    let mut summary = Summary::of(&played);
    for played in played.iter().filter(|p| chance(plan.feedback, plan.seed, "feedback", &p.index.to_string()))
    {
        match give_feedback(&client, plan, played).await? {
            Some(true) => summary.feedback_given += 1,
            Some(false) => summary.feedback_refused += 1,
            None => {}
        }
    }
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

pub(super) type Worker<'a> = Pin<Box<dyn Future<Output = Result<(), DemoError>> + Send + 'a>>;

/// Runs futures side by side in this task; the first error ends all.
pub(super) async fn all(mut running: Vec<Worker<'_>>) -> Result<(), DemoError> {
    poll_fn(|context| {
        let mut result = Ok(());
        running.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                result = Err(error);
                false
            }
        });
        if result.is_err() || running.is_empty() { Poll::Ready(result) } else { Poll::Pending }
    })
    .await
}

/// Posts what became of a conversation. The proxy learns of an answer a moment after the app: a 404 is tried again.
/// None where the model never answered.
async fn give_feedback(client: &Client, plan: &Plan, played: &Played) -> Result<Option<bool>, DemoError> {
    let Some(response_id) = played.response_ids.last() else { return Ok(None) };
    let mut feedback = json!({
        "response_id": response_id, "label": if played.well { "success" } else { "failure" }, "source": "desk",
    });
    if !played.well {
        feedback["correction"] = played.topic.correction().into();
    }
    let (tries, pause) = plan.feedback_patience;
    for _ in 0..tries {
        match client.feedback(&[], &feedback).await? {
            status if status.is_success() => return Ok(Some(true)),
            StatusCode::NOT_FOUND => tokio::time::sleep(pause).await,
            _ => break,
        }
    }
    Ok(Some(false))
}

/// One conversation on its way.
struct Conversation<'a> {
    client: &'a Client,
    plan: &'a Plan,
    tools: &'a [Value],
    case: &'a Case,
    desk: Desk<'a>,
    session: Option<String>,
    played: Played,
}

impl<'a> Conversation<'a> {
    fn new(client: &'a Client, plan: &'a Plan, tools: &'a [Value], case: &'a Case) -> Self {
        let of = case.index.to_string();
        let session = chance(plan.named, plan.seed, "named", &of).then(|| format!("desk-{}-{of}", plan.seed));
        let system = if case.topic == Topic::Triage { SORTER } else { DESK };
        let messages = vec![
            json!({"role": "system", "content": system}),
            json!({"role": "user", "content": case.opening}),
        ];
        let played = Played {
            index: case.index,
            topic: case.topic,
            well: false,
            messages,
            response_ids: Vec::new(),
            requests: 0,
            streamed: 0,
            server_errors: 0,
        };
        Self { client, plan, tools, case, desk: Desk::new(case), session, played }
    }

    async fn play(mut self) -> Result<Played, DemoError> {
        let answer = self.answer().await?;
        self.played.well = self.desk.satisfied(answer.as_ref());
        if answer.is_some()
            && let Some(reaction) = self.reaction()
        {
            self.played.messages.push(json!({"role": "user", "content": reaction}));
            self.answer().await?;
        }
        Ok(self.played)
    }

    /// Lets the model work until it answers in words; none where its server gives up.
    async fn answer(&mut self) -> Result<Option<Answer>, DemoError> {
        while self.played.requests < MOST_CALLS {
            let Some(answer) = self.ask().await? else { return Ok(None) };
            self.played.response_ids.push(answer.id.clone());
            self.played.messages.push(answer.message());
            if answer.calls.is_empty() {
                return Ok(Some(answer));
            }
            for call in &answer.calls {
                let result = self.desk.call(&call.name, &call.arguments);
                self.played
                    .messages
                    .push(json!({"role": "tool", "tool_call_id": call.id, "content": result}));
            }
        }
        Ok(None)
    }

    /// One request, sent a second time when the server fails.
    async fn ask(&mut self) -> Result<Option<Answer>, DemoError> {
        let request = self.request();
        for _ in 0..2 {
            self.played.requests += 1;
            self.played.streamed += u32::from(request["stream"] == true);
            let session = self.session.as_deref().map(|session| ("x-remora-session", session));
            match self.client.complete(session.as_slice(), &request).await? {
                Outcome::Answered(answer) => return Ok(Some(answer)),
                Outcome::Refused(status) if status.is_server_error() => self.played.server_errors += 1,
                Outcome::Refused(_) => break,
            }
        }
        Ok(None)
    }

    fn request(&self) -> Value {
        let of = format!("{}/{}", self.case.index, self.played.requests);
        let mut request = json!({"model": MODEL, "messages": self.played.messages, "tools": self.tools});
        if chance(self.plan.streamed, self.plan.seed, "streamed", &of) {
            request["stream"] = true.into();
            request["stream_options"] = json!({"include_usage": true});
        }
        match self.case.topic {
            Topic::Triage => request["response_format"] = triage_format(),
            Topic::Returns => request["max_tokens"] = 100.into(),
            _ => {}
        }
        request
    }

    /// What the customer says to the answer; none where nothing is said, and from the sorter's tickets.
    fn reaction(&self) -> Option<String> {
        let of = self.case.index.to_string();
        if self.case.topic == Topic::Triage || !chance(70, self.plan.seed, "reaction", &of) {
            return None;
        }
        Some(match self.played.well {
            true => "Thank you, that is all.".to_owned(),
            false => format!("No, that is not what I asked for. {}", self.case.topic.correction()),
        })
    }
}
