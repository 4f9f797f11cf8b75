/// Which exchanges are wanted.
#[derive(Clone, Debug, Default)]
pub struct ExchangeFilter {}
