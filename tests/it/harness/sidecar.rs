use std::path::Path;
use std::sync::{Arc, Mutex};

use remora::app::{App, Setup};
use remora::config::Config;
use remora::model::Exchange;
use remora::store::{DataDir, Store};

use super::{Answer, Connection, PATIENCE, until};

/// A Remora in process, on ports and in a directory of its own.
pub struct Sidecar {
    app: Option<App>,
    pub proxy: String,
    pub admin: String,
    pub dir: tempfile::TempDir,
    store: Store,
    /// What a reload reads.
    settings: Arc<Mutex<Config>>,
}

impl Sidecar {
    pub async fn start(upstream: &str) -> Self {
        Self::configured(upstream, |_| {}).await
    }

    pub async fn configured(upstream: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::again(tempfile::tempdir().expect("a temporary directory"), upstream, change).await
    }

    /// One in a data directory that may have been used before.
    pub async fn again(dir: tempfile::TempDir, upstream: &str, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            listen: "127.0.0.1:0".into(),
            admin: "127.0.0.1:0".into(),
            data: Some(dir.path().to_owned()),
            ..Config::default()
        };
        config.upstream.url = upstream.to_owned();
        config.dream.schedule = None;
        config.trajectories.every = None;
        // A test must not depend on how fast the disk is.
        config.capture.ack_timeout = remora::config::Span::secs(20);
        change(&mut config);
        let settings = Arc::new(Mutex::new(config.clone()));
        let read = settings.clone();
        let load = move || read.lock().expect("no test panics here").clone().checked("the test");
        let setup = Setup { load: Some(Box::new(load)), ..Setup::default() };
        let app = App::launch(&config, setup, None).await.expect("it starts");
        let store = Store::open(&DataDir::new(dir.path())).expect("the store opens beside it");
        Self { proxy: app.proxy_url(), admin: app.admin_url(), app: Some(app), dir, store, settings }
    }

    /// Where its embedded model is.
    pub fn serve_url(&self) -> Option<String> {
        self.app.as_ref()?.serve_url()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The store, with what has ended so far.
    pub fn store(&self) -> &Store {
        remora::capture::settle(&DataDir::new(self.path()), PATIENCE).expect("the journal is settled");
        &self.store
    }

    /// Sends one POST on a fresh connection and reads the answer.
    pub async fn post(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut connection = Connection::open(&self.proxy).await;
        connection.post(path, headers, body).await;
        connection.answer().await
    }

    /// Reads a page of the admin listener.
    pub async fn page(&self, path: &str) -> Answer {
        let mut connection = Connection::open(&self.admin).await;
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).await;
        connection.answer().await
    }

    /// The value of a metric line that begins with `name`.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = String::from_utf8(self.page("/metrics").await.body).expect("metrics are text");
        let line =
            page.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{page}"));
        line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number ends the line")
    }

    /// Everything recorded so far, what has ended just now included.
    pub fn exchanges(&self) -> Vec<Exchange> {
        let store = self.store();
        let mut all = Vec::new();
        let mut after = 0;
        while let Some((seq, exchange)) = store.exchange_after(after).expect("the record can be read") {
            after = seq;
            all.push(exchange);
        }
        all
    }

    /// Waits until `n` exchanges are recorded: for those whose end no client waits for.
    pub async fn recorded(&self, n: usize) -> Vec<Exchange> {
        until("exchanges to be recorded", || Some(self.exchanges()).filter(|all| all.len() >= n)).await
    }

    /// Changes the settings and has them read anew.
    pub async fn reload(&self, change: impl FnOnce(&mut Config)) {
        change(&mut self.settings.lock().expect("no test panics here"));
        self.app.as_ref().expect("it runs").reload().await;
    }

    pub async fn stop(&mut self) {
        self.app.take().expect("stopped once").stop().await;
    }
}
