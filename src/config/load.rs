//! From YAML text to a checked [`Config`]: every problem is reported, each with its path.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Config, environment};

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// YAML path such as `capture.max_body`; empty for the document.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: cannot read the configuration: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("{origin}: {count} in the configuration:{list}", count = count(problems), list = list(problems))]
    Invalid { origin: String, problems: Vec<Problem> },
}

fn count(problems: &[Problem]) -> String {
    if problems.len() == 1 { "a problem".into() } else { format!("{} problems", problems.len()) }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, or with all its problems.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::from_yaml(&text, &path.display().to_string(), environment::variable)
    }

    /// Reads and checks YAML text. `origin` names it in errors; `variable` resolves `${NAME}`.
    ///
    /// # Errors
    /// With all its problems.
    pub fn from_yaml(
        text: &str,
        origin: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut tree = parse(text, &mut problems);
        substitute(&mut tree, "", &variable, &mut problems);
        super::upstream::missing_urls(&tree, &mut problems);
        let config = read(tree, &mut problems);
        config.check(&mut problems);
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid { origin: origin.into(), problems })
        }
    }

    /// Checks what types cannot; for a configuration changed by options.
    ///
    /// # Errors
    /// With all its problems.
    pub fn checked(self, origin: &str) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        self.check(&mut problems);
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError::Invalid { origin: origin.into(), problems })
        }
    }

    fn check(&self, problems: &mut Vec<Problem>) {
        let mut wrong = |path: &str, message: String| problems.push(Problem { path: path.into(), message });
        for (path, address) in [("listen", &self.listen), ("admin", &self.admin)] {
            if address.parse::<std::net::SocketAddr>().is_err() {
                wrong(
                    path,
                    format!("{address:?} is no address and port, such as 127.0.0.1:4141 or [::1]:4141"),
                );
            }
        }
        if self.listen == self.admin && !self.listen.ends_with(":0") {
            wrong(
                "admin",
                format!(
                    "{} is where apps connect (listen); the dashboard needs an address of its own",
                    self.admin
                ),
            );
        }
        self.upstream.check("upstream", &mut wrong);
        for (i, route) in self.routes.iter().enumerate() {
            route.check(&format!("routes[{i}]"), &mut wrong);
        }
        self.forward_proxy.check(&mut wrong);
        if self.trajectories.every.is_some_and(|span| span.0.is_zero()) {
            wrong("trajectories.every", "must be longer than nothing".into());
        }
        self.limits.check(&mut wrong);
        self.serve.check(&mut wrong);
        self.check_embedded(&mut wrong);
        if self.capture.memory < self.capture.max_body {
            wrong(
                "capture.memory",
                format!("{} is less than capture.max_body, {}", self.capture.memory, self.capture.max_body),
            );
        }
        for (i, path) in self.capture.skip_paths.iter().enumerate() {
            if !path.starts_with('/') {
                wrong(&format!("capture.skip_paths[{i}]"), format!("{path:?} must begin with /"));
            }
        }
        for (i, name) in self.capture.secret_headers.iter().enumerate() {
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                wrong(&format!("capture.secret_headers[{i}]"), format!("{name:?} is no header name"));
            }
        }
        if self.retention.days == Some(0) {
            wrong("retention.days", "must be at least 1; null keeps everything".into());
        }
        if self.retention.bytes.is_some_and(|bytes| bytes.as_u64() == 0) {
            wrong("retention.bytes", "must be more than nothing; null keeps everything".into());
        }
        if self.dream.min_cluster < 2 {
            wrong("dream.min_cluster", "must be at least 2: one failure is no cluster".into());
        }
        if let Some(text) = &self.dream.schedule
            && let Err(reason) = super::dream::parse_schedule(text)
        {
            wrong("dream.schedule", reason);
        }
        self.adapters.check(&mut wrong);
        self.train.check(&mut wrong);
        if let Err(e) = self.log.filter.parse::<tracing_subscriber::EnvFilter>() {
            wrong("log.filter", e.to_string());
        }
    }
}

fn parse(text: &str, problems: &mut Vec<Problem>) -> Value {
    // An empty file, or one of comments only, means the defaults.
    match serde_saphyr::from_str::<Option<Value>>(text) {
        Ok(tree) => tree.filter(|t| !t.is_null()).unwrap_or_else(|| Value::Object(serde_json::Map::new())),
        Err(e) => {
            problems.push(Problem { path: String::new(), message: e.to_string() });
            Value::Object(serde_json::Map::new())
        }
    }
}

/// Replaces `${NAME}` and `${NAME:-default}` in strings.
fn substitute(
    node: &mut Value,
    path: &str,
    variable: &impl Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) {
    match node {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                substitute(value, &path, variable, problems);
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter_mut().enumerate() {
                substitute(value, &format!("{path}[{i}]"), variable, problems);
            }
        }
        Value::String(text) if text.contains("${") => match expand(text, variable) {
            // A value that is nothing but a reference may stand for a number or a switch.
            Ok(expanded) if text.starts_with("${") && text.ends_with('}') => {
                *node = match expanded.as_str() {
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    other => {
                        other.parse::<u64>().map_or_else(|_| Value::String(expanded.clone()), Value::from)
                    }
                };
            }
            Ok(expanded) => *text = expanded,
            Err(message) => problems.push(Problem { path: path.into(), message }),
        },
        _ => {}
    }
}

