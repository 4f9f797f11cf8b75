use serde_json::{Value, json};

use super::ticket::{Queue, Ticket};

/// The fields and their values, in four short lines: a model of this size does not get better by rules.
const SYSTEM: &str = "Sort the message.\nAnswer in one line of JSON:\nqueue: billing, delivery, account or technical\n\
    order_id: the order number or null";

/// Conversations shown to the base model, one for each queue; nothing in them comes from the pools.
const WORKED: [(&str, Queue, Option<&str>); 4] = [
    ("Hello, I was asked to pay for the same lamp again. Order 31048. Ben", Queue::Billing, Some("31048")),
    ("The postman brought my parcel to the wrong street.", Queue::Delivery, None),
    ("I do not know my password any more. Regards, Ann", Queue::Account, None),
    ("Order 77120. The radio does not turn on.", Queue::Technical, Some("77120")),
];

/// How the model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// The system prompt and the message: what is trained, and served to after that.
    Plain,
    /// With worked examples before the message: the best that we know for the base model.
    Worked,
}

impl Prompt {
    /// The messages of a request.
    #[must_use]
    pub fn messages(self, message: &str) -> Value {
        let mut messages = vec![json!({"role": "system", "content": SYSTEM})];
        if self == Self::Worked {
            for (text, queue, order) in WORKED {
                let ticket = Ticket { queue, order_id: order.map(str::to_owned) };
                messages.push(json!({"role": "user", "content": text}));
                messages.push(json!({"role": "assistant", "content": ticket.to_string()}));
            }
        }
        messages.push(json!({"role": "user", "content": message}));
        messages.into()
    }
}
