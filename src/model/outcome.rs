use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Micros;

/// How a trajectory ended, as far as the votes tell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Probability of success, 0 to 1; none when nothing voted.
    pub p_success: Option<f64>,
    pub label: Label,
    pub failing_step: Option<FailingStep>,
}

/// The verdict that the probability allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    Success,
    Failure,
    /// Only ever given by feedback.
    Partial,
    /// The votes are too few or too divided.
    Unknown,
}

impl Label {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Partial => "partial",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Label {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        [Self::Success, Self::Failure, Self::Partial, Self::Unknown]
            .into_iter()
            .find(|l| l.as_str() == s)
            .ok_or(())
    }
}

/// The step where a failed trajectory went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailingStep {
    /// Index into the transcript's steps, from 0.
    pub step: usize,
    /// One sentence on why this one.
    pub reason: String,
}

/// One source's opinion on how a trajectory ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Vote {
    pub source: VoteSource,
    /// 1 is success, 0 failure; between only from feedback.
    pub value: f64,
    /// How often such a vote is right, 0.5 to 1.
    pub confidence: f64,
    /// The step it points at.
    pub step: Option<usize>,
    /// What was seen, in a sentence that quotes as little as needed.
    pub evidence: String,
}

/// Who votes. `Feedback` carries the name that the giver used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VoteSource {
    Feedback(String),
    ToolError,
    ArgumentsSchema,
    OutputSchema,
    RepeatedCall,
    Truncation,
    Refusal,
    HttpError,
    UserCorrection,
    Acknowledgement,
    Abandonment,
}

impl VoteSource {
    const NAMES: [(Self, &'static str); 10] = [
        (Self::ToolError, "tool_error"),
        (Self::ArgumentsSchema, "arguments_schema"),
        (Self::OutputSchema, "output_schema"),
        (Self::RepeatedCall, "repeated_call"),
        (Self::Truncation, "truncation"),
        (Self::Refusal, "refusal"),
        (Self::HttpError, "http_error"),
        (Self::UserCorrection, "user_correction"),
        (Self::Acknowledgement, "acknowledgement"),
        (Self::Abandonment, "abandonment"),
    ];
}

/// `tool_error`, …, `feedback:NAME`.
impl fmt::Display for VoteSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feedback(name) => write!(f, "feedback:{name}"),
            other => f.write_str(Self::NAMES.iter().find(|(s, _)| s == other).map_or("", |(_, n)| n)),
        }
    }
}

impl FromStr for VoteSource {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        if let Some(name) = s.strip_prefix("feedback:") {
            return Ok(Self::Feedback(name.to_owned()));
        }
        Self::NAMES.iter().find(|(_, n)| *n == s).map(|(v, _)| v.clone()).ok_or(())
    }
}

impl Serialize for VoteSource {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// What a person or a downstream system said about a trajectory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Feedback {
    pub label: Option<Label>,
    /// 0 to 1.
    pub reward: Option<f64>,
    /// What the answer should have been, or what to do instead.
    pub correction: Option<String>,
    pub comment: Option<String>,
    /// Who says so; `user` where none was named.
    pub source: String,
    pub given: Micros,
}
