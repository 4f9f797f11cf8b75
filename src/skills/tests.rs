use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::LessonId;

fn lesson_line() -> impl Strategy<Value = Line> {
    ("[ -~“”é]{0,60}[!-,.-~]", "[0-9a-f]{12}", 0u32..1_000_000, proptest::option::of("[0-9a-f]{32}"))
        .prop_map(|(text, id, support, cluster)| {
            Line::Lesson(LessonLine {
                text,
                id: LessonId::from_stored(format!("ln_{id}")),
                support,
                cluster: cluster.map(|c| format!("cl_{c}")),
            })
        })
}

fn line() -> impl Strategy<Value = Line> {
    prop_oneof![
        lesson_line(),
        "[a-zA-Z#*`<!é ][ -~é]{0,40}".prop_map(Line::Text),
        Just(Line::Text("## Rules".into()))
    ]
}

fn front() -> impl Strategy<Value = Front> {
    let text = "[ -~é\"\\\\:{}#\n\t“]{0,60}";
    (
        proptest::option::of("[a-z]([a-z0-9]|-[a-z]){0,10}"),
        text,
        proptest::collection::btree_map("[a-z.]{1,8}", text, 0..4),
        proptest::option::of(text),
    )
        .prop_map(|(name, description, metadata, license)| Front {
            name: name.filter(|n| {
                !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&n.as_str())
            }),
            description,
            metadata,
            other: license.map(|l| BTreeMap::from([("license".to_owned(), l.into())])).unwrap_or_default(),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn printing_and_parsing_a_document_changes_nothing(
        front in proptest::option::of(front()),
        lines in proptest::collection::vec(line(), 0..12),
    ) {
        let document = Document { front, lines };
        let printed = document.print();
        let again = Document::parse(&printed).map_err(TestCaseError::fail)?;
        prop_assert_eq!(&again, &document);
        prop_assert_eq!(again.print(), printed);
    }

    #[test]
    fn no_text_breaks_the_reader(text in "\\PC{0,200}") {
        if let Ok(document) = Document::parse(&text) {
            let printed = document.print();
            // Frontmatter is printed in one form of many.
            if document.front.is_none() {
                prop_assert_eq!(printed.trim_end(), text.trim_end());
            }
        }
    }
}

#[test]
fn broken_frontmatter_is_reported_and_not_guessed() {
    assert!(Document::parse("---\nname: [\n---\nbody\n").is_err());
    assert!(Document::parse("---\nname: a\nbody without an end\n").is_err());
}

#[test]
fn the_diary_is_bounded_and_has_each_night_once() {
    let night = |n: u8| crate::model::NightId::from_bytes([n; 16]);
    let entry =
        |n: u8| DiaryEntry { night: night(n), day: "2026-11-21".into(), lines: vec!["x".repeat(1500)] };
    let mut diary = entry(0).onto(None);
    for n in 1..40 {
        diary = entry(n).onto(Some(&diary));
        assert!(diary.chars().count() <= DIARY_CHARS, "{}", diary.len());
    }
    assert_eq!(entry(39).onto(Some(&diary)), diary, "the same night again changes nothing");
    assert!(diary.find(&night(39).to_string()) < diary.find(&night(38).to_string()), "newest first");
    assert!(!diary.contains(&night(1).to_string()));
}

#[test]
fn the_index_stays_within_what_agents_load() {
    let entries: Vec<_> = (0..400)
        .map(|i| memory::IndexEntry {
            path: format!("skills/s{i}/SKILL.md"),
            name: format!("s{i}"),
            description: "d".repeat(200),
            rules: vec!["r".repeat(100)],
        })
        .collect();
    let index = memory::print(Some("# Mine\n\nkeep me\n"), &entries);
    assert!(index.lines().count() <= MEMORY_LINES && index.chars().count() <= MEMORY_CHARS);
    assert!(index.starts_with("# Mine\n\nkeep me\n"));
    assert_eq!(memory::print(Some(&index), &entries), index);
}

#[test]
fn files_of_a_night_killed_before_its_commit_are_not_taken_for_the_owners() {
    let dir = tempfile::tempdir().expect("a directory");
    let repo = Repo::open(dir.path()).expect("a repository");
    let when = crate::model::Micros(1_000_000);
    repo.commit(&[("a.md".into(), Some("old\n".into()))], "First\n", when, None).expect("a commit");
    // The night planned and wrote its files, and died.
    let oid = git2::Oid::hash_object(git2::ObjectType::Blob, b"new\n").expect("a hash");
    let plan = format!(r#"{{"a.md": "{oid}", "b.md": "{oid}"}}"#);
    std::fs::write(dir.path().join(".git/remora-plan.json"), plan).expect("written");
    std::fs::write(dir.path().join("a.md"), "new\n").expect("written");
    assert_eq!(repo.commit_owner_edits(when).expect("looked"), None);
    // What the owner writes meanwhile is theirs, even where the night planned something else.
    std::fs::write(dir.path().join("b.md"), "mine\n").expect("written");
    let edits = repo.commit_owner_edits(when).expect("looked").expect("a commit");
    let patch = repo.show(&edits).expect("a patch");
    assert!(patch.contains("+mine") && !patch.contains("+new"), "{patch}");
}
