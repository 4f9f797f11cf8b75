#[derive(clap::Args, Debug)]
pub(super) struct Dream {}
impl Dream { pub fn run(self) -> super::Outcome { Ok(()) } }
