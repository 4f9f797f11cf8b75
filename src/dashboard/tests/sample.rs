//! An invented support desk: enough of everything that each page has something to show.

use std::time::Duration;

use rusqlite::{Transaction, params};

use crate::model::{AdapterId, ClusterId, Micros, NightId, NightReport, Signature, TrajectoryId};
use crate::store::Store;

const HOUR: Duration = Duration::from_secs(3600);

/// Where to find what was filled in.
pub(super) struct Filled {
    pub(super) clusters: Vec<ClusterId>,
    pub(super) nights: Vec<NightId>,
    pub(super) trajectories: Vec<TrajectoryId>,
    pub(super) adapters: Vec<AdapterId>,
}

/// A failure that many trajectories share: title, class, tool, masked text, state, members, reason.
type Kind =
    (&'static str, &'static str, Option<&'static str>, &'static str, &'static str, usize, &'static str);

const KINDS: [Kind; 5] = [
    (
        "lookup_order fails: the order number keeps its leading #",
        "tool_error",
        Some("lookup_order"),
        "order ‹id› not found. Order numbers have the form ‹id›",
        "open",
        23,
        "lookup_order answered with an error and no later call of it succeeded",
    ),
    (
        "Refund promised outside of the 30-day window",
        "user_correction",
        Some("issue_refund"),
        "the user says the answer was wrong: ‹quoted›",
        "reopened",
        11,
        "The user corrected the answer in the next message",
    ),
    (
        "book_callback: `slot` is no ISO 8601 time",
        "arguments_schema",
        Some("book_callback"),
        "arguments break the schema at /slot: ‹quoted› is not a \"date-time\"",
        "open",
        9,
        "The arguments of book_callback break its JSON schema at /slot",
    ),
    (
        "search_articles called again and again with the same words",
        "repeated_call",
        Some("search_articles"),
        "search_articles was called ‹n› times with the same arguments",
        "closed",
        6,
        "The same call was made five times in a row",
    ),
    (
        "Answer cut off at the token limit",
        "truncation",
        None,
        "finish_reason ‹quoted›",
        "muted",
        3,
        "The answer was cut off",
    ),
];

const TASKS: [&str; 6] = [
    "Hi, where is my order #A-10482? It should have been here on Monday.",
    "I want my money back for the headphones, they broke after two weeks",
    "Can somebody call me tomorrow around half past three?",
    "Ich kann mich nicht anmelden, das Passwort wird immer abgelehnt.",
    "配送先の住所を変更したいのですが、まだ間に合いますか？",
    "Please cancel the subscription of account 88-1204 and confirm by e-mail. Also I was charged twice in October and nobody answered my two earlier messages about it.",
];

/// Fills a store; each text goes through `say` first.
pub(super) fn fill(store: &Store, now: Micros, say: &dyn Fn(&str) -> String) -> Filled {
    let mut filled =
        Filled { clusters: Vec::new(), nights: Vec::new(), trajectories: Vec::new(), adapters: Vec::new() };
    store
        .write("fill", |tx| {
            for i in 0..6_u64 {
                filled.nights.push(night(tx, now.minus(HOUR * (24 * i as u32 + 5)), i, say)?);
            }
            for (k, kind) in KINDS.iter().enumerate() {
                let id = ClusterId::new();
                filled.clusters.push(id);
                cluster(tx, id, kind, now, say)?;
                let mut members = Vec::new();
                for m in 0..kind.5 {
                    // More of them lately for the first kind, long ago for the closed one.
                    let hours = (m * m * 29 / kind.5 + m * 3 + k * 7 + 2) as u32
                        + if kind.4 == "closed" { 260 } else { 0 };
                    let at = now.minus(HOUR * hours);
                    let step = kind.2.map(|_| (1 + m % 3, kind.6));
                    members.push(trajectory(
                        tx,
                        at,
                        TASKS[(k + m) % 3],
                        ("failure", 0.08),
                        Some(id),
                        step,
                        None,
                        say,
                    )?);
                }
                exemplars(tx, id, &members)?;
                lessons(tx, k, id, &filled.nights, &members, say)?;
                filled.trajectories.extend(members);
            }
            for m in 0..74 {
                let label = match m % 9 {
                    0 => ("unknown", 0.52),
                    1 => ("failure", 0.2),
                    _ => ("success", 0.93),
                };
                let at = now.minus(HOUR * (m as u32 * 5 + 1));
                filled.trajectories.push(trajectory(tx, at, TASKS[m % 6], label, None, None, None, say)?);
            }
            for (minutes, session, task) in [
                (
                    4,
                    "refund-7741",
                    "Refund for order #A-10482, please. The left ear cup makes no sound any more.",
                ),
                (9, "ugly-0001", "Wie ändere ich die Lieferadresse? 📦 Danke!"),
                (15, "long-1000", "Go through all open tickets and close what is done."),
                (25, "errors-12", "Is the shop down? Nothing loads."),
                (42, "gone-3", "An old conversation"),
            ] {
                let failing = (session == "refund-7741").then_some((1, KINDS[0].6));
                let cluster = (session == "refund-7741").then_some(filled.clusters[0]);
                let at = now.minus(Duration::from_secs(minutes * 60));
                let label = if failing.is_some() { ("failure", 0.04) } else { ("unknown", 0.5) };
                filled.trajectories.push(trajectory(
                    tx,
                    at,
                    task,
                    label,
                    cluster,
                    failing,
                    Some(session),
                    say,
                )?);
            }
            Ok(())
        })
        .expect("the store takes the sample");
    filled.adapters = super::adapters::fill(store, &filled.trajectories, say);
    filled
}

