use clap::Args;

use super::{Common, Outcome, output};
use crate::proxy::Authority;
use crate::store::DataDir;

/// Say where the certificate is that apps have to trust in forward-proxy mode; makes it where there is none.
#[derive(Args, Debug)]
pub(super) struct Ca {
    #[command(flatten)]
    common: Common,
    /// Print the certificate itself.
    #[arg(long)]
    pem: bool,
}

impl Ca {
    pub fn run(self) -> Outcome {
        let config = self.common.load()?;
        let folder = DataDir::new(config.data_dir()).authority();
        // One that is trusted already must not change because of another configuration.
        let certificate = Authority::certificate_in(&folder);
        if !certificate.exists() {
            Authority::open(&folder, &config.forward_proxy.host_names())?;
        }
        if self.pem {
            let pem = std::fs::read_to_string(&certificate)?;
            return Ok(output::line(pem.trim_end())?);
        }
        Ok(output::line(certificate.display())?)
    }
}
