//! The demo, and what it learned, taken up or dropped by its owner.

use std::path::Path;

use serde_json::Value;

use crate::harness::{remora, with_data};

/// Runs a verb that must succeed.
fn said(arguments: &[&str], data: &Path) -> String {
    let output = remora(&with_data(arguments, data));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

fn last_json(said: &str) -> Value {
    serde_json::from_str(said.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn the_demo_finds_its_failures_and_its_proposal_can_be_accepted_and_taken_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let config = dir.path().join("remora.yaml");
    std::fs::write(&config, "search:\n  embedder: lexical\ndream:\n  review: propose\n").expect("written");
    let config = config.to_str().expect("a plain path");

    let demo = ["demo", "--exit", "--json", "--admin", "127.0.0.1:0", "--config", config];
    let report = last_json(&said(&demo, &data));
    let clusters = report["night"]["clusters"].as_array().expect("clusters");
    let taught = clusters.iter().filter(|c| c["lessons"].as_array().is_some_and(|l| !l.is_empty())).count();
    assert!(taught >= 5, "{report}");

    // Proposed, not written.
    let memory = data.join("learned/default/default/MEMORY.md");
    assert!(!memory.exists());
    let nights = last_json(&said(&["dream", "--json", "--config", config], &data));
    assert_eq!(nights["nights"][0]["report"]["nothing_new"], true, "a second night has nothing to say");
    let list = last_json(&said(&["skills", "list", "--json"], &data));
    let proposals = list["proposals"].as_array().expect("proposals");
    assert_eq!(proposals.len(), 1, "{list}");
    let branch = proposals[0]["branch"].as_str().expect("a branch").to_owned();
    assert!(said(&["skills", "diff", &branch], &data).contains("MEMORY.md"));

    said(&["skills", "accept", &branch], &data);
    let index = std::fs::read_to_string(&memory).expect("written by accepting");
    assert!(index.contains("skills/") && index.contains("SKILL.md"), "{index}");

    let list = last_json(&said(&["skills", "list", "--json"], &data));
    let accepted = list["commits"][0]["id"].as_str().expect("a commit").to_owned();
    said(&["skills", "revert", &accepted], &data);
    assert!(!memory.exists(), "taken back");
}
