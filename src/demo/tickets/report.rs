use serde_json::{Value, json};

use super::day::{Day, Feedback};
use crate::demo::report::{Style, line, wrap};

/// Everything that was measured.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub model: &'a str,
    pub seed: u64,
    /// The corrections were dealt out at random: nothing is to be learned from them, and the gate has to notice.
    pub shuffled: bool,
    /// The base model at the plain prompt, on the messages that were then corrected.
    pub corrected_on: &'a Day,
    pub feedback: Feedback,
    /// The base model at its best prompt, on the messages of day 2.
    pub day1: &'a Day,
    pub night: &'a Night,
    /// The alias after the night, on messages never seen.
    pub day2: &'a Day,
    pub forgotten: Forgotten,
    /// The whole demo.
    pub seconds: f64,
    pub dashboard: &'a str,
}

/// What the night made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Night {
    pub learned_from: usize,
    pub held_out: usize,
    /// Whether the adapter passed its gate.
    pub kept: bool,
    /// The adapter's id, and the name that it answers to.
    pub version: Option<String>,
    pub alias: String,
    /// What the gate saw, a line each.
    pub said: Vec<String>,
    pub seconds: f64,
}

/// What it cost elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forgotten {
    /// On general text, of the base and of the adapter; none where no adapter was made.
    pub perplexity: Option<(f64, f64)>,
    /// Unrelated questions, and how many of them the base and the alias answer.
    pub questions: usize,
    pub answered: (usize, usize),
}

impl Forgotten {
    /// The rise of perplexity, as a share.
    #[must_use]
    pub fn rise(&self) -> Option<f64> {
        self.perplexity.map(|(before, after)| after / before - 1.0)
    }
}

fn percent(part: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { 100.0 * part as f64 / of as f64 }
}

/// What was asked, how much of it came out right, and what the rest lacks.
fn figures(out: &mut String, asked: &str, day: &Day) {
    let n = day.n();
    let share = |part| percent(part, n);
    wrap(
        out,
        "  ",
        &format!("{asked}: {} of {n} exactly right ({:.0} %)", day.exact(), share(day.exact())),
        str::to_owned,
    );
    let (valid, queue, order) = (share(day.valid()), share(day.queue()), share(day.order_id()));
    let rest = format!(
        "valid JSON {valid:.0} %, queue {queue:.0} %, order number {order:.0} %, in {:.0} s",
        day.seconds
    );
    line(out, &format!("    {rest}"));
}

/// For people.
#[must_use]
pub fn text(report: &Report<'_>, style: Style) -> String {
    let mut text = String::new();
    let out = &mut text;
    let told = |out: &mut String, said: &str| wrap(out, "  ", said, str::to_owned);
    let Report { corrected_on, feedback, day1, night, day2, forgotten, .. } = report;
    line(out, &style.bold(&format!("Day 1: {} sorts support messages", report.model)));
    figures(out, "as the app asks, the messages to learn from", corrected_on);
    figures(out, "at its best prompt, the messages of day 2", day1);
    let dealt = if report.shuffled { ", dealt out at random" } else { "" };
    told(out, &format!("people gave {} corrections{dealt}", feedback.corrected));
    line(out, "");
    line(out, &style.bold("The night"));
    let Night { learned_from, held_out, seconds, .. } = night;
    told(out, &format!("learned from {learned_from}, tested on {held_out} held out, in {seconds:.0} s"));
    for said in &night.said {
        told(out, said);
    }
    let decided = match &night.version {
        Some(version) if night.kept => format!("kept: {version} answers as {} from now on", night.alias),
        _ => format!("refused: {} stays the base", night.alias),
    };
    told(out, &decided);
    line(out, "");
    line(out, &style.bold("Day 2: messages never seen"));
    figures(out, "as the app asks", day2);
    let gain = percent(day2.exact(), day2.n()) - percent(day1.exact(), day1.n());
    told(out, &format!("{gain:+.0} points on the base at its best prompt"));
    line(out, "");
    line(out, &style.bold("What it cost"));
    if let (Some((before, after)), Some(rise)) = (forgotten.perplexity, forgotten.rise()) {
        let rise = 100.0 * rise;
        let whose = if night.kept { "with the adapter" } else { "with what was refused" };
        told(
            out,
            &format!("perplexity on general text: {before:.2} before, {after:.2} {whose} ({rise:+.1} %)"),
        );
    }
    let (before, after) = forgotten.answered;
    told(
        out,
        &format!(
            "unrelated questions answered: {before} of {n} by the base, {after} by {}",
            night.alias,
            n = forgotten.questions
        ),
    );
    told(out, &format!("{:.0} s in all, seed {}", report.seconds, report.seed));
    line(out, "");
    line(out, &format!("{}  {}", style.bold("Dashboard"), report.dashboard));
    text
}

/// The same as one JSON object.
#[must_use]
pub fn json(report: &Report<'_>) -> Value {
    let day = |day: &Day| {
        json!({
            "n": day.n(), "success": day.exact(), "valid": day.valid(), "queue": day.queue(),
            "order_id": day.order_id(), "seconds": day.seconds,
        })
    };
    let Report { feedback, night, forgotten, .. } = report;
    json!({
        "model": report.model, "seed": report.seed, "shuffled": report.shuffled,
        "day1": day(report.day1), "day1_plain": day(report.corrected_on), "day2": day(report.day2),
        "corrections": feedback.corrected, "confirmed": feedback.confirmed, "feedback_refused": feedback.refused,
        "night": {
            "learned_from": night.learned_from, "held_out": night.held_out, "kept": night.kept,
            "version": night.version, "alias": night.alias, "said": night.said, "seconds": night.seconds,
        },
        "forgotten": {
            "perplexity_before": forgotten.perplexity.map(|p| p.0),
            "perplexity_after": forgotten.perplexity.map(|p| p.1), "perplexity_rise": forgotten.rise(),
            "questions": forgotten.questions, "answered_before": forgotten.answered.0,
            "answered_after": forgotten.answered.1,
        },
        "seconds": report.seconds, "dashboard": report.dashboard,
    })
}
