use serde_json::{Value, json};

use super::draw::{chance, draw, pick};
use super::topic::Topic;

/// What the model does next: a step, or a failure of its server.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Turn {
    Call {
        tool: &'static str,
        arguments: Value,
    },
    Say(String),
    /// Text that runs into the token limit.
    CutOff(String),
    Overloaded,
}

/// Cases, in percent, in which the model leaves out the step that matters.
const CARELESS: u64 = 50;

/// Decides what a model of this seed answers to a conversation; equal conversations get equal answers.
///
/// The wish is read from the first message of the user; whether the model is careful follows from the seed and that
/// message, so that a conversation keeps its character from turn to turn.
pub(super) fn next(seed: u64, messages: &[Value]) -> Turn {
    let said_by = |role: &'static str| messages.iter().filter(move |m| m["role"] == role);
    let opening = said_by("user").next().and_then(|m| m["content"].as_str()).unwrap_or_default();
    let Some(topic) = Topic::of(opening) else { return Turn::Say(ABOUT.to_owned()) };
    let careful = topic.failure().is_none() || !chance(CARELESS, seed, "careless", opening);
    if said_by("user").count() > 1 {
        return closing(messages);
    }
    let results: Vec<Value> = said_by("tool")
        .map(|m| serde_json::from_str(m["content"].as_str().unwrap_or_default()).unwrap_or_default())
        .collect();
    let wish = Wish { seed, opening };
    if careful { wish.careful(topic, &results) } else { wish.careless(topic, &results) }
}

/// The answer to anything that is no business of the desk.
const ABOUT: &str = "I am the support desk's scripted model: I look up, cancel and refund orders, change addresses, \
    tell what is in stock, sort tickets, take requests to delete data, explain returns and list earlier orders. \
    Ask me for one of these, name an order or an account, and I will use the tools that you give me. I am not a real \
    model: what I say follows from a seed and from what you said first, word by word, the same each time.";

/// The answer to what a customer says after the matter was dealt with.
fn closing(messages: &[Value]) -> Turn {
    let last = messages.last().and_then(|m| m["content"].as_str()).unwrap_or_default();
    let thanks = last.starts_with("Thank");
    let text = if thanks { "You are welcome!" } else { "I am sorry about that. I have taken a note of it." };
    Turn::Say(text.to_owned())
}

fn call(tool: &'static str, arguments: Value) -> Turn {
    Turn::Call { tool, arguments }
}

fn say(text: impl Into<String>) -> Turn {
    Turn::Say(text.into())
}

/// What the first message asks for, with what can be read from it.
struct Wish<'a> {
    seed: u64,
    opening: &'a str,
}

