//! The source keeps its own rules: ranks, one place that spawns, one place that reads the environment, short files.
//!
//! The ranks are read from `src/lib.rs`, so that they are written down once.

mod scan;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use scan::{blank, paths, without_tests};

/// Lines that a file may have; tests beside the source in `tests.rs` are not counted.
const MOST_LINES: usize = 400;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files under `src`, with their paths relative to it.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let src = root().join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    paths.sort();
    let read = |p: PathBuf| {
        let text = std::fs::read_to_string(&p).expect("a source file is UTF-8");
        (p.strip_prefix(&src).expect("it was found there").to_owned(), text)
    };
    paths.into_iter().map(read).collect()
}

/// Whether a file holds nothing but tests.
fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "tests.rs") || path.components().any(|c| c.as_os_str() == "tests")
}

/// The room a file belongs to: `store` for `store/mod.rs` and for `store.rs`.
fn room(path: &Path) -> String {
    let first =
        path.components().next().expect("a file has a name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Ranks from `lib.rs`: `// rank N: …`, then `pub mod name;` lines.
fn ranks(lib: &str) -> BTreeMap<String, u32> {
    let mut rank = None;
    let mut ranks = BTreeMap::new();
    for line in lib.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("// rank ") {
            rank = rest.split(':').next().and_then(|n| n.parse().ok());
        } else if let Some(name) = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "))
            && let (Some(rank), Some(name)) = (rank, name.strip_suffix(';'))
        {
            ranks.insert(name.to_owned(), rank);
        }
    }
    ranks
}

// ---- the rules; each gives its complaints as `path:line: what`

/// Imports that do not point to a lower rank.
fn against_ranks(file: &Path, code: &str, ranks: &BTreeMap<String, u32>) -> Vec<String> {
    let room = room(file);
    if room == "lib" || room == "main" {
        return Vec::new();
    }
    let Some(own) = ranks.get(&room) else {
        return vec![format!("{}: room {room} has no rank in lib.rs", file.display())];
    };
    let mut complaints = Vec::new();
    for (line, path) in paths(code) {
        let [root, target, ..] = path.as_slice() else { continue };
        if root != "crate" || *target == room {
            continue;
        }
        let complaint = match ranks.get(target) {
            None => format!("crate::{target} has no rank"),
            Some(rank) if rank >= own => format!("{room} (rank {own}) imports {target} (rank {rank})"),
            Some(_) => continue,
        };
        complaints.push(format!("{}:{line}: {complaint}", file.display()));
    }
    complaints
}

/// Threads and tasks that are started outside `tasks.rs`.
fn bare_spawns(file: &Path, code: &str) -> Vec<String> {
    const SPAWNERS: [&str; 5] = ["spawn", "spawn_blocking", "spawn_local", "scope", "JoinSet"];
    const OF: [&str; 5] = ["tokio", "task", "thread", "runtime", "rayon"];
    if room(file) == "tasks" {
        return Vec::new();
    }
    let spawns = |path: &[String]| {
        let [.., of, name] = path else { return false };
        let thread_builder = of == "thread" && name == "Builder"
            || path.len() > 2 && path.windows(2).any(|w| w[0] == "thread" && w[1] == "Builder");
        OF.contains(&of.as_str()) && SPAWNERS.contains(&name.as_str()) || thread_builder
    };
    let hits = paths(code).into_iter().filter(|(_, path)| spawns(path));
    hits.map(|(line, path)| format!("{}:{line}: {} outside tasks.rs", file.display(), path.join("::")))
        .collect()
}

/// Reads of the environment outside `config`.
fn environment_reads(file: &Path, code: &str) -> Vec<String> {
    const READS: [&str; 4] = ["var", "var_os", "vars", "vars_os"];
    if room(file) == "config" {
        return Vec::new();
    }
    let reads =
        |path: &[String]| matches!(path, [.., of, name] if of == "env" && READS.contains(&name.as_str()));
    let hits = paths(code).into_iter().filter(|(_, path)| reads(path));
    hits.map(|(line, path)| format!("{}:{line}: {} outside config", file.display(), path.join("::")))
        .collect()
}

fn overlong(file: &Path, source: &str) -> Option<String> {
    let lines = source.lines().count();
    (lines > MOST_LINES).then(|| format!("{}: {lines} lines, at most {MOST_LINES}", file.display()))
}

fn report(complaints: &[String]) {
    let mut text = String::new();
    for complaint in complaints {
        writeln!(text, "  src/{complaint}").expect("a String takes all that is written");
    }
    assert!(complaints.is_empty(), "{} complaints:\n{text}", complaints.len());
}

/// The files that rules on code apply to, blanked.
fn code() -> Vec<(PathBuf, String)> {
    sources().into_iter().filter(|(p, _)| !is_test(p)).map(|(p, s)| (p, without_tests(&blank(&s)))).collect()
}

#[test]
fn imports_point_to_a_lower_rank() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs can be read");
    let ranks = ranks(&lib);
    assert!(ranks.len() > 10, "ranks were not found in lib.rs: {ranks:?}");
    report(&code().iter().flat_map(|(p, c)| against_ranks(p, c, &ranks)).collect::<Vec<_>>());
}

