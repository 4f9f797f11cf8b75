use clap::{Args, Subcommand};

use super::{Common, Outcome, output};

/// Check or print the configuration.
#[derive(Args, Debug)]
pub(super) struct ConfigVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Report every problem of the configuration file, each with its path.
    Check {
        #[command(flatten)]
        common: Common,
    },
    /// Print the settings in force as YAML.
    Print {
        #[command(flatten)]
        common: Common,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

impl ConfigVerb {
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::Check { common } => {
                common.load_quietly()?;
                let origin =
                    common.config_file().map_or("the built-in defaults".into(), |p| p.display().to_string());
                Ok(output::line(format_args!("{origin}: fine"))?)
            }
            Verb::Print { common, json } => {
                let config = common.load_quietly()?;
                if json {
                    return Ok(output::json_line(&config)?);
                }
                Ok(output::line(serde_saphyr::to_string(&config)?.trim_end())?)
            }
        }
    }
}
