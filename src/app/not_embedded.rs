//! Without ONNX Runtime built in there is no model to embed.

use std::net::SocketAddr;

use tokio::sync::watch;

use super::Gates;
use super::listeners::Inherited;
use crate::config::Config;
use crate::store::Store;
use crate::tasks::Tasks;

pub(super) struct Embedded {
    pub address: Option<SocketAddr>,
}

impl Embedded {
    #[expect(clippy::unused_async, reason = "binding is")]
    pub async fn bind(config: &Config, _: &Gates, _: &mut Inherited) -> Self {
        if config.embeds_server() {
            tracing::error!(
                "this Remora is built without ONNX Runtime: no model is embedded, requests meant for it fail"
            );
        }
        Self { address: None }
    }

    pub fn open(&mut self, _: &Config, _: SocketAddr, _: &Store, _: watch::Receiver<()>, _: &Tasks) {}
}
