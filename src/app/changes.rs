//! Which settings a reload cannot change.

use serde_json::Value;

use crate::config::Config;

/// Settings, whole sections or single keys, that take effect when they are reloaded. Of all others a reload says that
/// they need a restart, so that a new section is honest before it is listed here.
const TAKE_EFFECT: &[&str] = &[
    "upstream",
    "routes",
    "forward_proxy",
    "limits",
    "capture",
    "retention",
    "trajectories",
    // Read by nights and other commands, which are processes of their own, and by the embedded server.
    "search",
    "onnx",
    "dream",
    "adapters",
    "serve",
    "train",
    "dashboard",
    "shutdown",
    "log.filter",
];

/// Of these what an embedded server was opened with.
const EMBEDDED: [&str; 3] = ["onnx", "serve", "adapters.alias"];

/// The paths of settings that differ and that a reload cannot change.
pub(super) fn changed(started: &Config, new: &Config) -> Vec<String> {
    let tree = |config| serde_json::to_value(config).unwrap_or_default();
    let mut found = Vec::new();
    differing("", &tree(started), &tree(new), &mut found);
    let within = |path: &str, sections: &[&str]| {
        sections.iter().any(|section| path == *section || path.starts_with(&format!("{section}.")))
    };
    let opened_with: &[&str] = if started.embeds_server() { &EMBEDDED } else { &[] };
    found.retain(|path| !within(path, TAKE_EFFECT) || within(path, opened_with));
    found
}

fn differing(path: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    let (Value::Object(left), Value::Object(right)) = (a, b) else {
        if a != b {
            found.push(path.to_owned());
        }
        return;
    };
    for (key, value) in left {
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        differing(&below, value, right.get(key).unwrap_or(&Value::Null), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_reload_cannot_change_needs_a_restart() {
        let started = Config::default();
        let mut new = started.clone();
        new.upstream.url = "http://127.0.0.1:1".into();
        new.log.filter = "debug".into();
        new.dream.schedule = None;
        assert_eq!(changed(&started, &new), Vec::<String>::new());
        new.listen = "127.0.0.1:1".into();
        new.data = Some("elsewhere".into());
        new.log.format = crate::config::LogFormat::Json;
        assert_eq!(changed(&started, &new), ["listen", "data", "log.format"]);
        new = started.clone();
        new.serve.slots = 3;
        new.adapters.alias = "{app}".into();
        assert_eq!(changed(&started, &new), Vec::<String>::new());
        let mut started = started;
        started.upstream.url = "embedded".into();
        let opened_with = ["adapters.alias", "serve.slots"];
        let mut found = changed(&started, &new);
        found.sort_unstable();
        assert_eq!(found, opened_with, "a server in this process was opened with it");
    }
}
