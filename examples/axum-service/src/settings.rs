//! The settings, from environment variables.

use std::{
    env::{self, VarError},
    fmt,
    net::SocketAddr,
};

/// The settings of the service. There is no `Debug`, because the URLs may have passwords.
pub(crate) struct Settings {
    pub(crate) database: Database,
    /// The URL of Redis. Without one, the cache is in memory alone.
    pub(crate) redis: Option<String>,
    pub(crate) listen: SocketAddr,
}

/// The database of the users.
pub(crate) struct Database {
    pub(crate) product: Product,
    pub(crate) url: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Product {
    Sqlite,
    Postgres,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        })
    }
}

/// A setting that cannot be used. It does not show values that may contain a password.
#[derive(Debug, thiserror::Error)]
#[error("{name} {problem}")]
pub(crate) struct SettingError {
    name: &'static str,
    problem: String,
}

impl Settings {
    pub(crate) fn from_environment() -> Result<Self, SettingError> {
        Self::read(|name| env::var(name))
    }

    fn read(variable: impl Fn(&str) -> Result<String, VarError>) -> Result<Self, SettingError> {
        // An empty variable counts as one that is not set.
        let optional = |name: &'static str| match variable(name) {
            Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(SettingError { name, problem: "is not UTF-8".into() }),
        };
        let database = optional("DATABASE_URL")?.unwrap_or_else(|| "sqlite://users.db?mode=rwc".into());
        let listen = optional("LISTEN")?.unwrap_or_else(|| "127.0.0.1:3000".into());
        Ok(Self { database: Database::parse(database)?, redis: optional("REDIS_URL")?, listen: parse_listen(&listen)? })
    }
}

impl Database {
    fn parse(url: String) -> Result<Self, SettingError> {
        let product = match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Product::Sqlite,
            Some("postgres" | "postgresql") => Product::Postgres,
            _ => {
                let problem = "names no known database; it begins with `sqlite:` or `postgres:`".into();
                return Err(SettingError { name: "DATABASE_URL", problem });
            }
        };
        Ok(Self { product, url })
    }
}

fn parse_listen(address: &str) -> Result<SocketAddr, SettingError> {
    address.parse().map_err(|_| SettingError {
        name: "LISTEN",
        problem: format!("is {address:?}, which is no IP address with a port; an example is 127.0.0.1:3000"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let value = |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        Settings::read(|name| value(name).ok_or(VarError::NotPresent)).map_err(|error| error.to_string())
    }

    #[test]
    fn every_setting_has_a_default() {
        let settings = read(&[("REDIS_URL", "")]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.database.product, Product::Sqlite);
        assert_eq!(settings.database.url, "sqlite://users.db?mode=rwc");
        assert_eq!(settings.redis, None);
        assert_eq!(settings.listen.to_string(), "127.0.0.1:3000");
    }

    #[test]
    fn settings_are_read() {
        let variables = [("DATABASE_URL", "postgres://h/d"), ("REDIS_URL", "redis://r/"), ("LISTEN", "[::1]:80")];
        let settings = read(&variables).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(settings.database.product, Product::Postgres);
        assert_eq!(settings.redis.as_deref(), Some("redis://r/"));
        assert_eq!(settings.listen.to_string(), "[::1]:80");
    }

    #[test]
    fn wrong_settings_are_named_without_passwords() {
        let error = read(&[("DATABASE_URL", "mysql://app:secret@h/d")]).err();
        let expected = "DATABASE_URL names no known database; it begins with `sqlite:` or `postgres:`";
        assert_eq!(error.as_deref(), Some(expected));
        let error = read(&[("LISTEN", "localhost")]).err();
        let expected = "LISTEN is \"localhost\", which is no IP address with a port; an example is 127.0.0.1:3000";
        assert_eq!(error.as_deref(), Some(expected));
    }
}