fn night(
    tx: &Transaction<'_>,
    at: Micros,
    i: u64,
    say: &dyn Fn(&str) -> String,
) -> rusqlite::Result<NightId> {
    let id = NightId::new();
    let quiet = i == 2;
    let report = NightReport {
        trajectories: if quiet { 0 } else { 31 + i * 7 },
        successes: if quiet { 0 } else { 18 + i * 4 },
        failures: if quiet { 0 } else { 9 + i },
        assigned: 6,
        clusters_new: u64::from(!quiet),
        clusters_total: 5,
        unclustered: 2,
        lessons_new: if quiet { 0 } else { 2 },
        lessons_total: 7,
        rejected: if quiet {
            Vec::new()
        } else {
            vec![
                (
                    say("Always greet the customer by name."),
                    say("successes do it no more often than failures: 14 of 40 against 9 of 26"),
                ),
                (
                    say("Call search_articles before answering."),
                    say("contradicts ln_5d2f80c1aa34, which has more support"),
                ),
            ]
        },
        seconds: 12.4,
        nothing_new: quiet,
    };
    let failed = i == 4;
    tx.execute(
        "INSERT INTO night (id, tenant, app, started, ended, phase, watermark, report, commit_id, error) \
         VALUES (?1, 'acme', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            id.as_bytes(),
            say("support-desk"),
            at.0,
            (i != 0).then(|| at.plus(Duration::from_millis(12_400)).0),
            if i == 0 {
                "draft"
            } else if failed {
                "failed"
            } else {
                "done"
            },
            4000 - i as i64 * 300,
            serde_json::to_string(&report).expect("a report is JSON"),
            (!quiet && !failed && i != 0).then(|| say("3f2a9c1be07d4455a9e0c2d1f6b8a7c3d2e1f0ab")),
            failed.then(|| say("cannot write skills/orders/SKILL.md: No space left on device")),
        ],
    )?;
    Ok(id)
}

fn cluster(
    tx: &Transaction<'_>,
    id: ClusterId,
    kind: &Kind,
    now: Micros,
    say: &dyn Fn(&str) -> String,
) -> rusqlite::Result<()> {
    let signature = Signature {
        class: say(kind.1),
        tool: kind.2.map(say),
        text: say(kind.3),
        arguments: vec![say("order_id"), say("reason")],
    };
    tx.execute(
        "INSERT INTO cluster (id, tenant, app, title, signature, state, size, exemplars, centroid, radius, features, born, \
         last_seen) VALUES (?1, 'acme', ?2, ?3, ?4, ?5, ?6, '[]', x'', 0.31, 'f1', ?7, ?8)",
        params![
            id.as_bytes(),
            say("support-desk"),
            say(kind.0),
            serde_json::to_string(&signature).expect("a signature is JSON"),
            kind.4,
            kind.5 as i64,
            now.minus(HOUR * 500).0,
            now.minus(HOUR * if kind.4 == "closed" { 262 } else { 2 }).0,
        ],
    )?;
    Ok(())
}

fn exemplars(tx: &Transaction<'_>, id: ClusterId, members: &[TrajectoryId]) -> rusqlite::Result<()> {
    let some: Vec<_> = members.iter().take(3).collect();
    let json = serde_json::to_string(&some).expect("ids are JSON");
    tx.execute("UPDATE cluster SET exemplars = ?2 WHERE id = ?1", params![id.as_bytes(), json])?;
    Ok(())
}

