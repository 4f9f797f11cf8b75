use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};

use super::message::Message;
use super::prompt::Prompt;
use super::ticket::Verdict;
use crate::demo::agent::{Worker, all};
use crate::demo::client::{Client, Outcome};
use crate::demo::error::DemoError;

/// Tokens of an answer: twice what a right one has.
const ANSWER_TOKENS: u32 = 40;
/// How often feedback is offered again while the proxy does not know the answer yet, and the pause between.
const PATIENCE: (u32, Duration) = (40, Duration::from_millis(250));

/// The app that sorts messages: it asks a model through the proxy, and tells the proxy what its people corrected.
#[derive(Clone, Debug)]
pub struct Desk {
    client: Client,
    /// The name it asks for.
    model: String,
    prompt: Prompt,
    /// What it calls itself: nothing recorded under one name is learned from under another.
    app: String,
    /// Requests under way at a time.
    concurrency: usize,
}

/// One message, answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its place among the messages.
    pub index: usize,
    /// None where the model's server refused.
    pub response_id: Option<String>,
    pub said: String,
    pub verdict: Verdict,
}

/// Some messages, answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Day {
    /// In the messages' order.
    pub asked: Vec<Asked>,
    pub seconds: f64,
}

/// What became of the corrections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    /// Answers that were right, and were said to be.
    pub confirmed: usize,
    pub corrected: usize,
    /// Not taken by the proxy.
    pub refused: usize,
}

impl Day {
    fn count(&self, good: impl Fn(&Verdict) -> bool) -> usize {
        self.asked.iter().filter(|a| good(&a.verdict)).count()
    }

    #[must_use]
    pub fn n(&self) -> usize {
        self.asked.len()
    }

    /// Answers with both values right, and nothing else.
    #[must_use]
    pub fn exact(&self) -> usize {
        self.count(|v| v.exact())
    }

    #[must_use]
    pub fn valid(&self) -> usize {
        self.count(|v| v.valid)
    }

    #[must_use]
    pub fn queue(&self) -> usize {
        self.count(|v| v.queue)
    }

    #[must_use]
    pub fn order_id(&self) -> usize {
        self.count(|v| v.order_id)
    }
}

impl Desk {
    /// `proxy`: its base URL without a path. It asks with the plain prompt.
    #[must_use]
    pub fn new(proxy: &str, model: &str, app: &str) -> Self {
        Self {
            client: Client::new(proxy),
            model: model.to_owned(),
            prompt: Prompt::Plain,
            app: app.to_owned(),
            concurrency: 8,
        }
    }

    /// Asking another model.
    #[must_use]
    pub fn asking(self, model: &str) -> Self {
        Self { model: model.to_owned(), ..self }
    }

    /// Asking in another way.
    #[must_use]
    pub fn with(self, prompt: Prompt) -> Self {
        Self { prompt, ..self }
    }

    /// Under another name.
    #[must_use]
    pub fn called(self, app: &str) -> Self {
        Self { app: app.to_owned(), ..self }
    }

    /// Has every message answered, in the caller's task; `progress` hears of each.
    ///
    /// # Errors
    /// When the proxy cannot be reached or answers with something that is no chat completion.
    pub async fn ask(
        &self,
        messages: &[Message],
        progress: &mut (dyn FnMut() + Send),
    ) -> Result<Day, DemoError> {
        let started = Instant::now();
        let next = AtomicUsize::new(0);
        let done = Mutex::new((Vec::with_capacity(messages.len()), progress));
        let worker = || async {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(message) = messages.get(index) else { return Ok(()) };
                let asked = self.one(index, message).await?;
                let mut done = done.lock().expect("progress does not panic");
                (done.1)();
                done.0.push(asked);
            }
        };
        all((0..self.concurrency.max(1)).map(|_| Box::pin(worker()) as Worker<'_>).collect()).await?;
        let (mut asked, _) = done.into_inner().expect("progress does not panic");
        asked.sort_by_key(|a| a.index);
        Ok(Day { asked, seconds: started.elapsed().as_secs_f64() })
    }

    async fn one(&self, index: usize, message: &Message) -> Result<Asked, DemoError> {
        let request = json!({
            "model": self.model, "messages": self.prompt.messages(&message.text),
            "temperature": 0, "max_tokens": ANSWER_TOKENS,
        });
        let (response_id, said) = match self.client.complete(&self.headers(), &request).await? {
            Outcome::Answered(answer) => (Some(answer.id), answer.content.unwrap_or_default()),
            Outcome::Refused(status) => {
                tracing::warn!(%status, "a message was not answered");
                (None, String::new())
            }
        };
        Ok(Asked { index, response_id, verdict: Verdict::of(&said, &message.right), said })
    }

    fn headers(&self) -> [(&'static str, &str); 1] {
        [("x-remora-app", &self.app)]
    }

    /// Tells the proxy of each answer whether it was right, and what it should have been: `messages` as the people who
    /// correct see them.
    ///
    /// # Errors
    /// When the proxy cannot be reached.
    pub async fn correct(&self, day: &Day, messages: &[Message]) -> Result<Feedback, DemoError> {
        let mut told = Feedback::default();
        for asked in &day.asked {
            let (Some(id), Some(message)) = (&asked.response_id, messages.get(asked.index)) else { continue };
            let right = Verdict::of(&asked.said, &message.right).exact();
            let mut feedback = json!({
                "response_id": id, "label": if right { "success" } else { "failure" }, "source": "desk",
            });
            if !right {
                feedback["correction"] = message.right.to_string().into();
            }
            match (self.tell(&feedback).await?, right) {
                (true, true) => told.confirmed += 1,
                (true, false) => told.corrected += 1,
                (false, _) => told.refused += 1,
            }
        }
        Ok(told)
    }

    /// The proxy learns of an answer a moment after the app: a 404 is tried again.
    async fn tell(&self, feedback: &Value) -> Result<bool, DemoError> {
        let (tries, pause) = PATIENCE;
        for _ in 0..tries {
            match self.client.feedback(&self.headers(), feedback).await? {
                status if status.is_success() => return Ok(true),
                StatusCode::NOT_FOUND => tokio::time::sleep(pause).await,
                _ => break,
            }
        }
        Ok(false)
    }

    /// One question without a system prompt; what the model said.
    ///
    /// # Errors
    /// When the proxy cannot be reached or answers with something that is no chat completion.
    pub async fn chat(&self, question: &str, tokens: usize) -> Result<String, DemoError> {
        let request = json!({
            "model": self.model, "messages": [{"role": "user", "content": question}],
            "temperature": 0, "max_tokens": tokens,
        });
        match self.client.complete(&self.headers(), &request).await? {
            Outcome::Answered(answer) => Ok(answer.content.unwrap_or_default()),
            Outcome::Refused(_) => Ok(String::new()),
        }
    }
}
