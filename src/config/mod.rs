//! Settings: one struct a section, defaults in one place, checked before anything starts.
//!
//! In: a YAML file, `${ENV}` references in it, options of the command line. Out: a [`Config`] that can be run, or every
//! problem at once, each with its path. The environment is read nowhere else.

mod adapters;
mod capture;
mod device;
mod dream;
mod embedded;
mod environment;
mod listener;
mod load;
mod proxy;
mod retention;
mod search;
mod secret;
mod serve;
mod shutdown;
mod train;
mod units;
mod upstream;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use adapters::{Adapters, SwapTarget, TargetKind};
pub use capture::{Capture, Durability};
pub use device::DeviceChoice;
pub use dream::{Dream, Review, parse_schedule};
pub use environment::{prepare_environment, variable};
pub use listener::{Limits, Tls};
pub use load::{ConfigError, Problem};
pub use proxy::{Dashboard, Log, LogFormat, Trajectories};
pub use retention::Retention;
pub use search::{Embedder, Fetch, Onnx, Search};
pub use secret::Secret;
pub use serve::{Quantize, Serve};
pub use shutdown::Shutdown;
pub use train::{Train, TrainExamples, TrainGate, TrainLora, parse_scope};
pub use units::Span;
pub use upstream::{EMBEDDED, ForwardProxy, Http2, Route, Upstream, UpstreamProxy, check_proxy};

/// All settings. `config/remora.yaml` shows every key with its default and a sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where apps connect: address and port; port 0 picks a free one.
    pub listen: String,
    /// Where the dashboard, health and metrics answer.
    pub admin: String,
    /// TLS for apps; null: plain HTTP.
    pub tls: Option<Tls>,
    /// What a client may take.
    pub limits: Limits,
    /// The data directory; null: the platform's.
    pub data: Option<PathBuf>,
    pub upstream: Upstream,
    /// The first that matches a request takes it; else it goes to `upstream`.
    pub routes: Vec<Route>,
    pub forward_proxy: ForwardProxy,
    pub capture: Capture,
    pub retention: Retention,
    pub trajectories: Trajectories,
    pub search: Search,
    pub onnx: Onnx,
    pub dream: Dream,
    pub adapters: Adapters,
    pub serve: Serve,
    pub train: Train,
    pub dashboard: Dashboard,
    pub shutdown: Shutdown,
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:4141".into(),
            admin: "127.0.0.1:4142".into(),
            tls: None,
            limits: Limits::default(),
            data: None,
            upstream: Upstream::default(),
            routes: Vec::new(),
            forward_proxy: ForwardProxy::default(),
            capture: Capture::default(),
            retention: Retention::default(),
            trajectories: Trajectories::default(),
            search: Search::default(),
            onnx: Onnx::default(),
            dream: Dream::default(),
            adapters: Adapters::default(),
            serve: Serve::default(),
            train: Train::default(),
            dashboard: Dashboard::default(),
            shutdown: Shutdown::default(),
            log: Log::default(),
        }
    }
}

impl Config {
    /// The data directory: the configured one, or the platform's (`~/.local/share/remora` on Linux).
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| {
            directories::ProjectDirs::from("", "", "remora")
                .map_or_else(|| PathBuf::from("remora-data"), |dirs| dirs.data_dir().to_owned())
        })
    }
}
