use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Secret;

/// `serve:` — the server over a language model that runs here: `remora serve`, or, where an upstream's URL is `embedded`,
/// a part of `remora run`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serve {
    /// A GGUF file, a directory of safetensors, or `default`: a small model that is fetched.
    pub model: String,
    /// Names that the base model answers to; empty: its file's or directory's name.
    pub names: Vec<String>,
    /// Where clients connect: address and port; port 0 picks a free one.
    pub listen: String,
    /// Threads that compute; 0: one a core.
    pub threads: u16,
    /// Sequences that are generated at once; each has a cache of its own.
    pub slots: usize,
    /// Tokens of a sequence, prompt and answer together; no more than the model was made for.
    pub context: usize,
    /// Requests that may wait for a slot; further ones are refused.
    pub queue: usize,
    /// What `/v1` asks for as a bearer token; none: nothing.
    pub api_key: Option<Secret>,
    /// How weights are kept.
    pub quantize: Quantize,
    /// Adapters (PEFT directories) by the names that they are served under.
    pub adapters: BTreeMap<String, PathBuf>,
}

/// How weights are kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantize {
    /// In 32-bit floats, as the engine computes.
    #[default]
    None,
    /// In few bits where the file has them so, in floats elsewhere.
    Stored,
    Bits4,
    Bits8,
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            model: "default".into(),
            names: Vec::new(),
            listen: "127.0.0.1:4143".into(),
            threads: 0,
            slots: 8,
            context: 2048,
            queue: 64,
            api_key: None,
            quantize: Quantize::None,
            adapters: BTreeMap::new(),
        }
    }
}

impl Serve {
    pub(super) fn check(&self, wrong: &mut impl FnMut(&str, String)) {
        if self.listen.parse::<std::net::SocketAddr>().is_err() {
            let message =
                format!("{:?} is no address and port, such as 127.0.0.1:4143 or [::1]:4143", self.listen);
            wrong("serve.listen", message);
        }
        if self.model.is_empty() {
            wrong("serve.model", "must be a path or default".into());
        }
        let numbers = [
            ("serve.slots", self.slots, 1, 1024),
            ("serve.context", self.context, 16, 1 << 20),
            ("serve.queue", self.queue, 0, 100_000),
        ];
        for (path, given, least, most) in numbers {
            if !(least..=most).contains(&given) {
                wrong(path, format!("{given} is not within {least} and {most}"));
            }
        }
        if self.api_key.as_ref().is_some_and(|key| key.reveal().is_empty()) {
            wrong("serve.api_key", "must not be empty; null asks for none".into());
        }
    }
}

impl Serialize for Quantize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => s.serialize_str("none"),
            Self::Stored => s.serialize_str("stored"),
            Self::Bits4 => s.serialize_u8(4),
            Self::Bits8 => s.serialize_u8(8),
        }
    }
}

impl<'de> Deserialize<'de> for Quantize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(d)? {
            value if value == "none" => Ok(Self::None),
            value if value == "stored" => Ok(Self::Stored),
            value if value == 4 || value == "4" => Ok(Self::Bits4),
            value if value == 8 || value == "8" => Ok(Self::Bits8),
            _ => Err(serde::de::Error::custom("expected none, stored, 4 or 8")),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError, Quantize};

    fn load(yaml: &str) -> Result<Config, Vec<String>> {
        Config::from_yaml(yaml, "test", |_| None).map_err(|error| match error {
            ConfigError::Invalid { problems, .. } => problems.into_iter().map(|p| p.path).collect(),
            ConfigError::Read { .. } => unreachable!("no file was read"),
        })
    }

    #[test]
    fn a_server_that_could_not_serve_is_reported() {
        let yaml = "serve:\n  listen: here\n  slots: 0\n  context: 1\n  api_key: ''\n  quantize: 5\n";
        let expected = ["serve.quantize", "serve.listen", "serve.slots", "serve.context", "serve.api_key"];
        assert_eq!(load(yaml).expect_err("nearly all is wrong"), expected);
    }

    #[test]
    fn bits_are_numbers_and_the_key_is_not_shown() {
        let config =
            load("serve:\n  quantize: 4\n  api_key: hush\n  adapters: {a: /x}\n").expect("it is right");
        assert_eq!(config.serve.quantize, Quantize::Bits4);
        assert_eq!(config.serve.api_key.as_ref().map(crate::config::Secret::reveal), Some("hush"));
        let shown = serde_json::to_string(&config).expect("settings are plain data");
        assert!(!shown.contains("hush") && !format!("{config:?}").contains("hush"));
        assert!(shown.contains("\"quantize\":4"));
    }
}
