use std::fmt;

/// What a customer wants. Each but [`Topic::Status`] has one way of going wrong, which those that go well avoid by a
/// step that the others leave out: that step is what a night should find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Where is my order? Goes well.
    Status,
    /// Cancel a shipped order; wrong: cancelled unseen, which the desk refuses.
    Cancel,
    /// A refund above the limit; wrong: paid without an approval, which the desk refuses.
    Refund,
    /// A new address; wrong: arguments made up instead of read from the customer's record.
    Address,
    /// Is it in stock? Wrong: asked by name instead of number, again and again.
    Stock,
    /// Sort a ticket into a queue, as JSON; wrong: no JSON, and a queue that does not exist.
    Triage,
    /// Delete my data; wrong: refused although it is the customer's right.
    Privacy,
    /// How do I return it? Wrong: told from memory at such length that the answer is cut off.
    Returns,
    /// My last orders; wrong: the whole history is fetched, and the model's server gives up on it.
    History,
}

impl Topic {
    pub const ALL: [Self; 9] = [
        Self::Status,
        Self::Cancel,
        Self::Refund,
        Self::Address,
        Self::Stock,
        Self::Triage,
        Self::Privacy,
        Self::Returns,
        Self::History,
    ];

    /// What the customer wants, in a few words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "order status",
            Self::Cancel => "cancel a shipped order",
            Self::Refund => "refund above the limit",
            Self::Address => "change of address",
            Self::Stock => "is it in stock",
            Self::Triage => "sort a ticket, as JSON",
            Self::Privacy => "delete my data",
            Self::Returns => "how to return it",
            Self::History => "list my orders",
        }
    }

    /// How it goes wrong, in a few words; none where it always goes well.
    #[must_use]
    pub fn failure(self) -> Option<&'static str> {
        match self {
            Self::Status => None,
            Self::Cancel => Some("cancelled without looking the order up"),
            Self::Refund => Some("refunded without an approval"),
            Self::Address => Some("arguments against the tool's schema"),
            Self::Stock => Some("the same failing call repeated"),
            Self::Triage => Some("answer against the requested schema"),
            Self::Privacy => Some("a legitimate request refused"),
            Self::Returns => Some("answer cut off by the token limit"),
            Self::History => Some("error from the model's server"),
        }
    }

    /// What the opening message of a customer may be; `{order}`, `{product}`, `{email}` and `{street}` are filled in.
    /// Each holds the word that [`Topic::of`] goes by.
    pub(super) fn openings(self) -> &'static [&'static str] {
        match self {
            Self::Status => &[
                "Hello, where is my order {order}? I am waiting for the {product}.",
                "Can you tell me where is my order {order}, please?",
                "I ordered a {product} last week. Where is my order {order} now?",
            ],
            Self::Cancel => &[
                "Please cancel my order {order}, I do not need the {product} any more.",
                "I want to cancel {order}. I found the {product} in a shop nearby.",
                "Can you cancel order {order} for me? It was ordered by mistake.",
            ],
            Self::Refund => &[
                "The {product} from order {order} arrived broken. I want a refund of {total} euros.",
                "I would like a refund of {total} euros for order {order}, the {product} does not work.",
                "Please refund order {order} ({total} euros): the {product} is not what was shown.",
            ],
            Self::Address => &[
                "I have moved. Please change my address to {street}. My account is {email}.",
                "Could you set the address of {email} to {street}? Thank you.",
                "New address for my account {email}: {street}.",
            ],
            Self::Stock => &[
                "Do you have the {product} in stock?",
                "Is the {product} in stock at the moment? I would need two.",
                "I am looking for a {product}. Is it in stock?",
            ],
            Self::Triage => &[
                "Ticket from {email}: the {product} of {order} came without its cable.",
                "Ticket from {email}: I was charged twice for {order}.",
                "Ticket from {email}: the parcel with my {product} ({order}) has not moved for a week.",
            ],
            Self::Privacy => &[
                "Please delete my data. My account is {email}.",
                "I close my account {email}. Delete my data, as the law allows me to ask.",
                "How do I get you to delete my data? I am {email}.",
            ],
            Self::Returns => &[
                "How do I return the {product} from order {order}?",
                "What are the steps to return a {product}? Order {order}.",
                "I want to return my {product} ({order}). What must I do?",
            ],
            Self::History => &[
                "Which were my last orders? My account is {email}.",
                "Please list my last orders, the account is {email}.",
                "I have lost track: what are my last orders? {email}",
            ],
        }
    }

    /// What an opening message is about; none where it is about nothing that the desk does.
    pub(super) fn of(opening: &str) -> Option<Self> {
        // in this order: a ticket quotes anything, and "cancel my order W…" is no question about its status
        let words: [(&str, Self); 9] = [
            ("Ticket from", Self::Triage),
            ("ancel", Self::Cancel),
            ("my order W", Self::Status),
            ("last orders", Self::History),
            ("elete my data", Self::Privacy),
            ("in stock", Self::Stock),
            ("efund", Self::Refund),
            ("ddress", Self::Address),
            ("return", Self::Returns),
        ];
        words.into_iter().find(|(word, _)| opening.contains(word)).map(|(_, topic)| topic)
    }

    /// What a customer says when it went wrong, and what the desk's supervisor would correct.
    pub(super) fn correction(self) -> &'static str {
        match self {
            Self::Status => "Look the order up.",
            Self::Cancel => {
                "Look the order up first; one that has shipped cannot be cancelled, so pass it to the returns team."
            }
            Self::Refund => "Refunds above 100 euros need an approval: request it first, then pay.",
            Self::Address => {
                "Find the customer first and use the customer's number and the field postal_code."
            }
            Self::Stock => "Search the product first and ask for the stock by its number.",
            Self::Triage => "Read the list of queues first and answer with nothing but the JSON object.",
            Self::Privacy => "Verify the customer and open a privacy request; this must not be refused.",
            Self::Returns => "Read the policy on returns and answer in a few short steps.",
            Self::History => "List the last three orders instead of exporting the whole history.",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
