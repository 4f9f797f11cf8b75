#[derive(clap::Args, Debug)]
pub(super) struct Search {}
impl Search { pub fn run(self) -> super::Outcome { Ok(()) } }