#[test]
fn the_table_of_ranks_in_the_documentation_is_that_of_the_code() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs can be read");
    let page = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the page can be read");
    let mut documented = BTreeMap::new();
    for line in page.lines().filter(|l| l.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let (Some(Ok(rank)), Some(names)) = (cells.get(1).map(|c| c.parse()), cells.get(2)) {
            documented.extend(names.split(", ").map(|n| (n.trim_matches('`').to_owned(), rank)));
        }
    }
    assert_eq!(documented, ranks(&lib));
}

#[test]
fn only_tasks_starts_threads_and_tasks() {
    report(&code().iter().flat_map(|(p, c)| bare_spawns(p, c)).collect::<Vec<_>>());
}

#[test]
fn only_config_reads_the_environment() {
    report(&code().iter().flat_map(|(p, c)| environment_reads(p, c)).collect::<Vec<_>>());
}

#[test]
fn files_are_short_enough_to_be_read_at_once() {
    report(
        &sources()
            .iter()
            .filter(|(p, _)| !is_test(p))
            .filter_map(|(p, s)| overlong(p, s))
            .collect::<Vec<_>>(),
    );
}

mod scanner {
    use super::*;

    fn clean(source: &str) -> String {
        without_tests(&blank(source))
    }

    fn found(source: &str) -> Vec<String> {
        paths(&clean(source)).into_iter().map(|(_, p)| p.join("::")).filter(|p| p.contains("::")).collect()
    }

    fn abc() -> BTreeMap<String, u32> {
        ranks(
            "// rank 0: low\npub mod a;\n// rank 1: high\n#[cfg(feature = \"x\")]\npub mod b;\npub mod c;\n",
        )
    }

    #[test]
    fn ranks_are_read_from_the_comments() {
        assert_eq!(abc(), [("a".into(), 0), ("b".into(), 1), ("c".into(), 1)].into());
    }

    #[test]
    fn an_import_up_or_across_is_reported_with_its_line() {
        let at = |file: &str, source: &str| against_ranks(Path::new(file), &clean(source), &abc());
        assert_eq!(at("a/x.rs", "\nuse crate::b::T;"), ["a/x.rs:2: a (rank 0) imports b (rank 1)"]);
        assert_eq!(at("b.rs", "fn f() { crate::c::g() }"), ["b.rs:1: b (rank 1) imports c (rank 1)"]);
        assert_eq!(at("a.rs", "use crate::{a::T, b::{U, V}};").len(), 2);
        assert_eq!(at("a.rs", "pub(crate) fn f(x: &crate::b::T) {}").len(), 1);
        assert_eq!(
            at("b.rs", "use crate::a::{self, T}; use crate::b::U; use super::c;"),
            Vec::<String>::new()
        );
        assert_eq!(at("d.rs", ""), ["d.rs: room d has no rank in lib.rs"]);
        assert_eq!(at("b.rs", "use crate::nowhere::X;"), ["b.rs:1: crate::nowhere has no rank"]);
    }

    #[test]
    fn tests_comments_and_strings_are_no_code() {
        for source in [
            "// use crate::b;",
            "/* /* */ crate::b */",
            "let x = \"crate::b\\\"crate::b\";",
            "let x = r#\"crate::b\"#;",
            "#[cfg(test)]\nmod tests { mod inner { use crate::b::T; } }",
            "#[cfg(test)]\nuse crate::b::T;",
        ] {
            assert_eq!(found(source), Vec::<String>::new(), "{source}");
        }
        assert_eq!(found("let q = '\"'; crate::b::f(); let a: &'a str = \"x\";"), ["crate::b::f"]);
        assert_eq!(found("#[cfg(test)] mod t { } use crate::b::T;"), ["crate::b::T"]);
        assert_eq!(found("let c = '\\''; crate::b::f();"), ["crate::b::f"]);
    }

    #[test]
    fn spawns_are_found_under_their_usual_names() {
        let at = |source: &str| bare_spawns(Path::new("a.rs"), &clean(source)).len();
        for source in [
            "tokio::spawn(f());",
            "std::thread::spawn(f);",
            "tokio::task::spawn_blocking(f);",
            "use tokio::{net::TcpListener, task::JoinSet};",
            "std::thread::Builder::new()",
            "use std::thread::{self, spawn};",
        ] {
            assert_eq!(at(source), 1, "{source}");
        }
        for source in
            ["tasks.spawn(\"x\", f());", "Command::new(x).spawn()?;", "crate::tasks::spawn_blocking(f)"]
        {
            assert_eq!(at(source), 0, "{source}");
        }
        assert!(bare_spawns(Path::new("tasks.rs"), "tokio::spawn(f());").is_empty());
    }

    #[test]
    fn environment_reads_are_found_but_compile_time_ones_are_not() {
        let at = |file: &str, source: &str| environment_reads(Path::new(file), &clean(source)).len();
        assert_eq!(at("a.rs", "let x = std::env::var(\"X\");"), 1);
        assert_eq!(at("a.rs", "use std::env::{self, var_os};"), 1);
        assert_eq!(at("a.rs", "env!(\"X\"); std::env::args(); std::env::temp_dir();"), 0);
        assert_eq!(at("config/env.rs", "std::env::var(\"X\")"), 0);
    }

    #[test]
    fn a_file_is_too_long_from_the_next_line_on() {
        let lines = |n: usize| "x\n".repeat(n);
        assert_eq!(overlong(Path::new("a.rs"), &lines(MOST_LINES)), None);
        assert_eq!(
            overlong(Path::new("a.rs"), &lines(MOST_LINES + 1)),
            Some("a.rs: 401 lines, at most 400".into())
        );
    }
}
