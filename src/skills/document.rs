use super::{Front, LessonLine};

/// A skill or memory file: frontmatter and lines, of which some are lessons. Printing what was parsed gives the same
/// document, so that an owner's text goes through unchanged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    pub front: Option<Front>,
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Lesson(LessonLine),
    /// Anything else, as it stands.
    Text(String),
}

impl Line {
    fn parse(line: &str) -> Self {
        LessonLine::parse(line).map_or_else(|| Self::Text(line.to_owned()), Self::Lesson)
    }

    #[must_use]
    pub fn print(&self) -> String {
        match self {
            Self::Lesson(lesson) => lesson.print(),
            Self::Text(text) => text.clone(),
        }
    }

    #[must_use]
    pub fn is_heading(&self) -> bool {
        matches!(self, Self::Text(t) if t.starts_with("## "))
    }

    #[must_use]
    pub fn is_blank(&self) -> bool {
        matches!(self, Self::Text(t) if t.trim().is_empty())
    }
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// With the reason, where frontmatter begins but cannot be read. Such a file is the owner's to mend.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (front, body) = match text.strip_prefix("---\n") {
            None => (None, text),
            Some(rest) => {
                let end = rest.find("\n---\n").ok_or("no line `---` ends it")?;
                (Some(Front::parse(&rest[..=end])?), &rest[end + 5..])
            }
        };
        let body = body.strip_suffix('\n').unwrap_or(body);
        let lines = if body.is_empty() { Vec::new() } else { body.split('\n').map(Line::parse).collect() };
        Ok(Self { front, lines })
    }

    #[must_use]
    pub fn print(&self) -> String {
        let mut out = self.front.as_ref().map(Front::print).unwrap_or_default();
        for line in &self.lines {
            out += &line.print();
            out.push('\n');
        }
        out
    }

    pub fn lessons(&self) -> impl Iterator<Item = &LessonLine> {
        self.lines.iter().filter_map(|l| match l {
            Line::Lesson(lesson) => Some(lesson),
            Line::Text(_) => None,
        })
    }

    /// The lessons under a heading (`## Rules`).
    pub fn lessons_under<'a>(&'a self, heading: &'a str) -> impl Iterator<Item = &'a LessonLine> {
        let start = self.lines.iter().position(|l| matches!(l, Line::Text(t) if t == heading));
        self.lines[start.map_or(self.lines.len(), |s| s + 1)..]
            .iter()
            .take_while(|l| !l.is_heading())
            .filter_map(|l| match l {
                Line::Lesson(lesson) => Some(lesson),
                Line::Text(_) => None,
            })
    }
}
