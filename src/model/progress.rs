/// Where long work says how far it is. Calls are cheap and never fail; nothing depends on them.
pub trait Progress: Send + Sync {
    /// A new piece of work, in words; `total` in its own units where it is known.
    fn begin(&self, what: &str, total: Option<u64>);

    /// How many units of the current piece are done, counted from its beginning.
    fn reached(&self, done: u64);

    /// The current piece is over.
    fn end(&self);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn reached(&self, _: u64) {}
    fn end(&self) {}
}
