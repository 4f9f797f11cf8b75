#[derive(clap::Args, Debug)]
pub(super) struct Demo {}
impl Demo { pub fn run(self) -> super::Outcome { Ok(()) } }
