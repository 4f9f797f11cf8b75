#[derive(Debug)]
pub struct RecordWriter;
