//! Where read models are kept, as the settings say it: `sqlite`, or the URL of a PostgreSQL database.
//!
//! Refuses: parameters that it does not know, since a misspelt one would be passed over, and whatever
//! could show a password. Invariant: neither an error nor `Debug` holds any part of the text.

use std::fmt;
use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;

/// Parameters that a URL may have behind its `?`.
const PARAMETERS: [&str; 11] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

const SSL_MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];

/// See the file's description.
#[derive(Clone)]
pub enum StoreAddress {
    /// A file in the data directory.
    Sqlite,
    /// A database that nodes share.
    Postgres(Box<PgConnectOptions>),
}

impl fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "Sqlite",
            Self::Postgres(_) => "Postgres(..)",
        })
    }
}

impl StoreAddress {
    /// Reads the text of the setting.
    ///
    /// # Errors
    /// What is wrong with it, in words that show none of it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "sqlite" {
            return Ok(Self::Sqlite);
        }
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err("it is neither \"sqlite\" nor begins with postgres:// or postgresql://");
        }
        let parameters = text.split_once('?').map_or("", |(_, behind)| behind);
        for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !PARAMETERS.contains(&name) {
                return Err(
                    "it has a parameter other than application_name, dbname, host, hostaddr, \
                     password, port, sslcert, sslkey, sslmode, sslrootcert and user",
                );
            }
            if name == "sslmode" && !SSL_MODES.contains(&value) {
                return Err(
                    "its sslmode is not disable, prefer, require, verify-ca or verify-full",
                );
            }
        }
        let options = PgConnectOptions::from_str(text).map_err(
            |_| "it is not a URL of the form postgres://user:password@host:port/database",
        )?;
        Ok(Self::Postgres(Box::new(options)))
    }

    /// The text of the setting as it may be shown: without the password.
    #[must_use]
    pub fn shown(text: &str) -> String {
        if Self::parse(text).is_err() {
            return "(not shown)".to_owned();
        }
        let (head, parameters) = text.split_once('?').unwrap_or((text, ""));
        let head = match head.split_once("://") {
            Some((scheme, rest)) => match rest.rsplit_once('@') {
                Some((user, host)) => {
                    let name = user.split(':').next().unwrap_or_default();
                    let hidden = if user.contains(':') { ":***" } else { "" };
                    format!("{scheme}://{name}{hidden}@{host}")
                }
                None => head.to_owned(),
            },
            None => head.to_owned(),
        };
        let kept: Vec<String> = parameters
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.split_once('=') {
                Some(("password", _)) => "password=***".to_owned(),
                _ => pair.to_owned(),
            })
            .collect();
        if kept.is_empty() {
            head
        } else {
            format!("{head}?{}", kept.join("&"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_an_address_has_no_password() {
        for (text, shown) in [
            ("sqlite", "sqlite"),
            ("postgres://h/d", "postgres://h/d"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("postgres://u:s3cret@h:1/d", "postgres://u:***@h:1/d"),
            ("postgres://u:s3@cret@h:1/d", "postgres://u:***@h:1/d"),
            (
                "postgresql://h/d?user=u&password=s3cret&sslmode=require",
                "postgresql://h/d?user=u&password=***&sslmode=require",
            ),
            ("postgres://u:s3cret@h:x/d", "(not shown)"),
            ("postgres://u:s3cret@h/d?pasword=s3cret", "(not shown)"),
            ("s3cret", "(not shown)"),
        ] {
            assert_eq!(StoreAddress::shown(text), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_told() {
        for text in [
            "",
            "SQLite",
            "s3cret",
            "mysql://u:s3cret@h/d",
            "postgres://u:s3cret@h:99999/d",
            "postgres://u:s3cret@[h/d",
            "postgres://u:s3cret@h/d?sslmode=s3cret",
            "postgres://u:s3cret@h/d?sslmode",
            "postgres://u:s3cret@h/d?pasword=s3cret",
            "postgres://u:s3cret@h/d?port=s3cret",
        ] {
            let error = StoreAddress::parse(text).unwrap_err();
            assert!(!error.contains("s3"), "{text}: {error}");
        }
        let address = StoreAddress::parse("postgres://u:s3cret@h/d").unwrap();
        assert!(!format!("{address:?}").contains("s3"));
    }
}
