#[derive(clap::Args, Debug)]
pub(super) struct Skills {}
impl Skills { pub fn run(self) -> super::Outcome { Ok(()) } }
