use std::time::Duration;

/// How long orders take, to tell others how long to stay away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Seconds from a slot's being taken to its being free, averaged with the newest counting most.
    seconds: f64,
}

/// What the newest counts for.
const NEWEST: f64 = 0.2;

impl Default for Pace {
    fn default() -> Self {
        Self { seconds: 1.0 }
    }
}

impl Pace {
    pub(super) fn took(&mut self, time: Duration) {
        self.seconds += NEWEST * (time.as_secs_f64() - self.seconds);
    }

    /// When there may be room behind so many that wait for so many slots: whole seconds, from one to a minute.
    pub(super) fn room_in(&self, waiting: usize, slots: usize) -> Duration {
        let turns = (waiting as f64 / slots.max(1) as f64).max(1.0) / 2.0;
        Duration::from_secs_f64((self.seconds * turns).ceil().clamp(1.0, 60.0))
    }
}
