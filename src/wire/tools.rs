//! The tools that a request offers, in the shapes of all APIs.

use serde_json::Value;

use super::fields;
use crate::model::Tool;

/// Appends the tools of a list. A provider's own tool has its type as its name; a namespace gives its members.
pub(super) fn read(list: &[Value], into: &mut Vec<Tool>) {
    for tool in list {
        let members = fields::list(tool, "tools");
        if !members.is_empty() {
            read(members, into);
            continue;
        }
        let inner =
            fields::object(tool, "function").or_else(|| fields::object(tool, "custom")).unwrap_or(tool);
        let Some(name) = fields::string(inner, "name").or_else(|| fields::string(tool, "type")) else {
            continue;
        };
        into.push(Tool {
            name,
            description: fields::string(inner, "description").unwrap_or_default(),
            parameters: inner
                .get("parameters")
                .or_else(|| inner.get("input_schema"))
                .cloned()
                .unwrap_or_default(),
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::read;
    use crate::model::Tool;

    #[test]
    fn tools_of_every_api_look_alike() {
        let schema = json!({"type": "object"});
        let want = Tool { name: "f".into(), description: "d".into(), parameters: schema.clone() };
        let list = [
            json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}),
            json!({"type": "function", "name": "f", "description": "d", "parameters": schema}),
            json!({"name": "f", "description": "d", "input_schema": schema}),
            json!({"type": "namespace", "name": "n", "tools": [{"name": "f", "description": "d", "parameters": schema}]}),
        ];
        let mut tools = Vec::new();
        read(&list, &mut tools);
        assert_eq!(tools, [want.clone(), want.clone(), want.clone(), want]);
    }

    #[test]
    fn a_providers_own_tool_is_named_by_its_type() {
        let mut tools = Vec::new();
        read(
            &[json!({"type": "web_search", "search_context_size": "low"}), json!("x"), json!({})],
            &mut tools,
        );
        assert_eq!(
            tools,
            [Tool { name: "web_search".into(), description: String::new(), parameters: json!(null) }]
        );
    }
}
