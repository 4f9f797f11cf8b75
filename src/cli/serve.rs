use std::path::{Path, PathBuf};
use std::pin::pin;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::progress::Bars;
use super::run::stop_signal;
use super::{Common, Outcome, output, runtime};
use crate::config::Config;
use crate::serve::{self, Server};

/// Serve a language model that runs here, over OpenAI's API, with adapters that are swapped while it runs.
#[derive(Args, Debug)]
pub(super) struct Serve {
    #[command(flatten)]
    common: Common,
    /// A GGUF file, a directory of safetensors, or `default`, a small model that is fetched.
    #[arg(long, value_name = "PATH")]
    model: Option<String>,
    /// Where clients connect; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Written once it listens: {"serve": url, "pid": n}.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Print the same as a line of JSON.
    #[arg(long)]
    json: bool,
}

impl Serve {
    pub fn run(self) -> Outcome {
        let mut config = self.common.load()?;
        if let Some(model) = &self.model {
            config.serve.model.clone_from(model);
        }
        if let Some(listen) = &self.listen {
            config.serve.listen.clone_from(listen);
        }
        let config = config.checked("command line")?;
        if let Some(path) = &self.ready_file {
            // One of an earlier run would tell a supervisor of a process that is gone.
            drop(std::fs::remove_file(path));
        }
        let model = serve::open(&config, &Bars::default())?;
        let runtime = runtime()?;
        let done = runtime.block_on(self.serve(&config, model));
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        done
    }

    async fn serve(&self, config: &Config, model: serve::Model) -> Outcome {
        // Before anything can be asked of us: a signal must find its handler.
        let mut stop = pin!(stop_signal()?);
        let root = model.root.clone();
        let server = Server::start(&config.serve, model).await?;
        let ready = json!({"serve": server.url(), "pid": std::process::id()});
        eprintln!("remora: {root} answers at {}/v1 as {}", server.url(), server.names().base().join(", "));
        let others = server.names().others();
        if !others.is_empty() {
            let names: Vec<&str> = others.keys().map(String::as_str).collect();
            eprintln!("remora: adapters          {}", names.join(", "));
        }
        if let Some(path) = &self.ready_file {
            write_whole(path, &format!("{ready}\n"))
                .with_context(|| format!("{}: cannot write the ready file", path.display()))?;
        }
        if self.json {
            output::json_line(&ready)?;
        }
        (&mut stop).await;
        let grace = config.shutdown.grace;
        eprintln!("remora: stopping, requests under way may finish within {grace}");
        tokio::select! {
            () = server.stop(grace.0) => {}
            again = async { Ok::<_, std::io::Error>(stop_signal()?.await) } => {
                again?;
                eprintln!("remora: asked a second time, not waiting any longer");
            }
        }
        Ok(())
    }
}

/// Writes a file whole or not at all.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}
