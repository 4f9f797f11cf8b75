use sha2::{Digest, Sha256};

/// Longest name that the Agent Skills specification allows.
const LONGEST: usize = 64;

/// A tool's or area's name as an Agent Skills name: `a`–`z`, digits and single hyphens inside, at most 64.
#[must_use]
pub fn skill_name(tool: &str) -> String {
    slug(tool, "tool")
}

/// The name of a memory topic: the same form.
#[must_use]
pub fn topic_name(topic: &str) -> String {
    slug(topic, "topic")
}

fn slug(name: &str, fallback: &str) -> String {
    let mut slug = String::new();
    let mut lower_before = false;
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            // `cancelOrder` reads as two words.
            if c.is_ascii_uppercase() && lower_before {
                slug.push('-');
            }
            slug.push(c.to_ascii_lowercase());
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
        lower_before = c.is_ascii_lowercase() || c.is_ascii_digit();
    }
    let slug = slug.trim_matches('-');
    if slug.is_empty() {
        return format!("{fallback}-{}", hex::encode(&Sha256::digest(name)[..4]));
    }
    if slug.len() > LONGEST {
        let head = slug[..LONGEST - 9].trim_end_matches('-');
        return format!("{head}-{}", hex::encode(&Sha256::digest(name)[..4]));
    }
    slug.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_specification() {
        for (tool, name) in [
            ("cancel_order", "cancel-order"),
            ("cancelOrder", "cancel-order"),
            ("functions.get_user", "functions-get-user"),
            ("__x__", "x"),
        ] {
            assert_eq!(skill_name(tool), name);
        }
        for hostile in ["", "../../etc", "ö", &"a-".repeat(80), "-", ".git"] {
            let name = skill_name(hostile);
            assert!((1..=64).contains(&name.len()), "{name}");
            assert!(!name.starts_with('-') && !name.ends_with('-') && !name.contains("--"), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
        }
    }
}
