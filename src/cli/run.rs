use std::path::PathBuf;

use clap::Args;

use super::{Common, Outcome, runtime};
use crate::app::App;

/// Proxy, record, show: the main job.
#[derive(Args, Debug)]
pub(super) struct Run {
    #[command(flatten)]
    common: Common,
    /// Where apps connect; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where the dashboard, health and metrics answer.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Base URL of the OpenAI-compatible endpoint.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Written once both listen: {"proxy": url, "admin": url, "pid": n}.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

impl Run {
    pub fn run(self) -> Outcome {
        let mut config = self.common.load()?;
        let set = |to: &mut String, from: Option<String>| from.into_iter().for_each(|value| *to = value);
        set(&mut config.listen, self.listen);
        set(&mut config.admin, self.admin);
        set(&mut config.upstream.url, self.upstream);
        let config = config.checked("command line")?;
        let config_file = self.common.config_file();
        if let Some(path) = &self.ready_file {
            // One of an earlier run would tell a supervisor of a process that is gone.
            drop(std::fs::remove_file(path));
        }
        let runtime = runtime()?;
        let done = runtime.block_on(async {
            // Before anything can be asked of us: a signal must find its handler.
            let stop = stop_signal()?;
            let app = App::start(&config, config_file.as_deref()).await?;
            eprintln!("remora: apps connect to  {}/v1  (goes to {})", app.proxy_url(), config.upstream.url);
            eprintln!("remora: dashboard at     {}", app.admin_url());
            eprintln!("remora: data in          {}", config.data_dir().display());
            if let Some(path) = &self.ready_file {
                app.write_ready_file(path)?;
            }
            stop.await;
            eprintln!("remora: stopping, running exchanges may finish within {}", config.shutdown.grace);
            let impatient = stop_signal()?;
            tokio::select! {
                () = app.stop() => {}
                () = impatient => eprintln!("remora: asked a second time, not waiting any longer"),
            }
            Ok(())
        });
        // Background work that does not end by itself is resumed by the next process.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        done
    }
}

/// Resolves at the first Ctrl-C or SIGTERM; the handlers are in place when this returns.
pub(super) fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    #[cfg(unix)]
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        drop(tokio::signal::ctrl_c().await);
    })
}
