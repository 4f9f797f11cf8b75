//! Steps of a trajectory over time, beside its messages.

use askama::Template;
use askama::filters::HtmlSafe;

use super::text::{self, Text};
use crate::model::{Ended, Step};

/// Width of a bar's picture in its own units; the page scales it.
const WIDTH: f64 = 1000.0;
/// Narrower bars could not be seen.
const THIN: f64 = 6.0;
/// A pause is drawn at most this part of the time in which something ran: a user who answers the next day would
/// else leave all steps as hairlines.
const PAUSE: f64 = 0.1;

/// One row a step: when it started, how long until the first byte, how long in all, how many tokens.
#[derive(Debug, Template)]
#[template(path = "parts/waterfall.html")]
pub(super) struct Waterfall {
    rows: Vec<Row>,
    /// Steps left out because they stand on other pages.
    elsewhere: usize,
}
impl HtmlSafe for Waterfall {}

#[derive(Debug)]
struct Row {
    step: usize,
    href: String,
    /// Whether this row is where `#step-N` leads, for want of a message.
    anchor: bool,
    /// `2 h later`, where a pause was drawn shorter than it was.
    pause: Option<String>,
    /// Of the bar: start, width until the first byte, width after it.
    bar: (String, String, String),
    after: String,
    duration: String,
    tokens: Option<String>,
    /// All numbers in a sentence.
    words: Text,
    failing: bool,
    /// What is unusual: no answer, an error, another branch.
    note: Option<String>,
}

/// Where the rows lead, and which there are.
pub(super) struct Links<'a> {
    /// Indices of the steps to show, in order.
    pub(super) shown: &'a [usize],
    pub(super) failing: Option<usize>,
    /// The address of a step.
    pub(super) href: &'a dyn Fn(usize) -> String,
}

impl Waterfall {
    pub(super) fn new(steps: &[Step], links: &Links<'_>) -> Self {
        let shown: Vec<&Step> = links.shown.iter().filter_map(|i| steps.get(*i)).collect();
        let scale = Scale::over(&shown);
        let rows = links.shown.iter().filter_map(|i| Some(row(*i, steps.get(*i)?, &scale, links))).collect();
        Self { rows, elsewhere: steps.len() - links.shown.len().min(steps.len()) }
    }
}

fn row(index: usize, step: &Step, scale: &Scale, links: &Links<'_>) -> Row {
    let start = step.started.0;
    let end = step.started.plus(step.duration).0;
    let x = scale.at(start).min(WIDTH - THIN);
    let width = (scale.at(end) - x).max(THIN);
    let first =
        step.time_to_first_byte.map_or(width, |t| scale.at(step.started.plus(t).0) - x).clamp(0.0, width);
    let tokens = step.usage.and_then(|u| {
        (u.input_tokens.is_some() || u.output_tokens.is_some()).then(|| {
            let [from, to] =
                [u.input_tokens, u.output_tokens].map(|n| n.map_or_else(|| "–".into(), text::count));
            format!("{from} → {to}")
        })
    });
    let mut words = format!("Step {index}: {}", text::duration(step.duration));
    if let Some(t) = step.time_to_first_byte {
        words += &format!(", first byte after {}", text::duration(t));
    }
    if let Some(tokens) = &tokens {
        words += &format!(", tokens in → out {tokens}");
    }
    if let Some(model) = &step.model {
        words += &format!(", {model}");
    }
    Row {
        step: index,
        href: (links.href)(index),
        anchor: step.message.is_none(),
        pause: scale.pause_before(start).map(text::duration),
        bar: (format!("{x:.1}"), format!("{first:.1}"), format!("{:.1}", width - first)),
        after: format!("{:.1}", x + first),
        duration: text::duration(step.duration),
        tokens,
        words: Text::line(words, 300),
        failing: links.failing == Some(index),
        note: note(step),
    }
}

/// What is unusual about a step.
pub(super) fn note(step: &Step) -> Option<String> {
    match (step.status, step.ended) {
        (Some(status), _) if status >= 400 => Some(format!("HTTP {status}")),
        (
            _,
            ended @ (Ended::ClientCancelled
            | Ended::UpstreamReset
            | Ended::UpstreamTimeout
            | Ended::Interrupted),
        ) => Some(ended.as_str().replace('_', " ")),
        (None, _) => Some("no answer".into()),
        _ if step.message.is_none() => Some("other branch".into()),
        _ => None,
    }
}

