use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process keeps for the upstream's connections, the record and everything else.
const RESERVE: u64 = 32;

/// Raises the limit of open files to what the system allows, and says how many client connections fit under it: a
/// quarter is left to connections to the upstream, which are pooled. None: without end.
pub(in crate::proxy) fn raise() -> Option<usize> {
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    let limit = if now.current == now.maximum || setrlimit(Resource::Nofile, raised).is_ok() {
        now.maximum
    } else {
        now.current
    };
    limit.map(room)
}

fn room(files: u64) -> usize {
    let room = files.saturating_sub(files / 4 + RESERVE).max(files / 4).max(1);
    usize::try_from(room).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_leaves_room_for_the_rest() {
        raise();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!([room(64), room(1024), room(20_000)], [16, 736, 14_968]);
    }
}
