use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

use super::{Common, Failure, Outcome, output};
use crate::config::Config;
#[cfg(feature = "onnx")]
use crate::config::{Fetch, Onnx};
#[cfg(feature = "onnx")]
use crate::onnx::{self, checkpoint::Checkpoint, provision, runtime};
use crate::store::{DataDir, Store};

/// Say what works here and what is missing. Changes nothing, fetches nothing.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    #[command(flatten)]
    common: Common,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
}

/// One thing looked at.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    fine: bool,
    /// Whether Remora cannot do its main job without it.
    needed: bool,
    said: String,
}

impl Doctor {
    pub fn run(self) -> Outcome {
        let config = self.common.load()?;
        let mut findings = data(&config);
        findings.push(address("listen", &config.listen));
        findings.push(address("admin", &config.admin));
        if config.embeds_server() {
            findings.push(address("serve.listen", &config.serve.listen));
        }
        findings.extend(engine(&config));
        let broken = findings.iter().any(|f| f.needed && !f.fine);
        if self.json {
            output::json_line(&serde_json::json!({"fine": !broken, "findings": findings}))?;
        } else {
            for f in &findings {
                let mark = if f.fine {
                    "ok"
                } else if f.needed {
                    "BROKEN"
                } else {
                    "missing"
                };
                output::line(format_args!("{mark:<8} {:<18} {}", f.what, f.said))?;
            }
        }
        if broken {
            Err(Failure::Failed(anyhow::anyhow!("something needed does not work, see above")))
        } else {
            Ok(())
        }
    }
}

/// Days listed, at most.
const DAYS: usize = 7;

fn data(config: &Config) -> Vec<Finding> {
    let path = config.data_dir();
    let dir = DataDir::new(&path);
    let found = |fine, said| vec![Finding { what: "data", fine, needed: true, said }];
    if !dir.record_db().exists() {
        return found(true, format!("{}: not there yet, made when needed", path.display()));
    }
    let seen = Store::open(&dir).and_then(|store| {
        Ok((store.recorded()?.0, store.counts()?.trajectories, store.stored_days()?, store.quarantined()))
    });
    let (exchanges, trajectories, days, quarantined) = match seen {
        Ok(seen) => seen,
        Err(error) => return found(false, error.to_string()),
    };
    let mut findings =
        found(true, format!("{}: {exchanges} exchanges, {trajectories} trajectories", path.display()));
    findings.extend(days.into_iter().rev().take(DAYS).map(|day| {
        let share = day.stored as f64 * 100.0 / day.raw.max(1) as f64;
        let (stored, raw) = (ByteSize(day.stored), ByteSize(day.raw));
        let said =
            format!("{}: {} exchanges, bodies of {raw} in {stored} ({share:.1} %)", day.day, day.exchanges);
        Finding { what: "stored", fine: true, needed: false, said }
    }));
    if quarantined > 0 {
        let folder = dir.quarantine();
        let said = format!("{quarantined} damaged databases lie in {}", folder.display());
        findings.push(Finding { what: "quarantine", fine: false, needed: false, said });
    }
    findings
}

fn address(what: &'static str, address: &str) -> Finding {
    let (fine, said) = match std::net::TcpListener::bind(address) {
        Ok(_) => (true, format!("{address} is free")),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            (false, format!("{address} is taken, perhaps by a Remora that runs already"))
        }
        Err(e) => (false, format!("{address}: {e}")),
    };
    Finding { what, fine, needed: false, said }
}

#[cfg(feature = "onnx")]
fn engine(config: &Config) -> Vec<Finding> {
    let status = provision::status(&config.onnx);
    // Whoever has no library has been told so, and there is nothing to ask for a device.
    let device = status.library.as_ref().ok().map(|library| device(&config.onnx, &library.path));
    let parts = [
        ("ONNX Runtime", status.library),
        ("embedding model", status.model),
        ("tokenizer", status.tokenizer),
    ]
    .map(|(what, found)| finding(what, found.map(|at| format!("{} ({})", at.path.display(), at.origin))));
    parts.into_iter().chain(device).chain(models(config)).collect()
}

#[cfg(feature = "onnx")]
fn finding(what: &'static str, found: Result<String, impl std::fmt::Display>) -> Finding {
    let fine = found.is_ok();
    Finding { what, fine, needed: false, said: found.unwrap_or_else(|e| e.to_string()) }
}

/// What models would be trained on, and why.
#[cfg(feature = "onnx")]
fn device(config: &Onnx, library: &std::path::Path) -> Finding {
    let chosen = runtime::environment(library, config.threads, config.spin)
        .and_then(|environment| onnx::choose_device(&environment, config.device));
    finding("training", chosen.map(|(_, said)| said))
}

/// The language models that these settings use.
#[cfg(feature = "onnx")]
fn models(config: &Config) -> Vec<Finding> {
    let embedded = config.embeds_server();
    let mut findings = Vec::new();
    if embedded || config.serve.model != provision::DEFAULT_MODEL {
        let found = model(&config.onnx, "serve.model", &config.serve.model);
        findings.push(Finding { needed: embedded && !is_fetched(config), ..found });
    }
    findings.extend(config.train.model.as_ref().map(|name| model(&config.onnx, "train.model", name)));
    findings
}

/// Whether the served model comes by itself, when it is first needed.
#[cfg(feature = "onnx")]
fn is_fetched(config: &Config) -> bool {
    config.serve.model == provision::DEFAULT_MODEL && config.onnx.fetch == Fetch::Auto
}

#[cfg(feature = "onnx")]
fn model(config: &Onnx, what: &'static str, name: &str) -> Finding {
    let opened = || -> anyhow::Result<String> {
        let path = provision::model_status(config, name)?;
        Checkpoint::open(&path)?;
        Ok(path.display().to_string())
    };
    finding(what, opened())
}

#[cfg(not(feature = "onnx"))]
fn engine(_: &Config) -> Vec<Finding> {
    vec![Finding {
        what: "ONNX Runtime",
        fine: false,
        needed: false,
        said: "this binary was built without it".into(),
    }]
}