/// From moments to places, long pauses drawn short.
struct Scale {
    /// Stretches of time in order, alternately busy and idle: (start, end, drawn start, drawn length).
    stretches: Vec<(i64, i64, f64, f64)>,
}

impl Scale {
    fn over(steps: &[&Step]) -> Self {
        let mut spans: Vec<(i64, i64)> =
            steps.iter().map(|s| (s.started.0, s.started.plus(s.duration).0.max(s.started.0 + 1))).collect();
        spans.sort_unstable();
        let mut busy: Vec<(i64, i64)> = Vec::new();
        for (start, end) in spans {
            match busy.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => busy.push((start, end)),
            }
        }
        let total: f64 = busy.iter().map(|(a, b)| (b - a) as f64).sum();
        let mut stretches: Vec<(i64, i64, f64, f64)> = Vec::new();
        let mut drawn = 0.0;
        for (start, end) in busy {
            if let Some(&(_, before, ..)) = stretches.last() {
                let length = ((start - before) as f64).min(total * PAUSE);
                stretches.push((before, start, drawn, length));
                drawn += length;
            }
            stretches.push((start, end, drawn, (end - start) as f64));
            drawn += (end - start) as f64;
        }
        for (.., at, length) in &mut stretches {
            *at *= WIDTH / drawn;
            *length *= WIDTH / drawn;
        }
        Self { stretches }
    }

    /// 0 to [`WIDTH`].
    fn at(&self, moment: i64) -> f64 {
        let next = self.stretches.partition_point(|(start, ..)| *start <= moment);
        let Some((start, end, at, length)) = next.checked_sub(1).and_then(|i| self.stretches.get(i)) else {
            return 0.0;
        };
        at + length * ((moment - start) as f64 / (end - start) as f64).min(1.0)
    }

    /// How long nothing ran before `moment`, where that was drawn shorter than it was.
    fn pause_before(&self, moment: i64) -> Option<std::time::Duration> {
        let place = self.stretches.iter().position(|(start, ..)| *start == moment)?;
        let (start, end, _, length) = self.stretches.get(place.checked_sub(1)?)?;
        let (busy_start, busy_end, _, busy_length) = self.stretches.get(place)?;
        let fair = (end - start) as f64 * busy_length / (busy_end - busy_start) as f64;
        let pause = std::time::Duration::from_micros(u64::try_from(end - start).ok()?);
        (fair > length * 1.01 && pause.as_secs() >= 1).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{ExchangeId, Micros};

    fn step(start_ms: i64, ms: u64) -> Step {
        Step {
            exchange: ExchangeId::new(),
            response_id: None,
            message: Some(0),
            status: Some(200),
            ended: Ended::Complete,
            finish_reason: None,
            model: None,
            usage: None,
            started: Micros(start_ms * 1000),
            duration: Duration::from_millis(ms),
            time_to_first_byte: Some(Duration::from_millis(ms / 2)),
        }
    }

    #[test]
    fn a_long_pause_is_drawn_short_and_named() {
        let steps = [step(0, 1000), step(7_200_000, 1000)];
        let scale = Scale::over(&steps.each_ref());
        assert!(scale.at(1_000_000) > 400.0, "the first step keeps its width: {}", scale.at(1_000_000));
        assert_eq!(scale.pause_before(7_200_000_000), Some(Duration::from_secs(7199)));
        assert_eq!(scale.pause_before(0), None);
    }

    #[test]
    fn steps_that_follow_closely_are_drawn_to_scale() {
        let scale = Scale::over(&[&step(0, 1000), &step(1100, 900)]);
        assert!((scale.at(1_000_000) - 500.0).abs() < 1e-6);
        assert_eq!(scale.pause_before(1_100_000), None);
    }

    proptest! {
        #[test]
        fn places_keep_the_order_of_time(spans in prop::collection::vec((0..10_000_i64, 0..5000_u64), 1..20)) {
            let steps: Vec<_> = spans.iter().map(|(s, d)| step(*s, *d)).collect();
            let scale = Scale::over(&steps.iter().collect::<Vec<_>>());
            let places: Vec<f64> = (-1..16_000).step_by(50).map(|ms| scale.at(ms * 1000)).collect();
            prop_assert!(places.is_sorted());
            prop_assert!(places.iter().all(|p| (0.0..=WIDTH + 1e-6).contains(p)));
        }
    }
}
