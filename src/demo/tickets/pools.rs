use std::sync::LazyLock;

use serde::Deserialize;

use super::ticket::Queue;
use crate::demo::draw::draw;

/// Of each pool, one half is learned from and the other is not seen before day 2. Which is which hangs on the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    Learned,
    Unseen,
}

/// What messages are put together from: `pools.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pools {
    issues: Issues,
    pub orders: Vec<String>,
    pub asides: Vec<String>,
    pub greetings: Vec<String>,
    pub closings: Vec<String>,
    pub names: Vec<String>,
    pub products: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Issues {
    billing: Vec<String>,
    delivery: Vec<String>,
    account: Vec<String>,
    technical: Vec<String>,
}

impl Pools {
    pub(super) fn all() -> &'static Self {
        static ALL: LazyLock<Pools> = LazyLock::new(|| {
            serde_json::from_str(include_str!("pools.json")).expect("the file holds these pools")
        });
        &ALL
    }

    pub(super) fn issues(&self, queue: Queue) -> &[String] {
        match queue {
            Queue::Billing => &self.issues.billing,
            Queue::Delivery => &self.issues.delivery,
            Queue::Account => &self.issues.account,
            Queue::Technical => &self.issues.technical,
        }
    }
}

impl Half {
    /// This half of a pool, in an order that hangs on the seed.
    pub(super) fn of(self, pool: &'static [String], seed: u64, what: &str) -> Vec<&'static str> {
        let mut all: Vec<&str> = pool.iter().map(String::as_str).collect();
        all.sort_by_key(|item| draw(seed, what, item));
        let (learned, unseen) = all.split_at(all.len() / 2);
        match self {
            Self::Learned => learned.to_vec(),
            Self::Unseen => unseen.to_vec(),
        }
    }

    /// 0 or 1.
    pub(super) fn number(self) -> u64 {
        u64::from(self == Self::Unseen)
    }
}
