//! Verbs. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

mod adapters;
#[cfg(feature = "onnx")]
mod adapters_export;
mod ca;
mod config;
mod demo;
mod doctor;
mod dream;
mod export;
mod output;
mod progress;
#[cfg(feature = "onnx")]
mod provision;
mod run;
mod search;
#[cfg(feature = "onnx")]
mod serve;
mod show;
mod skills;
#[cfg(feature = "onnx")]
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError, variable};
use crate::store::{DataDir, Store};
use crate::{capture, telemetry};

/// A sidecar for apps that call an LLM: records by day, dreams by night.
#[derive(Debug, Parser)]
#[command(name = "remora", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Proxy, record, show: the main job.
    Run(run::Run),
    /// Play the whole loop: on a scripted support desk, or with --model on a real one.
    Demo(demo::Demo),
    /// Run a night now: cluster failures, write lessons.
    Dream(dream::Dream),
    /// Serve a language model that runs here, over OpenAI's API.
    #[cfg(feature = "onnx")]
    Serve(serve::Serve),
    /// Train adapters now from what was recorded; only what passes the gate is put to use.
    #[cfg(feature = "onnx")]
    Train(train::Train),
    /// Find trajectories by words and by meaning.
    Search(search::Search),
    /// Show one trajectory or exchange.
    Show(show::Show),
    /// Write trajectories or exchanges as JSON lines.
    Export(export::Export),
    /// The learned files and their history.
    Skills(skills::Skills),
    /// The adapters that were trained, and which of them apps get.
    Adapters(adapters::Adapters),
    /// Find or fetch ONNX Runtime and the embedding model.
    #[cfg(feature = "onnx")]
    Provision(provision::Provision),
    /// Say what works here and what is missing.
    Doctor(doctor::Doctor),
    /// Say where the certificate is that apps have to trust in forward-proxy mode.
    Ca(ca::Ca),
    /// Check or print the configuration.
    Config(config::ConfigVerb),
}

/// Options that every verb takes.
#[derive(Args, Debug, Clone, Default)]
struct Common {
    /// Configuration file [default: $REMORA_CONFIG, or built-in defaults].
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Data directory, in place of the configured one.
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
}

/// Why a verb ends without success.
#[derive(Debug)]
enum Failure {
    /// Wrong usage or configuration: exit code 2.
    Usage(String),
    /// Anything else: exit code 1.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        match error.downcast::<ConfigError>() {
            Ok(config) => Self::Usage(config.to_string()),
            Err(other) => Self::Failed(other),
        }
    }
}

type Outcome = Result<(), Failure>;

/// Parses the command line and runs its verb.
#[must_use]
pub fn main() -> ExitCode {
    // A reader that went away (`remora export | head`) is no reason for a panic message.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let done = match cli.verb {
        Verb::Run(verb) => verb.run(),
        Verb::Demo(verb) => verb.run(),
        Verb::Dream(verb) => verb.run(),
        #[cfg(feature = "onnx")]
        Verb::Serve(verb) => verb.run(),
        #[cfg(feature = "onnx")]
        Verb::Train(verb) => verb.run(),
        Verb::Search(verb) => verb.run(),
        Verb::Show(verb) => verb.run(),
        Verb::Export(verb) => verb.run(),
        Verb::Skills(verb) => verb.run(),
        Verb::Adapters(verb) => verb.run(),
        #[cfg(feature = "onnx")]
        Verb::Provision(verb) => verb.run(),
        Verb::Doctor(verb) => verb.run(),
        Verb::Ca(verb) => verb.run(),
        Verb::Config(verb) => verb.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("remora: {message}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => {
            eprintln!("remora: {}", told(&error));
            ExitCode::from(1)
        }
    }
}

/// An error and its causes on one line, up to the first cause that the line has told already: most of our errors name
/// their cause themselves.
fn told(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.contains(&cause) {
            break;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

impl Common {
    fn config_file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| variable("REMORA_CONFIG").map(PathBuf::from))
    }

    /// The configuration with the options applied, checked; logs are started.
    fn load(&self) -> Result<Config, Failure> {
        let config = self.load_quietly()?;
        telemetry::start_logs(&config.log);
        Ok(config)
    }

    fn load_quietly(&self) -> Result<Config, Failure> {
        Ok(self.read()?)
    }

    fn read(&self) -> Result<Config, ConfigError> {
        let mut config = match self.config_file() {
            Some(path) => Config::from_file(&path)?,
            None => Config::default(),
        };
        if let Some(data) = &self.data {
            config.data = Some(data.clone());
        }
        Ok(config)
    }
}

/// What has just ended gets this long to reach the record, before a command reads it.
const SETTLING: std::time::Duration = std::time::Duration::from_secs(30);

/// Opens the store of a configuration, with all that has ended so far.
fn open_store(config: &Config) -> Result<Store, Failure> {
    let store = Store::open(&DataDir::new(config.data_dir()))?;
    if let Err(error) = capture::settle(store.dir(), SETTLING) {
        tracing::warn!(%error, "the newest exchanges may be missing");
    }
    Ok(store)
}

/// An async runtime for verbs that need one.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("remora").build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::other("no space");
        let error = anyhow::Error::from(crate::store::StoreError::Directory { path: "/x".into(), source });
        assert_eq!(told(&error).matches("no space").count(), 1);
        assert!(told(&error.context("the night")).starts_with("the night: /x: cannot"));
    }
}
