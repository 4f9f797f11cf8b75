#[cfg(feature = "onnx")]
mod tickets;

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;

use anyhow::Context;
use clap::Args;
use serde::Deserialize;

use super::progress::bar;
use super::run::stop_signal;
use super::{Common, Failure, Outcome, output, runtime};
use crate::app::App;
use crate::config::Config;
use crate::demo::report::{self, Places, Report, Style};
use crate::demo::{Model, Plan, Script, Summary, play};
use crate::model::{ClusterState, Micros, NightReport, Scope};
use crate::schedule;
use crate::store::{DataDir, Store};
use crate::tasks::Tasks;

/// Play the whole loop: on a scripted support desk, or with --model on a real one.
///
/// A scripted model answers a small agent through the real proxy; a night runs; what it found and wrote is printed, and
/// the dashboard stays up until Ctrl-C. With --model a language model served here sorts support messages, its answers are
/// corrected, a night trains an adapter, and what the app gets before and after is counted.
#[derive(Args, Debug)]
pub(super) struct Demo {
    #[command(flatten)]
    common: Common,
    /// Train a real model: `default` (small, fetched), a GGUF file or a directory.
    #[cfg(feature = "onnx")]
    #[arg(long, value_name = "default|PATH")]
    model: Option<String>,
    /// With --model: decides which messages are written.
    #[cfg(feature = "onnx")]
    #[arg(long, value_name = "N", default_value_t = 0, requires = "model")]
    seed: u64,
    /// With --model: deal the corrections out at random. The gate has to refuse what is learned from them.
    #[cfg(feature = "onnx")]
    #[arg(long, requires = "model")]
    shuffled: bool,
    /// End when all is said.
    #[arg(long)]
    exit: bool,
    /// End the report with one line of JSON.
    #[arg(long)]
    json: bool,
    /// Where the proxy listens; the default takes any free port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: String,
    /// Where the dashboard listens.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
}

/// What the child process said of its night.
#[derive(Deserialize)]
struct Nights {
    nights: Vec<NightSaid>,
}

#[derive(Deserialize)]
struct NightSaid {
    scope: Scope,
    report: NightReport,
    commit: Option<String>,
}

impl Demo {
    pub fn run(self) -> Outcome {
        let mut config = self.common.load()?;
        // A data directory of its own, unless one was given: a demo must not mix with recorded traffic.
        let temporary = match &self.common.data {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("remora-demo-").tempdir()?),
        };
        if let Some(dir) = &temporary {
            config.data = Some(dir.path().to_owned());
        }
        config.listen.clone_from(&self.listen);
        if let Some(admin) = &self.admin {
            config.admin.clone_from(admin);
        } else if std::net::TcpListener::bind(&config.admin).is_err() {
            // A Remora that runs already is no reason not to show the demo.
            config.admin = "127.0.0.1:0".into();
        }
        config.dream.schedule = None;
        #[cfg(feature = "onnx")]
        if let Some(model) = &self.model {
            let tickets = tickets::Tickets {
                model: model.clone(),
                seed: self.seed,
                shuffled: self.shuffled,
                json: self.json,
                exit: self.exit,
                kept: temporary.is_none(),
            };
            return tickets.run(config);
        }
        runtime()?.block_on(self.play(config))
    }

    async fn play(self, mut config: Config) -> Outcome {
        let mut stop = pin!(stop_signal()?);
        let tasks = Tasks::new();
        let script = Script { run: Micros::now().0.unsigned_abs(), ..Script::default() };
        let model = Model::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), script).await?;
        config.upstream.url = format!("http://{}", model.address());
        let stopping = tasks.stopping();
        tasks.spawn("scripted model", async move {
            if let Err(error) = model.serve(stopping.cancelled_owned()).await {
                tracing::error!(%error, "the scripted model stopped");
            }
        });
        let config = config.checked("demo")?;
        let app = App::start(&config, None).await?;
        eprintln!(
            "A scripted model, a support-desk agent and Remora between them; dashboard: {}",
            app.admin_url()
        );

        let done = tokio::select! {
            done = self.day_and_night(&app, &config) => Some(done),
            () = &mut stop => None,
        };
        let outcome = match done {
            Some(Ok(())) if !self.exit => {
                let kept = if self.common.data.is_some() {
                    ""
                } else {
                    " Its data is temporary; --data DIR keeps it."
                };
                eprintln!("\nServing until Ctrl-C.{kept} Dashboard: {}", app.admin_url());
                stop.await;
                Ok(())
            }
            Some(done) => done,
            None => Ok(()),
        };
        app.stop().await;
        tasks.stop(std::time::Duration::from_secs(5)).await;
        outcome
    }

    async fn day_and_night(&self, app: &App, config: &Config) -> Outcome {
        let plan = Plan::default();
        let playing = bar("The day: conversations", Some(plan.conversations as u64));
        let summary = play(&app.proxy_url(), &plan, &mut |_| playing.inc(1)).await?;
        playing.finish_and_clear();
        let style = if std::io::stdout().is_terminal() { Style::Terminal } else { Style::Plain };
        output::line(report::day(&summary, style))?;

        let dreaming = bar("The night: clusters and lessons", None);
        dreaming.enable_steady_tick(std::time::Duration::from_millis(120));
        let nights = dream(&config.data_dir(), self.common.config_file().as_deref()).await;
        dreaming.finish_and_clear();
        self.tell(app, config, &summary, &nights?, style)
    }

    fn tell(&self, app: &App, config: &Config, summary: &Summary, nights: &Nights, style: Style) -> Outcome {
        let store = Store::open(&DataDir::new(config.data_dir()))?;
        let Some(night) = nights.nights.first() else {
            return Err(Failure::Failed(anyhow::anyhow!(
                "the night found no trajectories; was anything recorded?"
            )));
        };
        let clusters = store.clusters(&night.scope)?;
        let mut clusters: Vec<_> = clusters.into_iter().filter(|c| c.state != ClusterState::Closed).collect();
        clusters.sort_by_key(|c| std::cmp::Reverse(c.size));
        let lessons = store.lessons(&night.scope)?;
        let learned = store.dir().learned(&night.scope.tenant);
        let files = files_below(&learned)?;
        let places = Places {
            proxy: &app.proxy_url(),
            admin: &app.admin_url(),
            learned: &learned.display().to_string(),
            files: &files,
            commit: night.commit.as_deref(),
        };
        let report = Report { summary, night: &night.report, clusters: &clusters, lessons: &lessons, places };
        output::line(report::night(&report, style))?;
        if self.json {
            output::json_line(&report::json(&report))?;
        }
        Ok(())
    }
}

async fn dream(data: &Path, config_file: Option<&Path>) -> anyhow::Result<Nights> {
    let child = schedule::dream(data, config_file, &["--json"], Stdio::piped())
        .context("the night could not be started")?;
    let output = child.wait_with_output().await.context("the night could not be waited for")?;
    anyhow::ensure!(output.status.success(), "the night failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().context("the night said nothing")?;
    serde_json::from_str(last).context("the night's report cannot be read")
}

/// Files below a folder, without git's own, sorted.
fn files_below(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        if !next.exists() {
            continue;
        }
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_none_or(|n| n != ".git") {
                folders.push(path);
            } else if path.is_file()
                && let Ok(relative) = path.strip_prefix(folder)
            {
                files.push(relative.display().to_string());
            }
        }
    }
    files.sort();
    Ok(files)
}
