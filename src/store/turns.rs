#[derive(Debug)]
pub struct NewTurn;
#[derive(Debug)]
pub struct Turn;
