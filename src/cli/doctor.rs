#[derive(clap::Args, Debug)]
pub(super) struct Doctor {}
impl Doctor { pub fn run(self) -> super::Outcome { Ok(()) } }
