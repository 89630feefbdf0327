//! Advice for errors of setting up a connection, as far as the driver's message tells the cause.

use std::path::Path;

use crate::dialect::Dialect;

/// Returns the message for an error of setting up a connection that the user of this crate can
/// avoid.
pub(super) fn for_error(dialect: &dyn Dialect, error: &sqlx::Error) -> Option<String> {
    let title = dialect.title();
    let (mode, authority) = match dialect.name() {
        "postgres" => ("sslmode", "sslrootcert"),
        _ => ("ssl-mode", "ssl-ca"),
    };
    match error {
        sqlx::Error::Configuration(cause) if cause.to_string().starts_with("RSA auth backend disabled") => {
            Some(format!(
                "this user of {title} can log in only over TLS (caching_sha2_password or sha256_password): enable the \
                 feature `tls` of store-sql, and let {mode} in the URL allow it"
            ))
        }
        sqlx::Error::Configuration(_) => Some(format!(
            "the configuration of the connection to {title} is invalid: check the certificate and the key of the \
             client, and the characters of user and password"
        )),
        sqlx::Error::Tls(cause) if cause.to_string().contains("without TLS support") => {
            Some(format!("{mode} in the URL requires TLS: enable the feature `tls` of store-sql"))
        }
        sqlx::Error::Tls(cause) if cause.to_string().contains("does not support TLS") => {
            Some(format!("{title} does not speak TLS here, but {mode} in the URL requires it: change one of them"))
        }
        sqlx::Error::Tls(_) => Some(format!("the TLS handshake with {title} failed")),
        sqlx::Error::Io(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            Some(format!("a file that the URL names does not exist: the socket of {title}, or a certificate"))
        }
        sqlx::Error::Io(cause) => for_certificate(&cause.to_string()).map(|why| {
            format!("the certificate of {title} {why}").replace("{authority}", &format!("{authority} in the URL"))
        }),
        _ => None,
    }
}

/// Returns what is wrong with a certificate, and the remedy. `cause` is the message of rustls.
fn for_certificate(cause: &str) -> Option<&'static str> {
    let reasons = [
        (
            "CaUsedAsEndEntity",
            "is that of an authority (CA:TRUE), as `openssl req -x509` creates it, and no server may use one: issue \
             one with CA:FALSE, signed by that authority, and pass the authority's certificate by {authority}",
        ),
        ("UnknownIssuer", "is signed by no known authority: pass the authority's certificate by {authority}"),
        ("not valid for name", "is for another host: connect to a host that it names"),
        ("certificate expired", "has expired: renew it, or correct the clock of this machine"),
    ];
    reasons.into_iter().find_map(|(word, reason)| cause.contains(word).then_some(reason))
}

/// Returns the message for a SQLite file that cannot be opened.
pub(super) fn for_file(file: Option<&Path>) -> String {
    let file = file.unwrap_or(Path::new("its file")).display();
    format!(
        "SQLite cannot open {file}: create the folder or correct the path; let this process write to the folder, where \
         SQLite keeps more files; with mode=rw or mode=ro in the URL, the file must exist"
    )
}

#[cfg(all(test, feature = "mysql"))]
mod tests {
    use super::*;

    /// Quotes the driver's message, because a test cannot choose whether the driver is built with
    /// TLS.
    #[test]
    fn without_the_feature_tls_it_is_named() {
        let error = sqlx::Error::Tls(
            "TLS upgrade required by connect options but SQLx was built without TLS support enabled".into(),
        );
        let hint = for_error(&crate::dialect::mysql::MySql, &error).unwrap();
        assert_eq!(hint, "ssl-mode in the URL requires TLS: enable the feature `tls` of store-sql");
    }

    #[test]
    fn a_configuration_that_may_quote_a_password_is_not_shown() {
        let error = sqlx::Error::Configuration("Failed to saslprep password: ProhibitedCharacter('s')".into());
        assert!(!for_error(&crate::dialect::mysql::MySql, &error).unwrap().contains("'s'"));
    }
}
