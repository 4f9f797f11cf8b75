use http::Uri;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use super::{Secret, Span};

/// `adapters:` — under which names they are used, and into which servers they are loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adapters {
    /// The model name under which apps of a scope get what was trained on their traffic; `{tenant}` and `{app}` stand for
    /// the scope's names.
    pub alias: String,
    /// Servers that a promotion loads the adapter into.
    pub targets: Vec<SwapTarget>,
}

/// A server that takes adapters while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwapTarget {
    pub kind: TargetKind,
    /// Its base URL, without `/v1`.
    pub url: String,
    /// Adapters of this scope only, `tenant/app`; null: of all.
    #[serde(default)]
    pub scope: Option<String>,
    /// Sent as a bearer token.
    #[serde(default)]
    pub api_key: Option<Secret>,
    /// Where the server sees `adapters/` of our data directory; null: at the same path.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// For each request to it; loading an adapter included.
    #[serde(default = "minute")]
    pub timeout: Span,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// vLLM with `VLLM_ALLOW_RUNTIME_LORA_UPDATING`.
    Vllm,
    /// `remora serve`, which speaks the same.
    Serve,
}

fn minute() -> Span {
    Span::secs(60)
}

impl Default for Adapters {
    fn default() -> Self {
        Self { alias: "{tenant}-{app}".into(), targets: Vec::new() }
    }
}

impl Adapters {
    /// The alias of a scope. Characters that a model's name cannot hold become `-`.
    #[must_use]
    pub fn alias_of(&self, tenant: &str, app: &str) -> String {
        let plain = |name: &str| -> String {
            name.chars()
                .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
                .collect()
        };
        self.alias.replace("{tenant}", &plain(tenant)).replace("{app}", &plain(app))
    }

    /// The targets that take a scope's adapters, each with its place in the list.
    pub fn targets_of(&self, scope: &str) -> impl Iterator<Item = (usize, &SwapTarget)> {
        self.targets.iter().enumerate().filter(move |(_, t)| t.scope.as_deref().is_none_or(|s| s == scope))
    }

    pub(super) fn check(&self, wrong: &mut impl FnMut(&str, String)) {
        if self.alias.is_empty() || self.alias.contains(char::is_whitespace) {
            wrong("adapters.alias", format!("{:?} is no name of a model", self.alias));
        }
        for (i, target) in self.targets.iter().enumerate() {
            let at = |key: &str| format!("adapters.targets[{i}].{key}");
            match target.url.parse::<Uri>() {
                Ok(uri)
                    if matches!(uri.scheme_str(), Some("http" | "https"))
                        && uri.host().is_some()
                        && uri.query().is_none()
                        && uri.authority().is_some_and(|a| !a.as_str().contains('@')) => {}
                _ => wrong(
                    &at("url"),
                    format!(
                        "{:?} is no http or https URL without credentials and query, such as http://127.0.0.1:8000",
                        target.url
                    ),
                ),
            }
            if target.scope.as_ref().is_some_and(|scope| !scope.contains('/')) {
                wrong(&at("scope"), "must be tenant/app, such as default/default".into());
            }
            if target.timeout.0.is_zero() {
                wrong(&at("timeout"), "must be longer than nothing".into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_target_needs_a_kind_and_a_url_and_every_problem_has_its_path() {
        let yaml = "adapters:\n  alias: 'a b'\n  targets:\n  - {kind: vllm, url: 'http://x:8000'}\n\
                    \x20 - {kind: vllm}\n  - {kind: serve, url: x, scope: app, timeout: 0s}\n";
        let said = Config::from_yaml(yaml, "test", |_| None).expect_err("much is wrong").to_string();
        for path in [
            "adapters.alias: ",
            "adapters.targets[1]: missing field `url`",
            "adapters.targets[1].url: ",
            "adapters.targets[1].scope: ",
            "adapters.targets[1].timeout: ",
        ] {
            assert!(said.contains(path), "{path} in {said}");
        }
    }

    #[test]
    fn an_alias_has_the_names_of_its_scope_and_no_other_characters() {
        let adapters = Adapters::default();
        assert_eq!(adapters.alias_of("acme", "support desk"), "acme-support-desk");
        let fixed = Adapters { alias: "tickets".into(), ..Adapters::default() };
        assert_eq!(fixed.alias_of("acme", "x"), "tickets");
    }

    #[test]
    fn a_key_is_not_printed() {
        let yaml = "adapters:\n  targets:\n  - {kind: vllm, url: 'http://x', api_key: '${KEY}'}\n";
        let config = Config::from_yaml(yaml, "test", |_| Some("sesame".into())).expect("it is fine");
        let key = config.adapters.targets[0].api_key.as_ref().expect("it is set");
        assert_eq!(key.reveal(), "sesame");
        let printed = format!("{config:?}{}", serde_json::to_string(&config).expect("plain data"));
        assert!(!printed.contains("sesame"), "{printed}");
    }
}
