//! One detector a file. Each looks at a transcript for one kind of sign and votes at most once.

mod acknowledgement;
mod correction;
mod ending;
mod feedback;
mod observe;
mod refusal;
mod repeated_call;
mod schema;
mod tool_error;

#[cfg(test)]
pub(super) mod script;

pub(super) use feedback::votes as feedback_votes;

use crate::model::{Feedback, Transcript, Vote};

/// All votes on one trajectory: those of feedback first, then those of the detectors, in a fixed order.
///
/// Detectors vote on what is left at the end: an error that was recovered from is none.
#[must_use]
pub fn votes(t: &Transcript, feedback: &[Feedback]) -> Vec<Vote> {
    let results = observe::tool_results(t);
    let mut votes = feedback_votes(feedback);
    votes.extend(tool_error::vote(t, &results));
    votes.extend(schema::arguments_vote(t, &results));
    votes.extend(schema::output_vote(t));
    votes.extend(repeated_call::vote(t, &results));
    votes.extend(ending::truncation_vote(t));
    votes.extend(ending::http_error_vote(t));
    votes.extend(ending::abandonment_vote(t));
    votes.extend(refusal::vote(t));
    votes.extend(correction::vote(t));
    votes.extend(acknowledgement::vote(t, &results));
    votes
}
