use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The YAML frontmatter of a skill or memory file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Front {
    /// Skills only; equals the folder's name.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub description: String,
    /// Our keys start with `remora.`; the specification allows strings only.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What the owner added (`license`, `allowed-tools`, …).
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Front {
    /// Reads the text between the `---` lines.
    ///
    /// # Errors
    /// With the reason, where it is no YAML mapping of the expected kinds.
    pub fn parse(yaml: &str) -> Result<Self, String> {
        serde_saphyr::from_str(yaml).map_err(|e| e.to_string())
    }

    /// The frontmatter with its `---` lines. Strings are written in JSON's form, which YAML reads as it is: what comes
    /// from traces cannot be taken for YAML.
    #[must_use]
    pub fn print(&self) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        let mut out = String::from("---\n");
        if let Some(name) = &self.name {
            out += &format!("name: {name}\n");
        }
        out += &format!("description: {}\n", quoted(&self.description));
        for (key, value) in &self.other {
            out += &format!("{}: {value}\n", quoted(key));
        }
        if !self.metadata.is_empty() {
            out += "metadata:\n";
            for (key, value) in &self.metadata {
                // Ours need no quotes; what others are called is not known.
                let key = if key.starts_with("remora.") { key.clone() } else { quoted(key) };
                out += &format!("  {key}: {}\n", quoted(value));
            }
        }
        out + "---\n"
    }
}
