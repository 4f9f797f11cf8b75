#[derive(clap::Args, Debug)]
pub(super) struct Show {}
impl Show { pub fn run(self) -> super::Outcome { Ok(()) } }
