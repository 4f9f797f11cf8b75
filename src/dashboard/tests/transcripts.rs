//! What was said in the invented support desk: plain, ugly, very long, and gone.

use std::time::Duration;

use crate::model::{
    Ended, ExchangeId, Message, Role, Scope, Step, Tool, ToolCall, Trajectory, TrajectoryId, Transcript,
    Usage,
};
use crate::store::{Store, StoreError};

/// Transcripts of the sessions of the sample; none for the others, as if their bodies were no longer kept.
pub(super) fn transcript(store: &Store, id: TrajectoryId) -> Result<Option<Transcript>, StoreError> {
    let Some(t) = store.trajectory(id)? else { return Ok(None) };
    Ok(match t.session_id.as_deref() {
        Some("refund-7741") => Some(refund(&t)),
        Some("ugly-0001") => Some(ugly(&t)),
        Some("long-1000") => Some(long(&t)),
        Some("errors-12") => Some(errors(&t)),
        Some("gone-3") => None,
        _ => Some(refund(&t)),
    })
}

/// A transcript whose every text is the trajectory's task.
pub(super) fn echo(store: &Store, id: TrajectoryId) -> Result<Option<Transcript>, StoreError> {
    let Some(t) = store.trajectory(id)? else { return Ok(None) };
    let text = || t.task.clone();
    let mut transcript = refund(&t);
    for m in &mut transcript.messages {
        m.text = text();
        m.name = Some(text());
        m.refusal = Some(text());
        m.reasoning = Some(text());
        m.tool_call_id = m.tool_call_id.as_ref().map(|_| text());
        for c in &mut m.tool_calls {
            *c = ToolCall { id: text(), name: text(), arguments: text() };
        }
    }
    for s in &mut transcript.steps {
        (s.model, s.finish_reason) = (Some(text()), Some(text()));
    }
    for tool in &mut transcript.tools {
        tool.name = text();
    }
    Ok(Some(transcript))
}

fn say(role: Role, text: &str) -> Message {
    Message { role, text: text.into(), ..Message::default() }
}

fn call(id: &str, name: &str, arguments: &str) -> Message {
    let tool_calls = vec![ToolCall { id: id.into(), name: name.into(), arguments: arguments.into() }];
    Message { role: Role::Assistant, tool_calls, ..Message::default() }
}

fn result(id: &str, text: &str) -> Message {
    Message { role: Role::Tool, text: text.into(), tool_call_id: Some(id.into()), ..Message::default() }
}

/// A step for each assistant message, one after the other with pauses.
fn with_steps(t: &Trajectory, messages: Vec<Message>) -> Transcript {
    let mut at = t.started;
    let mut steps = Vec::new();
    for (i, _) in messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
        let duration = Duration::from_millis(600 + (i as u64 * 733) % 2900);
        steps.push(Step {
            exchange: ExchangeId::new(),
            response_id: None,
            message: Some(i),
            status: Some(200),
            ended: Ended::Complete,
            finish_reason: Some(if messages[i].tool_calls.is_empty() { "stop" } else { "tool_calls" }.into()),
            model: Some("gpt-4o-mini-2024-07-18".into()),
            usage: Some(Usage {
                input_tokens: Some(1180 + i as u64 * 141),
                output_tokens: Some(24 + (i as u64 * 37) % 220),
                ..Usage::default()
            }),
            started: at,
            duration,
            time_to_first_byte: Some(duration / 3),
        });
        let pause =
            if messages.get(i + 1).is_some_and(|m| m.role == Role::User) { 1000 * 60 * 47 } else { 180 };
        at = at.plus(duration + Duration::from_millis(pause));
    }
    let tools = ["lookup_order", "issue_refund", "book_callback", "search_articles"];
    Transcript {
        trajectory: t.id,
        scope: Scope::default(),
        messages,
        steps,
        tools: tools
            .map(|n| Tool { name: n.into(), description: String::new(), parameters: serde_json::Value::Null })
            .into(),
        output_schema: None,
    }
}

