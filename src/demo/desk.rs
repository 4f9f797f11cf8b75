use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::answer::Answer;
use super::case::{Case, PRODUCTS};
use super::tools::{REFUND_LIMIT, tools, triage_format};
use super::topic::Topic;

/// The shop's systems behind the tools, as far as one customer can reach them.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    case: &'a Case,
    approval: Option<String>,
    /// Tools that did what was asked.
    done: Vec<String>,
}

/// Checks of arguments against the tools' own schemas, by name.
static CHECKS: LazyLock<HashMap<String, jsonschema::Validator>> = LazyLock::new(|| {
    let check = |tool: Value| {
        let name = tool["function"]["name"].as_str()?.to_owned();
        Some((name, jsonschema::validator_for(&tool["function"]["parameters"]).ok()?))
    };
    tools().into_iter().filter_map(check).collect()
});

static TRIAGE: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    jsonschema::validator_for(&triage_format()["json_schema"]["schema"])
        .expect("the demo's own schema is valid")
});

impl<'a> Desk<'a> {
    pub(super) fn new(case: &'a Case) -> Self {
        Self { case, approval: None, done: Vec::new() }
    }

    /// Runs a tool; the result is JSON text, and an object with `error` where it did not work.
    pub(super) fn call(&mut self, name: &str, arguments: &str) -> String {
        let result = self.run(name, arguments);
        if result.get("error").is_none() {
            self.done.push(name.to_owned());
        }
        result.to_string()
    }

    fn run(&mut self, name: &str, arguments: &str) -> Value {
        let Some(check) = CHECKS.get(name) else {
            return json!({"error": format!("there is no tool named {name}")});
        };
        let arguments: Value = match serde_json::from_str(arguments) {
            Ok(arguments) => arguments,
            Err(error) => return json!({"error": format!("arguments of {name} are no JSON: {error}")}),
        };
        let errors: Vec<String> = check.iter_errors(&arguments).map(|e| e.to_string()).collect();
        if !errors.is_empty() {
            return json!({"error": format!("invalid arguments for {name}: {}", errors.join("; "))});
        }
        self.act(name, &arguments)
    }

    fn act(&mut self, name: &str, arguments: &Value) -> Value {
        let case = self.case;
        let text = |key: &str| arguments[key].as_str().unwrap_or_default();
        let order = text("order_id");
        if arguments.get("order_id").is_some() && order != case.order_id {
            return json!({"error": format!("there is no order {order}")});
        }
        if arguments.get("email").is_some() && text("email") != case.email {
            return json!({"error": format!("there is no customer with the address {}", text("email"))});
        }
        match name {
            "look_up_order" => self.order(),
            "cancel_order" => {
                json!({"error": format!("order {order} cannot be cancelled: it has already shipped")})
            }
            "request_approval" => {
                let id = format!("AP-{}", &case.order_id[1..]);
                self.approval = Some(id.clone());
                json!({"approval_id": id, "approved": true})
            }
            "refund_payment" => self.refund(arguments),
            "find_customer" => json!({
                "customer_id": case.customer_id, "name": case.name, "email": case.email,
                "address": {"street": "Altweg 1", "postal_code": "04109", "city": "Leipzig"},
            }),
            "update_address" if text("customer_id") == case.customer_id => {
                json!({"customer_id": case.customer_id, "updated": true})
            }
            "update_address" => json!({"error": format!("there is no customer {}", text("customer_id"))}),
            "search_products" => {
                let found = PRODUCTS.iter().filter(|p| text("query").contains(p.name));
                json!({"products": found.map(|p| json!({"sku": p.sku, "name": p.name})).collect::<Vec<_>>()})
            }
            "check_stock" => match PRODUCTS.iter().find(|p| p.sku == text("sku")) {
                Some(product) => json!({"sku": product.sku, "in_stock": product.in_stock}),
                None => json!({"error": format!("unknown sku '{}'", text("sku"))}),
            },
            "list_queues" => json!({"queues": {
                "billing": "charges and invoices", "delivery": "parcels on their way",
                "quality": "broken or incomplete goods", "account": "sign-in and personal data",
            }}),
            "verify_identity" => json!({"verified": true}),
            "open_privacy_request" => json!({"request_id": format!("PR-{}", case.index), "days": 30}),
            "read_policy" => json!({"subject": text("subject"), "rules": [
                "returns are free within 30 days", "the label comes by e-mail", "drop the parcel at any post office",
            ]}),
            "list_orders" => json!({"orders": [self.order()]}),
            "export_history" => json!({"orders": vec![self.order(); 40], "complete": true}),
            "escalate" => json!({"case_id": format!("E-{}", &case.order_id[1..]), "team": text("team")}),
            _ => json!({"error": format!("{name} is out of order")}),
        }
    }

    fn order(&self) -> Value {
        let Case { order_id, product, .. } = self.case;
        json!({
            "order_id": order_id, "status": "shipped",
            "goods": [{"sku": product.sku, "name": product.name}], "total": product.price,
        })
    }

    fn refund(&self, arguments: &Value) -> Value {
        let amount = arguments["amount"].as_f64().unwrap_or_default();
        let approved =
            self.approval.is_some() && arguments["approval_id"].as_str() == self.approval.as_deref();
        if amount > REFUND_LIMIT && !approved {
            let limit = format!("the limit of {REFUND_LIMIT:.2} for refunds without approval");
            return json!({"error": format!("refund of {amount:.2} euros exceeds {limit}")});
        }
        json!({"refunded": amount, "order_id": self.case.order_id})
    }

    /// Whether the customer got what was asked for, judged by what was done and by the last answer.
    pub(super) fn satisfied(&self, last: Option<&Answer>) -> bool {
        let done = |tool: &str| self.done.iter().any(|d| d == tool);
        let Some(last) = last else { return false };
        let said = last.content.as_deref().unwrap_or_default();
        match self.case.topic {
            Topic::Status => done("look_up_order"),
            Topic::Cancel => done("escalate"),
            Topic::Refund => done("refund_payment"),
            Topic::Address => done("update_address"),
            Topic::Stock => done("check_stock"),
            Topic::Triage => serde_json::from_str(said).is_ok_and(|v: Value| TRIAGE.is_valid(&v)),
            Topic::Privacy => done("open_privacy_request"),
            Topic::Returns => last.finish == "stop" && said.contains("label"),
            Topic::History => done("list_orders") && !said.is_empty(),
        }
    }
}
