//! What fuzzing found, and where it begins: each committed seed keeps its law (see `fuzz/README.md`).

#[path = "../../fuzz/laws/body_split.rs"]
mod body_split;
#[path = "../../fuzz/laws/config.rs"]
mod config;
#[path = "../../fuzz/laws/journal.rs"]
mod journal;
#[path = "../../fuzz/laws/sse.rs"]
mod sse;

fn each_seed(target: &str, law: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds = 0;
    for seed in std::fs::read_dir(&folder).expect("there are seeds").flatten() {
        println!("{}", seed.path().display());
        law(&std::fs::read(seed.path()).expect("readable"));
        seeds += 1;
    }
    assert!(seeds > 0, "{} is empty", folder.display());
}

#[test]
fn the_seeds_of_event_streams_keep_their_law() {
    each_seed("sse", sse::holds);
}

#[test]
fn the_seeds_of_settings_keep_their_law() {
    each_seed("config", config::holds);
}

#[test]
fn the_seeds_of_journals_keep_their_law() {
    each_seed("journal", journal::holds);
}

#[test]
fn the_seeds_of_split_bodies_keep_their_law() {
    each_seed("body_split", body_split::holds);
}