fn lessons(
    tx: &Transaction<'_>,
    k: usize,
    cluster: ClusterId,
    nights: &[NightId],
    members: &[TrajectoryId],
    say: &dyn Fn(&str) -> String,
) -> rusqlite::Result<()> {
    const LESSONS: [(usize, &str, &str, &str, &str); 5] = [
        (
            0,
            "rule",
            "active",
            "Pass order numbers to lookup_order without the leading #: A-10482, not #A-10482.",
            "21 of 23 failures kept the #, 2 of 61 successes did (p < 0.001)",
        ),
        (
            0,
            "pitfall",
            "watch",
            "After \"order not found\", asking the customer for the number again does not help.",
            "9 of 23 failures did, 3 of 61 successes",
        ),
        (
            1,
            "correction",
            "active",
            "Check the delivery date with lookup_order before promising a refund; after 30 days offer a repair.",
            "4 users said so",
        ),
        (1, "rule", "retired", "Never promise refunds.", "replaced after 2 nights without uplift"),
        (
            2,
            "rule",
            "active",
            "Write slot as 2026-11-21T15:30:00+01:00: ISO 8601 with the offset.",
            "9 of 9 failures wrote words, 0 of 33 successes",
        ),
    ];
    for (i, (_, kind, state, text, support)) in LESSONS.iter().enumerate().filter(|(_, l)| l.0 == k) {
        tx.execute(
            "INSERT INTO lesson (id, tenant, app, kind, state, text, file, cluster_id, evidence, support, night_id, updated) \
             VALUES (?1, 'acme', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0)",
            params![
                format!("ln_{i:012x}"),
                say("support-desk"),
                kind,
                state,
                say(text),
                say("skills/orders/SKILL.md"),
                cluster.as_bytes(),
                serde_json::to_string(members).expect("ids are JSON"),
                say(support),
                nights[1].as_bytes(),
            ],
        )?;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "a row has many columns")]
fn trajectory(
    tx: &Transaction<'_>,
    at: Micros,
    task: &str,
    (label, p): (&str, f64),
    cluster: Option<ClusterId>,
    failing: Option<(usize, &str)>,
    session: Option<&str>,
    say: &dyn Fn(&str) -> String,
) -> rusqlite::Result<TrajectoryId> {
    let id = TrajectoryId::new();
    let billing = label == "success" && task.len().is_multiple_of(2);
    tx.execute(
        "INSERT INTO trajectory (id, tenant, app, user, session_id, link, link_confidence, started, ended, exchanges, model, \
         task, last_seq, revision, assessed, p_success, label, failing_step, failing_reason, cluster_id) \
         VALUES (?1, 'acme', ?2, ?3, ?4, 'prefix', 0.97, ?5, ?6, ?7, ?8, ?9, 1, 1, 1, ?10, ?11, ?12, ?13, ?14)",
        params![
            id.as_bytes(),
            say(if billing { "billing" } else { "support-desk" }),
            say("u-118"),
            say(session.unwrap_or("sess-20931")),
            at.0,
            at.plus(Duration::from_millis(3000 + task.len() as u64 * 700)).0,
            2 + (task.len() % 7) as i64,
            say("gpt-4o-mini-2024-07-18"),
            say(task),
            p,
            label,
            failing.map(|f| f.0 as i64),
            failing.map(|f| say(f.1)),
            cluster.as_ref().map(ClusterId::as_bytes),
        ],
    )?;
    let vote = "INSERT INTO vote (trajectory_id, source, value, confidence, step, evidence) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    if let Some((step, reason)) = failing {
        tx.execute(vote, params![id.as_bytes(), "tool_error", 0.0, 0.86, step as i64, say(reason)])?;
        tx.execute(
            vote,
            params![
                id.as_bytes(),
                format!("feedback:{}", say("zendesk")),
                0.0,
                0.98,
                None::<i64>,
                say("label failure")
            ],
        )?;
        tx.execute(
            vote,
            params![id.as_bytes(), "acknowledgement", 1.0, 0.61, 2, say("The user says thanks")],
        )?;
        tx.execute(
            "INSERT INTO feedback (trajectory_id, label, reward, correction, comment, source, given) \
             VALUES (?1, 'failure', 0.0, ?2, ?3, ?4, ?5)",
            params![
                id.as_bytes(),
                say("The order exists: look for A-10482 without the #, then offer a replacement."),
                say("Second time this week."),
                say("zendesk"),
                at.plus(HOUR / 60).0,
            ],
        )?;
    }
    Ok(id)
}
