use std::convert::Infallible;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use super::error::PageError;
use crate::model::Scope;

/// The query of an address: every filter stands there, so that an address is all there is to share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// The value of a parameter; an empty one is none, as forms send what was left blank.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// The value of a parameter, read.
    pub(super) fn read<T: FromStr>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, PageError> {
        let Some(given) = self.get(name) else { return Ok(None) };
        given.parse().map(Some).map_err(|_| PageError::Parameter { name, given: given.into(), expected })
    }

    /// The scope asked for as `scope=tenant/app`.
    pub(super) fn scope(&self, known: &[Scope]) -> Result<Option<Scope>, PageError> {
        let Some(given) = self.get("scope") else { return Ok(None) };
        // Names may hold slashes: what is known decides, only then the first slash.
        if let Some(scope) = known.iter().find(|s| s.to_string() == given) {
            return Ok(Some(scope.clone()));
        }
        let Some((tenant, app)) = given.split_once('/') else {
            return Err(PageError::Parameter { name: "scope", given: given.into(), expected: "tenant/app" });
        };
        Ok(Some(Scope { tenant: tenant.into(), app: app.into(), user: String::new() }))
    }

    /// The address of `path` with these parameters, some of them replaced; none takes one out.
    pub(super) fn link(&self, path: &str, changes: &[(&str, Option<&str>)]) -> String {
        let kept = self.0.iter().filter(|(n, _)| changes.iter().all(|(c, _)| c != n));
        let kept = kept.map(|(n, v)| (n.as_str(), v.as_str()));
        address(path, kept.chain(changes.iter().filter_map(|(n, v)| Some((*n, (*v)?)))))
    }
}

/// An address with a query; empty values are left out.
pub(super) fn address<'a>(path: &str, query: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = path.to_owned();
    let mut separator = '?';
    for (name, value) in query {
        if !value.is_empty() {
            text.push(separator);
            encode(name, &mut text);
            text.push('=');
            encode(value, &mut text);
            separator = '&';
        }
    }
    text
}

/// Percent-encodes all but RFC 3986's unreserved characters and the slash, which a query may hold as it is.
fn encode(text: &str, into: &mut String) {
    use std::fmt::Write;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            into.push(char::from(byte));
        } else {
            write!(into, "%{byte:02X}").expect("writing to a string succeeds");
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Pairs of strings can be read from any query; what is not UTF-8 becomes replacement characters.
        Ok(Query::try_from_uri(&parts.uri).map(|Query(pairs)| Self(pairs)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(address: &str) -> Params {
        let uri = address.parse().expect("an address that was just made is one");
        Params(Query::try_from_uri(&uri).map(|Query(pairs)| pairs).expect("pairs of strings"))
    }

    #[test]
    fn a_change_replaces_one_parameter_and_keeps_the_others() {
        let params = parse("/x?label=failure&before=5&session=a");
        assert_eq!(params.link("/x", &[("before", Some("9"))]), "/x?label=failure&session=a&before=9");
        assert_eq!(params.link("/x", &[("before", None), ("label", None)]), "/x?session=a");
    }

    #[test]
    fn a_known_scope_may_hold_slashes() {
        let known = [Scope { tenant: "a/b".into(), app: "c".into(), user: String::new() }];
        assert_eq!(parse("/?scope=a/b/c").scope(&known).expect("known"), Some(known[0].clone()));
        assert!(parse("/?scope=a").scope(&known).is_err());
    }

    proptest! {
        #[test]
        fn any_value_survives_the_address(value in "\\PC{1,40}") {
            let link = address("/x", [("q", value.as_str())]);
            let params = parse(&link);
            prop_assert_eq!(params.get("q"), Some(value.as_str()));
        }
    }
}
