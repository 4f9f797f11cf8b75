//! The learned repository: skill and memory files that agents read as they are, in git.
//!
//! In: lessons with their evidence, clusters, a night's diary. Out: `learned/<tenant>/<app>/{MEMORY.md, memory/*.md,
//! skills/<name>/SKILL.md, skills/<name>/references/evidence.md, archive/, DREAMS.md}`, valid under the
//! [Agent Skills specification](https://agentskills.io/specification), one commit a night.
//!
//! Always true: what the owner wrote or changed by hand is committed before anything else is written, stays as it is,
//! and what they took out does not come back. Files are replaced whole, never half. The repository has no remote and
//! no hooks; nobody's git configuration is read for names or changed.

mod commit;
mod diary;
mod document;
mod error;
mod front;
mod line;
mod memory;
mod merge;
mod name;
mod proposal;
mod publish;
mod repo;
mod review;
mod skill;

pub use diary::DiaryEntry;
pub use document::{Document, Line};
pub use error::SkillsError;
pub use front::Front;
pub use line::LessonLine;
pub use merge::OwnerDecision;
pub use name::{skill_name, topic_name};
pub use proposal::Proposal;
pub use publish::{Publication, Published, owner_decisions, publish};
pub use repo::{Change, Entry, Repo};
pub use review::{Accepted, accept, reject};

/// `SKILL.md` and its like hold no more characters than this: agents load them whole.
pub const SKILL_CHARS: usize = 10_000;
/// A description is loaded for every skill, used or not.
pub const DESCRIPTION_CHARS: usize = 300;
/// `memory/<topic>.md` in bytes.
pub const TOPIC_BYTES: usize = 4_096;
/// `MEMORY.md`: common agents load this many lines and characters and no more.
pub const MEMORY_LINES: usize = 200;
pub const MEMORY_CHARS: usize = 20_000;
/// `DREAMS.md` in characters; older nights fall off and stay in git.
pub const DIARY_CHARS: usize = 20_000;

#[cfg(test)]
mod tests;