fn expand(text: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else { return Err(format!("{text:?} has ${{ without }}")) };
        let reference = &rest[at + 2..at + end];
        let (name, default) = reference.split_once(":-").map_or((reference, None), |(n, d)| (n, Some(d)));
        match variable(name).or_else(|| default.map(str::to_owned)) {
            Some(value) => out.push_str(&value),
            None => {
                return Err(format!(
                    "environment variable {name} is not set; set it or write ${{{name}:-default}}"
                ));
            }
        }
        rest = &rest[at + end + 1..];
    }
    Ok(out + rest)
}

/// Reads the tree leniently: a wrong node is reported, taken out, and the rest read on.
fn read(mut tree: Value, problems: &mut Vec<Problem>) -> Config {
    loop {
        let error = match serde_path_to_error::deserialize::<_, Config>(&tree) {
            Ok(config) => return config,
            Err(error) => error,
        };
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        problems.push(Problem { path: path.clone(), message: error.inner().to_string() });
        if !remove(&mut tree, error.path()) {
            return Config::default();
        }
    }
}

/// Takes out the node at a path; false where there is none, so that reading cannot go on.
fn remove(tree: &mut Value, path: &serde_path_to_error::Path) -> bool {
    use serde_path_to_error::Segment;
    let segments: Vec<&Segment> = path.iter().collect();
    let Some((last, parents)) = segments.split_last() else { return false };
    let mut node = tree;
    for segment in parents {
        let next = match segment {
            Segment::Map { key } => node.get_mut(key.as_str()),
            Segment::Seq { index } => node.get_mut(*index),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        match next {
            Some(next) => node = next,
            None => return false,
        }
    }
    match (last, node) {
        (Segment::Map { key }, Value::Object(map)) => map.shift_remove(key).is_some(),
        (Segment::Seq { index }, Value::Array(list)) if *index < list.len() => {
            list.remove(*index);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str) -> Result<Config, Vec<Problem>> {
        let variable = |name: &str| (name == "SET").then(|| "http://127.0.0.1:9".to_owned());
        Config::from_yaml(yaml, "test", variable).map_err(|e| match e {
            ConfigError::Invalid { problems, .. } => problems,
            ConfigError::Read { .. } => unreachable!("no file was read"),
        })
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(load(""), Ok(Config::default()));
        assert_eq!(load("# nothing\n"), Ok(Config::default()));
    }

    #[test]
    fn every_problem_is_reported_with_its_path() {
        let problems = load(
            "listen: nowhere\nupstream:\n  url: ftp://x\n  http2: maybe\ncapture:\n  max_body: 1GiB\n  \
             ack_timeout: 5\n  colour: blue\ndreams: {}\ndream:\n  schedule: 'every night'\n",
        )
        .expect_err("nearly everything is wrong");
        let paths: Vec<&str> = problems.iter().map(|p| p.path.as_str()).collect();
        for path in [
            "listen",
            "upstream.url",
            "upstream.http2",
            "capture.ack_timeout",
            "capture.colour",
            "capture.memory",
            "dreams",
            "dream.schedule",
        ] {
            assert!(paths.contains(&path), "{path} is missing in {problems:?}");
        }
    }

    #[test]
    fn environment_references_are_resolved_or_reported() {
        let config =
            load("upstream:\n  url: ${SET}/v1\n  response_timeout: ${T:-7s}\n").expect("both resolve");
        assert_eq!(config.upstream.url, "http://127.0.0.1:9/v1");
        assert_eq!(config.upstream.response_timeout, crate::config::Span::secs(7));
        let problems = load("data: ${UNSET}\n").expect_err("the variable is not set");
        assert_eq!(problems[0].path, "data");
        assert!(problems[0].message.contains("UNSET"));
    }

    #[test]
    fn broken_yaml_names_the_line() {
        let problems = load("listen: [\n").expect_err("the list never ends");
        assert!(problems[0].message.contains("line"), "{problems:?}");
    }

    #[test]
    fn the_shipped_file_shows_every_key_with_its_default() {
        let text = include_str!("../../config/remora.yaml");
        assert_eq!(load(text), Ok(Config::default()));
        let shown: Value = serde_saphyr::from_str(text).expect("it parses, see above");
        let all = serde_json::to_value(Config::default()).expect("settings are plain data");
        assert_eq!(keys(&shown), keys(&all));
    }

    fn keys(node: &Value) -> std::collections::BTreeSet<String> {
        let mut found = std::collections::BTreeSet::new();
        if let Value::Object(map) = node {
            for (key, value) in map {
                found.insert(key.clone());
                found.extend(keys(value).into_iter().map(|k| format!("{key}.{k}")));
            }
        }
        found
    }
}
