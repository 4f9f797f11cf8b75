use serde_json::{Value, json};

/// Refunds up to this many euros need no approval.
pub(super) const REFUND_LIMIT: f64 = 100.0;

pub(super) const QUEUES: [&str; 4] = ["billing", "delivery", "quality", "account"];

/// What the desk's agent may call, in the form of the API.
pub(super) fn tools() -> Vec<Value> {
    let order = || json!({"type": "string", "pattern": "^W[0-9]{5}$", "description": "the order's number"});
    let email = || json!({"type": "string", "description": "the account's e-mail address"});
    let amount = || json!({"type": "number", "minimum": 0, "description": "euros"});
    let address = json!({
        "type": "object",
        "properties": {
            "street": {"type": "string"},
            "postal_code": {"type": "string", "pattern": "^[0-9]{5}$"},
            "city": {"type": "string"},
        },
        "required": ["street", "postal_code", "city"],
        "additionalProperties": false,
    });
    vec![
        tool(
            "look_up_order",
            "Reads an order: status, goods, total.",
            json!({"order_id": order()}),
            &["order_id"],
        ),
        tool(
            "cancel_order",
            "Cancels an order that has not shipped.",
            json!({"order_id": order()}),
            &["order_id"],
        ),
        tool(
            "request_approval",
            "Asks a supervisor to approve a refund; gives an approval number.",
            json!({"order_id": order(), "amount": amount()}),
            &["order_id", "amount"],
        ),
        tool(
            "refund_payment",
            "Pays money back.",
            json!({"order_id": order(), "amount": amount(), "approval_id": {"type": "string"}}),
            &["order_id", "amount"],
        ),
        tool("find_customer", "Reads a customer's record.", json!({"email": email()}), &["email"]),
        tool(
            "update_address",
            "Sets where a customer's parcels go.",
            json!({"customer_id": {"type": "string", "pattern": "^C[0-9]+$"}, "address": address}),
            &["customer_id", "address"],
        ),
        tool("search_products", "Finds products by name.", json!({"query": {"type": "string"}}), &["query"]),
        tool("check_stock", "How many are in stock.", json!({"sku": {"type": "string"}}), &["sku"]),
        tool("list_queues", "The queues that tickets go to, and what for.", json!({}), &[]),
        tool(
            "verify_identity",
            "Sends a code to the customer and waits for it.",
            json!({"email": email()}),
            &["email"],
        ),
        tool(
            "open_privacy_request",
            "Opens a request to delete a customer's data.",
            json!({"email": email()}),
            &["email"],
        ),
        tool(
            "read_policy",
            "The shop's rules on a subject.",
            json!({"subject": {"type": "string"}}),
            &["subject"],
        ),
        tool(
            "list_orders",
            "A customer's latest orders.",
            json!({"email": email(), "limit": {"type": "integer", "minimum": 1, "maximum": 5}}),
            &["email", "limit"],
        ),
        tool(
            "export_history",
            "All that is known of a customer's orders.",
            json!({"email": email()}),
            &["email"],
        ),
        tool(
            "escalate",
            "Passes an order to a team of people.",
            json!({
                "order_id": order(),
                "team": {"type": "string", "enum": ["returns", "payments", "delivery"]},
                "reason": {"type": "string"},
            }),
            &["order_id", "team", "reason"],
        ),
    ]
}

fn tool(name: &str, description: &str, properties: Value, required: &[&str]) -> Value {
    let parameters = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})
}

/// The form that sorted tickets must have.
pub(super) fn triage_format() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "ticket", "strict": true, "schema": {
        "type": "object",
        "properties": {
            "queue": {"type": "string", "enum": QUEUES},
            "urgent": {"type": "boolean"},
            "summary": {"type": "string"},
        },
        "required": ["queue", "urgent", "summary"],
        "additionalProperties": false,
    }}})
}
