use std::path::PathBuf;

use clap::Args;

use super::{Common, Outcome, runtime};
use crate::app::{App, Inherited, Leaving, Notifier, Setup};
#[cfg(unix)]
use crate::app::{AppError, Successor, Takeover};
use crate::config::{Config, ConfigError};

/// Proxy, record, show: the main job.
#[derive(Args, Debug, Clone)]
pub(super) struct Run {
    #[command(flatten)]
    common: Common,
    /// Where apps connect; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where the dashboard, health and metrics answer.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Base URL of the OpenAI-compatible endpoint; or `embedded`: the model of `serve`, in this process.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Written once both listen: {"proxy": url, "admin": url, "pid": n}.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Take the place of the process that runs on the data directory, without losing a request; start as always where
    /// none runs.
    #[cfg(unix)]
    #[arg(long)]
    takeover: bool,
}

impl Run {
    pub fn run(self) -> Outcome {
        // Before there are threads.
        let inherited = Inherited::from_service_manager()?;
        let config = self.options(self.common.load()?)?;
        let runtime = runtime()?;
        let done = runtime.block_on(self.serve(config, inherited));
        // Background work that does not end by itself is resumed by the next process.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        done
    }

    /// Options win over the file, also when it is read again.
    fn options(&self, mut config: Config) -> Result<Config, ConfigError> {
        let set = |to: &mut String, from: &Option<String>| {
            if let Some(value) = from {
                to.clone_from(value);
            }
        };
        set(&mut config.listen, &self.listen);
        set(&mut config.admin, &self.admin);
        set(&mut config.upstream.url, &self.upstream);
        config.checked("command line")
    }

    async fn serve(self, config: Config, inherited: Inherited) -> Outcome {
        // Before anything can be asked of us: a signal must find its handler.
        let mut signals = Signals::listen()?;
        let again = self.clone();
        let setup = Setup {
            config_file: self.common.config_file(),
            load: Some(Box::new(move || again.options(again.common.read()?))),
            inherited,
            notifier: Notifier::from_environment(),
        };
        let app = self.launch(&config, setup).await?;
        eprintln!("remora: apps connect to  {}/v1  (goes to {})", app.proxy_url(), config.upstream.url);
        if let Some(url) = app.serve_url() {
            eprintln!("remora: embedded is      {}, at {url}/v1", config.serve.model);
        }
        eprintln!("remora: dashboard at     {}", app.admin_url());
        eprintln!("remora: data in          {}", config.data_dir().display());
        if let Some(path) = &self.ready_file {
            app.write_ready_file(path)?;
        }

        #[cfg(unix)]
        let successor = Successor::of_this_process()?;
        let leaving = loop {
            let signal = tokio::select! {
                signal = signals.next() => signal,
                () = app.handed_over() => break Leaving::HandedOver,
            };
            match signal {
                Signal::Stop => break Leaving::Stopping,
                Signal::Reload => app.reload().await,
                #[cfg(unix)]
                Signal::Succeed => {
                    if let Err(error) = successor.start(&app) {
                        tracing::error!(%error, "this process goes on");
                    }
                }
            }
        };
        let grace = app.drain(leaving);
        match leaving {
            Leaving::Stopping => eprintln!("remora: stopping, running exchanges may finish within {grace}"),
            Leaving::HandedOver => {
                eprintln!(
                    "remora: another process has taken over, running exchanges may finish within {grace}"
                );
            }
        }
        let mut asked = leaving == Leaving::Stopping;
        loop {
            tokio::select! {
                () = app.drained() => break,
                signal = signals.next() => match signal {
                    Signal::Stop if asked => return impatient(),
                    Signal::Stop => {
                        asked = true;
                        let grace = app.drain(Leaving::Stopping);
                        eprintln!("remora: stopping, running exchanges may finish within {grace}");
                    }
                    _ => {}
                },
            }
        }
        tokio::select! {
            () = app.stop() => Ok(()),
            () = signals.stop() => impatient(),
        }
    }

    #[cfg(unix)]
    async fn launch(&self, config: &Config, mut setup: Setup) -> Result<App, AppError> {
        let mut takeover = None;
        if self.takeover {
            takeover = Takeover::ask(&config.data_dir()).await?;
        }
        match &mut takeover {
            Some(takeover) => setup.inherited = takeover.inherited(),
            // One of an earlier run would tell a supervisor of a process that is gone.
            None => self.ready_file.iter().for_each(|path| drop(std::fs::remove_file(path))),
        }
        App::launch(config, setup, takeover).await
    }

    #[cfg(not(unix))]
    async fn launch(&self, config: &Config, setup: Setup) -> Result<App, crate::app::AppError> {
        self.ready_file.iter().for_each(|path| drop(std::fs::remove_file(path)));
        App::launch(config, setup).await
    }
}

fn impatient() -> Outcome {
    eprintln!("remora: asked a second time, not waiting any longer");
    Ok(())
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// SIGTERM, SIGINT (Ctrl-C).
    Stop,
    /// SIGHUP.
    #[cfg_attr(not(unix), expect(dead_code, reason = "there is no such signal"))]
    Reload,
    /// SIGUSR2.
    #[cfg(unix)]
    Succeed,
}

/// The signals that this process heeds.
struct Signals {
    #[cfg(unix)]
    streams: [tokio::signal::unix::Signal; 4],
}

impl Signals {
    /// The handlers are in place when this returns.
    #[cfg(unix)]
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind as Kind, signal};
        let kinds = [Kind::terminate(), Kind::interrupt(), Kind::hangup(), Kind::user_defined2()];
        let [terminate, interrupt, hangup, user2] = kinds.map(signal);
        Ok(Self { streams: [terminate?, interrupt?, hangup?, user2?] })
    }

    #[cfg(not(unix))]
    fn listen() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    async fn next(&mut self) -> Signal {
        let [terminate, interrupt, hangup, user2] = &mut self.streams;
        tokio::select! {
            _ = terminate.recv() => Signal::Stop,
            _ = interrupt.recv() => Signal::Stop,
            _ = hangup.recv() => Signal::Reload,
            _ = user2.recv() => Signal::Succeed,
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) -> Signal {
        drop(tokio::signal::ctrl_c().await);
        Signal::Stop
    }

    async fn stop(&mut self) {
        while self.next().await != Signal::Stop {}
    }
}

/// Resolves at the first Ctrl-C or SIGTERM; the handlers are in place when this returns.
pub(super) fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::listen()?;
    Ok(async move { signals.stop().await })
}
