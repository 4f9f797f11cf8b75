use std::sync::LazyLock;

use regex::Regex;

use crate::model::LessonId;

/// One lesson as it stands in a file: `- text <!-- ln_0123456789ab s:3 cl_… -->`.
///
/// The comment keeps the line's identity: ids in frontmatter would break readers that allow few keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LessonLine {
    /// One line, without comment marks.
    pub text: String,
    pub id: LessonId,
    /// How many trajectories it comes from.
    pub support: u32,
    /// The cluster it answers, as printed.
    pub cluster: Option<String>,
}

static FORM: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^- (.*\S) <!-- (ln_[0-9a-f]{12}) s:(\d{1,9})(?: (cl_[0-9a-f]{32}))? -->$")
        .expect("a constant pattern compiles")
});

impl LessonLine {
    /// Reads a line; none where it is none of ours.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let found = FORM.captures(line)?;
        Some(Self {
            text: found[1].to_owned(),
            id: LessonId::from_stored(found[2].to_owned()),
            support: found[3].parse().ok()?,
            cluster: found.get(4).map(|m| m.as_str().to_owned()),
        })
    }

    #[must_use]
    pub fn print(&self) -> String {
        let Self { text, id, support, cluster } = self;
        match cluster {
            Some(cluster) => format!("- {text} <!-- {id} s:{support} {cluster} -->"),
            None => format!("- {text} <!-- {id} s:{support} -->"),
        }
    }
}
