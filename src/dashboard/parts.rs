//! Small parts that several pages show. Each has its own escaping template, so that it may stand in others as it is.

use std::time::Duration;

use askama::Template;
use askama::filters::HtmlSafe;

use super::text::{self, Text};
use crate::model::{Label, Micros};
use crate::store::ClusterView;

/// A moment: how long ago, with the absolute time in its title.
#[derive(Debug, Template)]
#[template(path = "parts/when.html")]
pub(super) struct When {
    absolute: String,
    relative: String,
}
impl HtmlSafe for When {}

impl When {
    pub(super) fn new(moment: Micros, now: Micros) -> Self {
        let (ago, ahead) = (moment.until(now), now.until(moment));
        let relative = match (coarse(ago), coarse(ahead)) {
            (Some(ago), _) => format!("{ago} ago"),
            (None, Some(ahead)) => format!("in {ahead}"),
            (None, None) if ago.is_zero() && ahead.is_zero() => "now".into(),
            (None, None) => moment.day(),
        };
        // Clocks of two machines differ a little; nobody wants to read "in 1 s" of the past.
        let relative =
            if ahead < Duration::from_secs(2) && !ahead.is_zero() { "now".into() } else { relative };
        Self { absolute: moment.utc().format("%Y-%m-%d %H:%M:%S UTC").to_string(), relative }
    }
}

/// A span in its largest unit; none for zero and for more than 60 days, where the date says more.
fn coarse(span: Duration) -> Option<String> {
    let s = span.as_secs();
    match s {
        _ if span.is_zero() => None,
        0..60 => Some(format!("{s} s")),
        60..3600 => Some(format!("{} min", s / 60)),
        3600..172_800 => Some(format!("{} h", s / 3600)),
        172_800..5_184_000 => Some(format!("{} days", s / 86_400)),
        _ => None,
    }
}

/// How a trajectory ended: the verdict and its probability.
#[derive(Debug, Template)]
#[template(path = "parts/verdict.html")]
pub(super) struct Verdict {
    label: &'static str,
    p_success: Option<String>,
}
impl HtmlSafe for Verdict {}

impl Verdict {
    pub(super) fn new(label: Label, p_success: Option<f64>) -> Self {
        Self { label: label.as_str(), p_success: p_success.map(|p| format!("{p:.2}")) }
    }
}

/// Days of a sparkline.
pub(super) const SPARK_DAYS: i64 = 30;
/// Width and height of a sparkline in its own units: four a day, one of them the gap.
const SPARK: (i64, u64) = (4 * SPARK_DAYS, 28);

/// Failures by day, as bars.
#[derive(Debug, Template)]
#[template(path = "parts/sparkline.html")]
pub(super) struct Sparkline {
    bars: Vec<Bar>,
    width: i64,
    height: u64,
    /// What the picture shows, in words.
    words: String,
}
impl HtmlSafe for Sparkline {}

#[derive(Debug)]
struct Bar {
    x: i64,
    y: u64,
    height: u64,
    words: String,
}

impl Sparkline {
    /// From when on days are shown.
    pub(super) fn since(now: Micros) -> Micros {
        Micros((now.0.div_euclid(DAY) - SPARK_DAYS + 1) * DAY)
    }

    pub(super) fn new(by_day: &[(i64, u64)], now: Micros) -> Self {
        let (width, height) = SPARK;
        let first = Self::since(now).0 / DAY;
        let shown = || by_day.iter().filter(|(day, n)| (first..first + SPARK_DAYS).contains(day) && *n > 0);
        let most = shown().map(|(_, n)| *n).max().unwrap_or(1);
        let bars = shown()
            .map(|(day, n)| {
                let tall = (n * (height - 2)).div_ceil(most).max(3);
                let words = format!("{}: {}", Micros(day * DAY).day(), text::count(*n));
                Bar { x: (day - first) * 4, y: height - 1 - tall, height: tall, words }
            })
            .collect();
        let total: u64 = shown().map(|(_, n)| n).sum();
        Self { bars, width, height, words: format!("{} in {SPARK_DAYS} days", text::count(total)) }
    }
}

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// A longer text: shown whole when short, folded when long, and never more than a limit of it.
#[derive(Debug, Template)]
#[template(path = "parts/block.html")]
pub(super) struct Block {
    /// What stands for the text while it is folded; none where it is not.
    preview: Option<Text>,
    open: bool,
    shown: Text,
    /// Columns line up in it: code, tables, JSON.
    mono: bool,
    /// Its whole length in words.
    size: String,
    /// Whether only the beginning is shown.
    cut: bool,
}
impl HtmlSafe for Block {}

