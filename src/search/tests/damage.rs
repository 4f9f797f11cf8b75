use std::fs;

use super::*;

/// Each way to damage an index ends in one that finds all again.
#[test]
fn a_damaged_index_is_rebuilt_from_the_store() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 7] = [
        ("all files are garbage", |path| for_files(path, |_| true, |f| fs::write(f, b"garbage").unwrap())),
        ("all files are empty", |path| for_files(path, |_| true, |f| fs::write(f, b"").unwrap())),
        ("segments have one byte flipped", |path| {
            for_files(
                path,
                |name| !name.ends_with(".json") && !name.ends_with(".lock"),
                |f| {
                    let mut bytes = fs::read(f).unwrap();
                    bytes[0] ^= 1;
                    fs::write(f, bytes).unwrap();
                },
            );
        }),
        ("segments are gone", |path| {
            for_files(path, |name| !name.ends_with(".json"), |f| fs::remove_file(f).unwrap());
        }),
        ("meta.json is cut", |path| {
            let meta = path.join("meta.json");
            let bytes = fs::read(&meta).unwrap();
            fs::write(meta, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("the directory is gone", |path| fs::remove_dir_all(path).unwrap()),
        ("a file stands in its place", |path| {
            fs::remove_dir_all(path).unwrap();
            fs::write(path, b"file").unwrap();
        }),
    ];
    for (what, damage) in damages {
        let (world, [refund, ..]) = support_desk();
        world.catch_up(&Index::open(&world.store).unwrap());
        damage(&world.store.dir().index());
        let index = Index::open(&world.store).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(world.catch_up(&index).indexed, 3, "{what}");
        assert_eq!(world.find(&index, "broken")[0], refund, "{what}");
    }
}

fn for_files(path: &std::path::Path, which: fn(&str) -> bool, change: fn(&std::path::Path)) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if which(&path.file_name().unwrap().to_string_lossy()) {
            change(&path);
        }
    }
}

#[test]
fn while_another_process_writes_one_searches_what_is_there_and_repairs_nothing() {
    let (mut world, [refund, ..]) = support_desk();
    let index = Index::open(&world.store).unwrap();
    world.catch_up(&index);
    let other = world.add("desk", Label::Unknown, &[(Role::User, "a platypus")]);
    let writer: tantivy::IndexWriter = index.index.writer(20_000_000).unwrap();

    let done = world.catch_up(&Index::open(&world.store).unwrap());
    assert!(done.indexed == 0 && done.note.unwrap().contains("another process"));
    assert_eq!(world.find(&index, "broken"), [refund]);

    let meta = world.store.dir().index().join("meta.json");
    let whole = fs::read(&meta).unwrap();
    fs::write(&meta, b"{").unwrap();
    assert!(matches!(Index::open(&world.store), Err(SearchError::Busy { .. })));
    fs::write(&meta, whole).unwrap();

    drop(writer);
    assert_eq!(world.catch_up(&index).indexed, 1);
    assert_eq!(world.find(&index, "platypus"), [other]);
}

#[test]
fn many_may_open_and_catch_up_at_once() {
    let (world, [refund, ..]) = support_desk();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let index = Index::open(&world.store).unwrap();
                world.catch_up(&index);
            });
        }
    });
    let index = Index::open(&world.store).unwrap();
    world.catch_up(&index);
    assert_eq!(world.find(&index, "broken"), [refund]);
    assert_eq!(index.documents(), 3);
}
