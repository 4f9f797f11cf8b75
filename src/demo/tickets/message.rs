use super::pools::{Half, Pools};
use super::ticket::{Queue, Ticket};
use crate::demo::draw::{chance, draw, pick};

/// What a customer wrote, and what the desk's answer should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// One to five sentences.
    pub text: String,
    pub right: Ticket,
}

/// Messages without an order number, in percent of all: every third.
const NUMBERLESS: usize = 3;
/// The order comes before what it is about, in percent.
const ORDER_FIRST: u64 = 30;
const ASIDE: u64 = 40;
const GREETED: u64 = 60;
const SIGNED: u64 = 60;

/// `count` messages of one half, in an order that hangs on the seed: as many of each queue as of the others, and a number
/// of an order in two of three.
#[must_use]
pub fn messages(seed: u64, half: Half, count: usize) -> Vec<Message> {
    let maker = Maker::new(seed, half);
    let mut numbers: Vec<usize> = (0..count).collect();
    numbers.sort_by_key(|i| draw(seed, "place", &maker.of(*i)));
    numbers.into_iter().map(|i| maker.message(i)).collect()
}

/// The same messages with each other's tickets: what can be learned from them is the form of an answer and nothing else.
#[must_use]
pub fn shuffled(messages: &[Message], seed: u64) -> Vec<Message> {
    let mut tickets: Vec<&Ticket> = messages.iter().map(|m| &m.right).collect();
    let order: Vec<usize> = {
        let mut order: Vec<usize> = (0..messages.len()).collect();
        order.sort_by_key(|i| draw(seed, "shuffled", &i.to_string()));
        order
    };
    tickets = order.iter().map(|i| tickets[*i]).collect();
    messages
        .iter()
        .zip(tickets)
        .map(|(message, right)| Message { text: message.text.clone(), right: right.clone() })
        .collect()
}

/// One half of every pool.
struct Maker {
    seed: u64,
    half: Half,
    issues: [Vec<&'static str>; 4],
    orders: Vec<&'static str>,
    asides: Vec<&'static str>,
    greetings: Vec<&'static str>,
    closings: Vec<&'static str>,
    names: Vec<&'static str>,
    products: Vec<&'static str>,
}

impl Maker {
    fn new(seed: u64, half: Half) -> Self {
        let pools = Pools::all();
        let issues = Queue::ALL.map(|queue| {
            let what = serde_json::to_value(queue).ok();
            half.of(pools.issues(queue), seed, what.as_ref().and_then(|w| w.as_str()).unwrap_or_default())
        });
        Self {
            seed,
            half,
            issues,
            orders: half.of(&pools.orders, seed, "orders"),
            asides: half.of(&pools.asides, seed, "asides"),
            greetings: half.of(&pools.greetings, seed, "greetings"),
            closings: half.of(&pools.closings, seed, "closings"),
            names: half.of(&pools.names, seed, "names"),
            products: half.of(&pools.products, seed, "products"),
        }
    }

    /// What draws for a message hang on.
    fn of(&self, index: usize) -> String {
        format!("{}-{index}", self.half.number())
    }

    fn message(&self, index: usize) -> Message {
        let (seed, of) = (self.seed, self.of(index));
        let (queue, round) = (index % 4, index / 4);
        // One sentence after the other, so that as few as possible come twice.
        let issue = self.issues[queue][round % self.issues[queue].len()];
        let mut parts = vec![issue.replace("{product}", self.one(&self.products, "products", &of))];
        let order_id = (round % NUMBERLESS != NUMBERLESS - 1).then(|| self.number(&of));
        if let Some(order) = &order_id {
            let phrase = self.one(&self.orders, "orders", &of).replace("{order}", order);
            parts.insert(usize::from(!chance(ORDER_FIRST, seed, "order first", &of)), phrase);
        }
        if chance(ASIDE, seed, "aside", &of) {
            let place = draw(seed, "aside place", &of) % (parts.len() as u64 + 1);
            parts.insert(place as usize, self.one(&self.asides, "asides", &of).to_owned());
        }
        if chance(GREETED, seed, "greeted", &of) {
            parts.insert(0, self.one(&self.greetings, "greetings", &of).to_owned());
        }
        if chance(SIGNED, seed, "closed", &of) {
            let name = self.one(&self.names, "names", &of);
            parts.push(self.one(&self.closings, "closings", &of).replace("{name}", name));
        }
        Message { text: parts.join(" "), right: Ticket { queue: Queue::ALL[queue], order_id } }
    }

    fn one(&self, pool: &[&'static str], what: &str, of: &str) -> &'static str {
        pick::<&'static str>(pool, self.seed, what, of)
    }

    /// Five digits; those of one half are even, those of the other odd.
    fn number(&self, of: &str) -> String {
        (10_000 + 2 * (draw(self.seed, "number", of) % 45_000) + self.half.number()).to_string()
    }
}