/// Bytes shown of one text. A page shows at most some hundred texts.
const SHOWN: usize = 16 * 1024;
/// A text with more lines or characters is folded.
const FOLD_LINES: usize = 16;
const FOLD_CHARS: usize = 1200;
/// What is shown of a folded text.
const PREVIEW_LINES: usize = 4;
const PREVIEW_CHARS: usize = 320;
/// Longer JSON is shown as it is: indenting is for what a person reads.
const INDENTED: usize = 128 * 1024;

impl Block {
    /// What somebody said; JSON is indented.
    pub(super) fn new(text: &str) -> Self {
        match json(text) {
            Some(indented) => Self::of(&indented, text.len(), true),
            None => Self::of(
                text,
                text.len(),
                text.contains("```") || text.contains("\n|") || text.contains("\n  "),
            ),
        }
    }

    /// Code, data, log lines.
    pub(super) fn mono(text: &str) -> Self {
        Self { mono: true, ..Self::new(text) }
    }

    /// Unfolded from the start: what the page is about.
    pub(super) fn opened(self, open: bool) -> Self {
        Self { open, ..self }
    }

    fn of(text: &str, length: usize, mono: bool) -> Self {
        let shown = text::beginning(text, SHOWN);
        let lines = shown.lines().take(FOLD_LINES + 1).count();
        let long = lines > FOLD_LINES || shown.chars().nth(FOLD_CHARS).is_some();
        let preview = long.then(|| {
            let end = shown.match_indices('\n').nth(PREVIEW_LINES - 1).map_or(shown.len(), |(at, _)| at);
            let end = shown.char_indices().nth(PREVIEW_CHARS).map_or(end, |(at, _)| at.min(end));
            Text::of(format!("{} …", &shown[..end]))
        });
        let cut = shown.len() < text.len();
        Self { preview, open: false, shown: Text::of(shown), mono, size: text::bytes(length), cut }
    }
}

fn json(text: &str) -> Option<String> {
    (text.len() <= INDENTED).then(|| text::indented_json(text)).flatten()
}

/// A part of a whole with the numbers it comes from: `12 of 48 failures, 25 %`.
#[derive(Debug, Template)]
#[template(path = "parts/share.html")]
pub(super) struct Share {
    part: String,
    whole: String,
    percent: String,
}
impl HtmlSafe for Share {}

impl Share {
    /// Of the failures of the cluster's scope.
    pub(super) fn of(view: &ClusterView) -> Self {
        Self {
            part: text::count(view.failures),
            whole: text::count(view.scope_failures),
            percent: text::percent(view.failures, view.scope_failures),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_795_000_000_000_000);

    fn ago(seconds: u64) -> String {
        When::new(NOW.minus(Duration::from_secs(seconds)), NOW).relative
    }

    #[test]
    fn moments_are_relative_until_the_date_says_more() {
        assert_eq!(
            [0, 5, 60, 7200, 200_000].map(ago),
            ["now", "5 s ago", "1 min ago", "2 h ago", "2 days ago"]
        );
        assert_eq!(ago(100 * 86_400), NOW.minus(Duration::from_secs(100 * 86_400)).day());
        assert_eq!(When::new(NOW.plus(Duration::from_secs(120)), NOW).relative, "in 2 min");
    }

    #[test]
    fn a_sparkline_has_a_bar_for_each_day_with_failures_and_none_outside() {
        let today = NOW.0 / DAY;
        let spark = Sparkline::new(&[(today - 40, 9), (today - 29, 1), (today, 4)], NOW);
        assert_eq!(spark.bars.iter().map(|b| b.x).collect::<Vec<_>>(), [0, 116]);
        assert!(spark.bars.iter().all(|b| b.y + b.height < spark.height));
        assert_eq!(spark.words, "5 in 30 days");
    }

    #[test]
    fn a_megabyte_shows_its_beginning_and_its_length() {
        let block = Block::new(&"x y ".repeat(250_000));
        assert!(block.cut && block.preview.is_some() && block.shown.as_str().len() <= SHOWN);
        let html = block.render().expect("renders");
        assert!(html.len() < 2 * SHOWN && html.contains("1.0 MB"), "{}", html.len());
    }

    #[test]
    fn a_short_text_stands_unfolded() {
        let block = Block::new("Hello,\nI want a refund.");
        assert!(block.preview.is_none() && !block.cut && !block.mono);
    }
}
