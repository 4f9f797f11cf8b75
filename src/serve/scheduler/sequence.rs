use std::sync::Arc;
use std::time::Instant;

use super::order::{Event, Failure, Finish, Order, Outlet};
use crate::serve::grammar::Grammar;
use crate::serve::sampling::{Sampler, Undecided};
use crate::serve::text::Text;
use crate::serve::voice::{Piece, Voice};

/// One answer on its way.
pub(super) struct Sequence {
    pub order: Arc<Order>,
    pub outlet: Arc<Outlet>,
    pub choice: usize,
    /// Tokens of the prompt that the slot holds.
    pub read: usize,
    /// Of them those that were there before.
    pub cached: usize,
    /// To be fed next; none while the prompt is being read.
    pub next: Option<u32>,
    pub since: Instant,
    said: usize,
    limit: usize,
    sampler: Sampler,
    grammar: Option<Grammar>,
    voice: Voice,
}

impl Sequence {
    /// `context`: tokens that a slot holds.
    pub(super) fn new(order: &Arc<Order>, outlet: &Arc<Outlet>, choice: usize, context: usize) -> Self {
        let left = context.saturating_sub(order.prompt(choice).len());
        Self {
            order: order.clone(),
            outlet: outlet.clone(),
            choice,
            read: 0,
            cached: 0,
            next: None,
            since: Instant::now(),
            said: 0,
            limit: order.limit.min(left),
            sampler: Sampler::new(order.sampling.clone(), choice % order.choices),
            grammar: order.grammar.as_ref().map(Grammar::another),
            voice: Voice::new(&order.stops),
        }
    }

    pub(super) fn prompt(&self) -> &[u32] {
        self.order.prompt(self.choice)
    }

    /// Whether the prompt is still being read.
    pub(super) fn reads(&self) -> bool {
        self.next.is_none()
    }

    /// Goes on by the token that these logits `[vocabulary]` lead to; true when the answer is complete.
    pub(super) fn advance(&mut self, logits: &mut [f32], text: &dyn Text) -> Result<bool, Failure> {
        // Models pad their vocabulary: behind it are no tokens.
        let size = text.vocabulary().min(logits.len());
        let logits = &mut logits[..size];
        let allowed = self.grammar.as_mut().map(Grammar::allowed).transpose().map_err(Failure::Stuck)?;
        let chosen = self.sampler.choose(logits, allowed.as_ref()).map_err(|undecided| match undecided {
            Undecided::NotANumber => Failure::Engine(undecided.to_string()),
            Undecided::NothingAllowed => Failure::Stuck(undecided.to_string()),
        })?;
        self.said += 1;
        let token = chosen.token;
        if self.order.stop_tokens.contains(&token) {
            self.finish(Finish::Stop);
            return Ok(true);
        }
        let complete = match &mut self.grammar {
            Some(grammar) => grammar.say(token).map_err(Failure::Stuck)?,
            None => false,
        };
        let piece = self.voice.say(token, text.bytes(token), chosen.likely);
        let stopped = piece.stopped;
        self.send(piece, self.said == 1);
        if stopped || complete || self.said == self.limit {
            let finish = if stopped || complete { Finish::Stop } else { Finish::Length };
            // Behind a stop string is nothing that counts.
            if stopped {
                self.end(finish)
            } else {
                self.finish(finish)
            }
            return Ok(true);
        }
        self.next = Some(token);
        Ok(false)
    }

    /// Sends what was held back, and the end.
    fn finish(&mut self, finish: Finish) {
        let piece = self.voice.end();
        self.send(piece, false);
        self.end(finish);
    }

    fn end(&self, finish: Finish) {
        let (choice, tokens, cached) = (self.choice, self.said, self.cached);
        self.outlet.send(Event::Ended { choice, finish, tokens, cached });
    }

    fn send(&self, piece: Piece, always: bool) {
        if always || !piece.text.is_empty() || !piece.told.is_empty() {
            self.outlet.send(Event::Said { choice: self.choice, text: piece.text, told: piece.told });
        }
    }
}
