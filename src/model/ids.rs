use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What was given is not an identifier of the expected kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?} is no {kind} id: expected {prefix}_ and 32 hexadecimal digits")]
pub struct IdError {
    pub given: String,
    pub kind: &'static str,
    pub prefix: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        ///
        /// A UUIDv7: ids made later sort later. Written as the prefix, `_` and 32 hexadecimal digits.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh id that sorts after the earlier ones of this process.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default id would be random")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The 16 bytes that the store keeps.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The id of 16 stored bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(s: &str) -> Result<Self, IdError> {
                let digits = s.strip_prefix(concat!($prefix, "_")).unwrap_or(s);
                Uuid::try_parse(digits)
                    .map(Self)
                    .map_err(|_| IdError { given: s.to_owned(), kind: $kind, prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// One request and its response.
    ExchangeId, "exchange", "ex"
);
uuid_id!(
    /// The ordered exchanges of one task.
    TrajectoryId, "trajectory", "tr"
);
uuid_id!(
    /// Failures with one signature; lasts over nights.
    ClusterId, "cluster", "cl"
);
uuid_id!(
    /// One run of the dream job.
    NightId, "night", "ni"
);
uuid_id!(
    /// LoRA weights for one base model; never changed once registered.
    AdapterId, "adapter", "ad"
);

/// One line in a skill or memory file: `ln_` and 12 hexadecimal digits of a hash of what the line says and where,
/// so that the same lesson found again is the same lesson.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LessonId(String);

impl LessonId {
    /// The id of a lesson about `subject` (the cluster it answers) that says `text`.
    #[must_use]
    pub fn of(subject: &str, text: &str) -> Self {
        use sha2::{Digest, Sha256};
        let digest = Sha256::new().chain_update(subject).chain_update([0]).chain_update(text).finalize();
        Self(format!("ln_{}", hex::encode(&digest[..6])))
    }

    /// The id as it was stored or printed.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LessonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_bytes() {
        let id = ExchangeId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(ExchangeId::from_bytes(*id.as_bytes()), id);
        assert!(id.to_string().starts_with("ex_"));
    }

    #[test]
    fn an_id_of_another_kind_is_refused_with_the_reason() {
        let other = TrajectoryId::new().to_string();
        let error = other.parse::<ExchangeId>().expect_err("a trajectory id is no exchange id");
        assert!(error.to_string().contains("expected ex_"), "{error}");
    }

    #[test]
    fn the_same_lesson_has_the_same_id() {
        assert_eq!(LessonId::of("c", "x"), LessonId::of("c", "x"));
        assert_ne!(LessonId::of("c", "x"), LessonId::of("cx", ""));
    }
}
