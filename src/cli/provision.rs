#[derive(clap::Args, Debug)]
pub(super) struct Provision {}
impl Provision { pub fn run(self) -> super::Outcome { Ok(()) } }
