use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ClusterId, LessonId, NightId, Scope, TrajectoryId};

/// One line in a skill or memory file, with its evidence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lesson {
    pub id: LessonId,
    pub scope: Scope,
    pub kind: LessonKind,
    pub state: LessonState,
    /// The line, without markup; at most 60 words.
    pub text: String,
    /// The file it stands in, relative to the scope's folder: `skills/<name>/SKILL.md` or `memory/<topic>.md`.
    pub file: String,
    pub cluster: Option<ClusterId>,
    /// Trajectories it was made from.
    pub evidence: Vec<TrajectoryId>,
    /// The numbers behind it, in a sentence: how often successes and failures did what it says.
    pub support: String,
    /// The night that wrote it first.
    pub night: NightId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LessonKind {
    /// What to do, from contrast with successes.
    Rule,
    /// What goes wrong, where no contrast was strong enough.
    Pitfall,
    /// What a user said should have happened.
    Correction,
}

/// How far a lesson has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LessonState {
    /// Passed the gate.
    Active,
    /// Written down with its evidence, but not strong enough to act on.
    Watch,
    /// Taken out; kept under `archive/`.
    Retired,
}

macro_rules! names {
    ($type:ident { $($variant:ident => $name:literal),+ }) => {
        impl $type {
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl FromStr for $type {
            type Err = ();
            fn from_str(s: &str) -> Result<Self, ()> {
                match s { $($name => Ok(Self::$variant),)+ _ => Err(()) }
            }
        }
    };
}

names!(LessonKind { Rule => "rule", Pitfall => "pitfall", Correction => "correction" });
names!(LessonState { Active => "active", Watch => "watch", Retired => "retired" });