fn refund(t: &Trajectory) -> Transcript {
    let policy = "You are the support agent of Acme Audio. Be short and kind.\n\n# Orders\n- Order numbers look like A-10482.\n- \
        Look an order up before you promise anything.\n\n# Refunds\n- Within 30 days of delivery.\n- After that: repair.\n";
    with_steps(
        t,
        vec![
            say(Role::System, &policy.repeat(5)),
            say(Role::User, &t.task),
            Message {
                text: "Let me look that up.".into(),
                reasoning: Some("The customer gives the order number. I call lookup_order with it.".into()),
                ..call(
                    "call_9fK2",
                    "lookup_order",
                    r##"{"order_id":"#A-10482","include":["items","shipments"]}"##,
                )
            },
            Message {
                tool_failed: true,
                ..result(
                    "call_9fK2",
                    r##"{"error":{"code":"not_found","message":"order #A-10482 not found. Order numbers have the form A-NNNNN"}}"##,
                )
            },
            call("call_9fK3", "lookup_order", r##"{"order_id":"#A-10482"}"##),
            Message {
                tool_failed: true,
                ..result(
                    "call_9fK3",
                    r##"{"error":{"code":"not_found","message":"order #A-10482 not found. Order numbers have the form A-NNNNN"}}"##,
                )
            },
            say(
                Role::Assistant,
                "I am sorry, I cannot find an order with that number. Could you check it again, please?",
            ),
            say(Role::User, "It is #A-10482, it says so in your own e-mail!"),
            say(Role::Assistant, "Thank you. Unfortunately there is no such order in our system."),
            say(Role::User, "Thanks for nothing."),
        ],
    )
}

fn ugly(t: &Trajectory) -> Transcript {
    let items: Vec<_> = (0..60)
        .map(|i| serde_json::json!({"sku": format!("HP-{i:04}"), "qty": i % 3 + 1, "price": 19.99, "tags": ["audio", "größe-ä"], "meta": {}}))
        .collect();
    with_steps(
        t,
        vec![
            say(Role::System, "Antworte höflich."),
            say(
                Role::User,
                "Wie ändere ich die Lieferadresse? 📦 👩\u{200d}💻 مرحبا بالعالم \u{202e}drow neddih\u{202c} and \u{1b}[31mred\u{1b}[0m, tag\u{e0041}\u{e0042}s, zero\u{200b}width",
            ),
            Message {
                name: Some("planner".into()),
                ..call(
                    "c1",
                    "search_articles",
                    &serde_json::json!({"q": "Lieferadresse", "filters": {"lang": "de", "items": items}})
                        .to_string(),
                )
            },
            result(
                "c1",
                "| Artikel | Titel | Stand |\n|---------|---------------------------|------------|\n| 118     | Lieferadresse ändern      | 2026-03-01 |\n| 1204    | 住所を変更する            | 2025-11-30 |\n",
            ),
            call("c2", "update_address", "{\"street\": \"Hauptstraße 5\", \"zip\": 0412"),
            result(
                "c2",
                "Traceback (most recent call last):\n  File \"/srv/app/tools.py\", line 118, in update_address\n    raise ValueError(\"zip\")\nValueError: <script>alert('zip')</script> & \"quotes\"",
            ),
            say(
                Role::Assistant,
                "So geht es:\n\n```python\nfor order in orders:\n    if order.open:\n        order.address = new\n```\n\n| Schritt | Was |\n|---|---|\n| 1 | Konto → Adressen |\n| 2 | **Speichern** |\n",
            ),
            say(Role::User, &"averylongwordwithoutanyspaces".repeat(40)),
            Message { refusal: Some("I cannot help with that.".into()), ..say(Role::Assistant, "") },
        ],
    )
}

fn long(t: &Trajectory) -> Transcript {
    let mut messages = vec![say(Role::System, "You triage tickets."), say(Role::User, &t.task)];
    for i in 0..333 {
        messages.push(call(&format!("c{i}"), "close_ticket", &format!("{{\"ticket\":{i}}}")));
        messages.push(result(
            &format!("c{i}"),
            if i == 2 { "log line with some words in it\n" } else { "{\"ok\":true}" },
        ));
        messages.push(say(Role::User, "next"));
    }
    messages[9].text = "0123456789abcdef log line\n".repeat(40_000);
    with_steps(t, messages)
}

fn errors(t: &Trajectory) -> Transcript {
    let mut transcript = with_steps(
        t,
        vec![say(Role::User, &t.task), say(Role::Assistant, ""), say(Role::Assistant, "No, all is well.")],
    );
    let first = transcript.steps[0].clone();
    let failed = |ended, status| Step {
        message: None,
        status,
        ended,
        usage: None,
        time_to_first_byte: None,
        ..first.clone()
    };
    transcript.steps[0] = failed(Ended::Complete, Some(503));
    transcript.steps.insert(1, failed(Ended::ClientCancelled, Some(200)));
    transcript.messages.remove(1);
    transcript.steps[2].message = Some(1);
    transcript
}
