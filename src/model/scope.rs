use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose traffic it is: tenant, app, user. Nothing learned crosses a tenant or an app.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scope {
    pub tenant: String,
    pub app: String,
    /// Empty where the client named none.
    pub user: String,
}

impl Default for Scope {
    fn default() -> Self {
        Self { tenant: "default".into(), app: "default".into(), user: String::new() }
    }
}

impl Scope {
    /// The scope that a request's headers tell; `header` gives the text of the one of a name.
    #[must_use]
    pub fn of_headers<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let told =
            |name: &str| header(name).map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned);
        let Self { tenant, app, user } = Self::default();
        Self {
            tenant: told("x-remora-tenant").unwrap_or(tenant),
            app: told("x-remora-app").unwrap_or(app),
            user: told("x-remora-user").or_else(|| told("helicone-user-id")).unwrap_or(user),
        }
    }

    /// The scope that lessons are kept for: the same, without the user.
    #[must_use]
    pub fn of_app(&self) -> Self {
        Self { user: String::new(), ..self.clone() }
    }
}

/// `tenant/app` or `tenant/app/user`.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.app)?;
        if self.user.is_empty() { Ok(()) } else { write!(f, "/{}", self.user) }
    }
}