impl Wish<'_> {
    /// Takes the step that matters.
    fn careful(&self, topic: Topic, results: &[Value]) -> Turn {
        let (order, email) = (self.order(), self.email());
        match (topic, results) {
            (Topic::Status | Topic::Cancel | Topic::Refund, []) => call("look_up_order", json!({"order_id": order})),
            (Topic::Status, [found, ..]) => {
                say(format!("Your order {order} has {}; it should arrive soon.", text(&found["status"])))
            }
            (Topic::Cancel, [_]) => call(
                "escalate",
                json!({"order_id": order, "team": "returns", "reason": "the customer cancels, but it has shipped"}),
            ),
            (Topic::Cancel, _) => say(self.phrase(&[
                "The order has already shipped, so the returns team takes over and sends you a label.",
                "It is on its way already. I have passed it to the returns team, who will write to you today.",
            ])),
            (Topic::Refund, [found]) => {
                call("request_approval", json!({"order_id": order, "amount": found["total"]}))
            }
            (Topic::Refund, [found, approval]) => call(
                "refund_payment",
                json!({"order_id": order, "amount": found["total"], "approval_id": approval["approval_id"]}),
            ),
            (Topic::Refund, _) => say(self.phrase(&[
                "The refund is approved and on its way to you.",
                "A supervisor has approved it and the money is being paid back.",
            ])),
            (Topic::Address, []) => call("find_customer", json!({"email": email})),
            (Topic::Address, [found]) => {
                let (street, postal_code, city) = self.address();
                let address = json!({"street": street, "postal_code": postal_code, "city": city});
                call("update_address", json!({"customer_id": found["customer_id"], "address": address}))
            }
            (Topic::Address, _) => say("Your new address is set."),
            (Topic::Stock, []) => call("search_products", json!({"query": self.opening})),
            (Topic::Stock, [found]) => call("check_stock", json!({"sku": found["products"][0]["sku"]})),
            (Topic::Stock, [.., stock]) => say(match stock["in_stock"].as_u64() {
                Some(0) | None => "It is sold out at the moment.".to_owned(),
                Some(n) => format!("Yes, we have {n} of them in stock."),
            }),
            (Topic::Triage, []) => call("list_queues", json!({})),
            (Topic::Triage, _) => {
                let queues = [("charged", "billing"), ("parcel", "delivery"), ("", "quality")];
                let queue = queues.into_iter().find(|(word, _)| self.opening.contains(word)).map(|(_, queue)| queue);
                say(json!({"queue": queue, "urgent": false, "summary": format!("about {order}")}).to_string())
            }
            (Topic::Privacy, []) => call("verify_identity", json!({"email": email})),
            (Topic::Privacy, [_]) => call("open_privacy_request", json!({"email": email})),
            (Topic::Privacy, [.., request]) => say(format!(
                "Your request {} is open; your data will be deleted within {} days.",
                text(&request["request_id"]),
                request["days"]
            )),
            (Topic::Returns, []) => call("read_policy", json!({"subject": "returns"})),
            (Topic::Returns, _) => {
                say("You get a label by e-mail. Put it on the parcel and leave it at any post office within 30 days.")
            }
            (Topic::History, []) => call("list_orders", json!({"email": email, "limit": 3})),
            (Topic::History, [found, ..]) => {
                say(format!("Your latest order is {}.", text(&found["orders"][0]["order_id"])))
            }
        }
    }

    /// Leaves it out.
    fn careless(&self, topic: Topic, results: &[Value]) -> Turn {
        let (order, email) = (self.order(), self.email());
        match (topic, results) {
            (Topic::Cancel, []) => call("cancel_order", json!({"order_id": order})),
            (Topic::Cancel, _) => say(self.phrase(&[
                "Unfortunately the order could not be cancelled.",
                "I tried to cancel it, but that did not work.",
            ])),
            (Topic::Refund, []) => call("look_up_order", json!({"order_id": order})),
            (Topic::Refund, [found]) => call("refund_payment", json!({"order_id": order, "amount": found["total"]})),
            (Topic::Refund, _) => say(self.phrase(&[
                "I could not pay the money back.",
                "The refund did not go through, please try again later.",
            ])),
            (Topic::Address, []) => {
                let (street, postal_code, city) = self.address();
                let postcode: u64 = postal_code.parse().unwrap_or_default();
                let address = json!({"street": street, "postcode": postcode, "city": city});
                call("update_address", json!({"customer_id": email, "address": address}))
            }
            (Topic::Address, _) => say("Something went wrong with your address, please try the website."),
            // asks three or four times, in the same words
            (Topic::Stock, tried) if tried.len() < 3 + (draw(self.seed, "tries", self.opening) % 2) as usize => {
                call("check_stock", json!({"sku": self.product()}))
            }
            (Topic::Stock, _) => say("I cannot tell at the moment whether we have it."),
            (Topic::Triage, _) => say(self.phrase(&[
                "Sure! Here is the ticket:\n{\"queue\": \"general\", \"urgent\": \"no\",}",
                "This looks like a case for the support queue: {queue: support}",
            ])),
            (Topic::Privacy, _) => say(self.phrase(&[
                "I'm sorry, but I can't help with that request.",
                "I'm sorry, I cannot assist with deleting personal data.",
            ])),
            (Topic::Returns, _) => Turn::CutOff(
                "Returning goods is a matter with a long history. First of all, please make sure that you still have \
                 the original packaging, the invoice and all parts, that nothing has been used more than needed to \
                 look at it, and that you have read the terms which came with your order, in particular the sections \
                 on periods, on costs, on exceptions for certain kinds of goods, and on"
                    .to_owned(),
            ),
            (Topic::History, []) => call("export_history", json!({"email": email})),
            (Topic::History, _) => Turn::Overloaded,
            (Topic::Status, _) => self.careful(topic, results),
        }
    }

    /// One of several ways to say it, always the same one for this conversation.
    fn phrase(&self, ways: &[&str]) -> String {
        (*pick(ways, self.seed, "phrase", self.opening)).to_owned()
    }

    fn word(&self, is: impl Fn(&str) -> bool) -> &str {
        let trimmed = self.opening.split_whitespace().map(|w| w.trim_matches(|c: char| !c.is_alphanumeric()));
        trimmed.into_iter().find(|w| is(w)).unwrap_or_default()
    }

    /// `W12345`
    fn order(&self) -> &str {
        self.word(|w| w.len() == 6 && w.starts_with('W') && w[1..].bytes().all(|b| b.is_ascii_digit()))
    }

    fn email(&self) -> &str {
        self.word(|w| w.contains('@'))
    }

    /// What stands before "in stock", without the words around it.
    fn product(&self) -> &str {
        let all = super::case::PRODUCTS.iter().map(|p| p.name);
        all.into_iter().find(|name| self.opening.contains(name)).unwrap_or("it")
    }

    /// Street, postal code and city: `… to Lindenweg 4, 10115 Berlin`.
    fn address(&self) -> (&str, &str, &str) {
        let code = self.word(|w| w.len() == 5 && w.bytes().all(|b| b.is_ascii_digit()));
        let (before, after) = self.opening.split_once(code).unwrap_or_default();
        let start = before.rfind(" to ").map(|at| at + 4).or_else(|| before.rfind(": ").map(|at| at + 2));
        let street = before[start.unwrap_or_default()..].trim_end_matches([' ', ',']);
        let city = after.split_whitespace().next().unwrap_or_default().trim_end_matches(['.', '?']);
        (street, code, city)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
