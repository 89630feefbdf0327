//! Why there is no connection, and what to do about it, where the words of the driver tell.

use std::path::Path;

use crate::dialect::Dialect;

/// What to say of an error, if it is one of setting up a connection that the user of this crate can avoid.
pub(crate) fn remedy(dialect: &dyn Dialect, error: &sqlx::Error) -> Option<String> {
    let title = dialect.title();
    let (mode, authority) = match dialect.name() {
        "postgres" => ("sslmode", "sslrootcert"),
        _ => ("ssl-mode", "ssl-ca"),
    };
    match error {
        sqlx::Error::Configuration(cause) if cause.to_string().starts_with("RSA auth backend disabled") => {
            Some(format!(
                "this user of {title} logs in by TLS only (caching_sha2_password or sha256_password): take the feature \
             `tls` of store-sql, and let {mode} in the URL allow it"
            ))
        }
        sqlx::Error::Configuration(_) => Some(format!(
            "{title} cannot be connected to as configured: look at the certificate and the key of the client, and at \
             the characters of user and password"
        )),
        sqlx::Error::Tls(cause) if cause.to_string().contains("without TLS support") => {
            Some(format!("{mode} in the URL asks for TLS: take the feature `tls` of store-sql"))
        }
        sqlx::Error::Tls(cause) if cause.to_string().contains("does not support TLS") => {
            Some(format!("{title} does not speak TLS here, which {mode} in the URL asks for: configure either"))
        }
        sqlx::Error::Tls(_) => Some(format!("no TLS connection to {title} could be agreed on")),
        sqlx::Error::Io(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            Some(format!("a file that the URL names does not exist: the socket of {title}, or a certificate"))
        }
        sqlx::Error::Io(cause) => certificate(&cause.to_string()).map(|why| {
            format!("the certificate of {title} {why}").replace("{authority}", &format!("{authority} in the URL"))
        }),
        _ => None,
    }
}

/// What is wrong with a certificate, from the words of rustls.
fn certificate(cause: &str) -> Option<&'static str> {
    let reasons = [
        (
            "CaUsedAsEndEntity",
            "is that of an authority (CA:TRUE), as `openssl req -x509` makes them, and no server may use one: issue \
             one with CA:FALSE, signed by that authority, and give the authority's by {authority}",
        ),
        ("UnknownIssuer", "is signed by no known authority: give the authority's certificate by {authority}"),
        ("not valid for name", "is for another host: connect to a host that it names"),
        ("certificate expired", "has expired: renew it, or set the clock of this machine"),
    ];
    reasons.into_iter().find_map(|(word, reason)| cause.contains(word).then_some(reason))
}

/// The file of a SQLite cannot be opened.
pub(crate) fn unopened(file: Option<&Path>) -> String {
    let file = file.unwrap_or(Path::new("its file")).display();
    format!(
        "SQLite cannot open {file}: create the folder, or correct the path; let this process write there, as SQLite \
         keeps more files beside it; and with mode=rw or mode=ro in the URL, the file must be there"
    )
}

#[cfg(all(test, feature = "mysql"))]
mod tests {
    use super::*;

    /// The driver's own words; whether it was built with TLS is not up to a test.
    #[test]
    fn without_the_feature_tls_it_is_named() {
        let error = sqlx::Error::Tls(
            "TLS upgrade required by connect options but SQLx was built without TLS support enabled".into(),
        );
        let remedy = remedy(&crate::mysql::MySql, &error).unwrap();
        assert_eq!(remedy, "ssl-mode in the URL asks for TLS: take the feature `tls` of store-sql");
    }

    #[test]
    fn a_configuration_that_may_quote_a_password_is_not_shown() {
        let error = sqlx::Error::Configuration("Failed to saslprep password: ProhibitedCharacter('s')".into());
        assert!(!remedy(&crate::mysql::MySql, &error).unwrap().contains("'s'"));
    }
}
