use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// Whose desk a message belongs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Queue {
    Billing,
    Delivery,
    Account,
    Technical,
}

impl Queue {
    pub const ALL: [Self; 4] = [Self::Billing, Self::Delivery, Self::Account, Self::Technical];
}

/// The right answer to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub queue: Queue,
    /// Digits; none where the message names no order.
    pub order_id: Option<String>,
}

/// As it is to be written: `{"queue": "billing", "order_id": "12345"}`.
impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = serde_json::to_string(&self.queue).map_err(|_| fmt::Error)?;
        match &self.order_id {
            Some(order) => write!(f, "{{\"queue\": {queue}, \"order_id\": \"{order}\"}}"),
            None => write!(f, "{{\"queue\": {queue}, \"order_id\": null}}"),
        }
    }
}

/// An answer's form: the two keys, once each, and no other; the values as strings, to be judged apart.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    queue: String,
    // A reader of its own makes the key necessary, which an option alone would not.
    #[serde(deserialize_with = "present")]
    order_id: Option<String>,
}

fn present<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(reader)
}

/// What an answer was worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Strict JSON of the right form.
    pub valid: bool,
    pub queue: bool,
    pub order_id: bool,
}

impl Verdict {
    /// Judges what a model said. Space around the object is no mistake, anything else is.
    #[must_use]
    pub fn of(said: &str, right: &Ticket) -> Self {
        // A list of two would be read as the two fields.
        let object = Some(said.trim()).filter(|said| said.starts_with('{'));
        let Some(form) = object.and_then(|said| serde_json::from_str::<Form>(said).ok()) else {
            return Self::default();
        };
        let queue: Option<Queue> = serde_json::from_value(form.queue.into()).ok();
        Self { valid: true, queue: queue == Some(right.queue), order_id: form.order_id == right.order_id }
    }

    /// Both values are right.
    #[must_use]
    pub fn exact(self) -> bool {
        self.valid && self.queue && self.order_id
    }
}
