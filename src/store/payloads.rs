use super::DataDir;
#[derive(Debug)]
pub(super) struct PayloadReader(#[allow(dead_code)] DataDir);
impl PayloadReader { pub(super) fn new(dir: DataDir) -> Self { Self(dir) } }
