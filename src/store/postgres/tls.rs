//! TLS to the server: what the URL asks for, and what is said where the server
//! does not give it.
//!
//! As libpq has it: `require` encrypts and trusts whoever answers, unless a CA
//! certificate is named, which is then gone by; `verify-ca` and `verify-full`
//! check it, the latter with the host's name.

use std::path::Path;

use rustls::CertificateError;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::store::StoreError;

const TURN_ON: &str = "turn TLS on at the server (`ssl = on`), or put `sslmode=disable` into the URL where nobody else is on the network";
const NAME_CA: &str = "name the CA certificate of the server in the URL, `sslrootcert=FILE` (Supabase: Database settings, SSL configuration, download)";
const RIGHT_HOST: &str =
    "put the host into the URL by a name that the certificate is for, or use `sslmode=verify-ca`";
const RENEW: &str = "renew the server's certificate, and check this machine's clock";
const REPLACE: &str =
    "give the server a certificate that the CA of `sslrootcert` signed for its name";

/// The options with the CA certificate that the URL names, checked.
///
/// # Errors
/// [`StoreError::Insecure`] for a file that cannot be used.
pub(super) fn checked(
    options: PgConnectOptions,
    root: Option<&str>,
) -> Result<PgConnectOptions, StoreError> {
    let Some(root) = root else {
        return Ok(options);
    };
    check_root(Path::new(root))?;
    Ok(match options.get_ssl_mode() {
        PgSslMode::Require => options.ssl_mode(PgSslMode::VerifyCa),
        _ => options,
    })
}

/// Sooner than at the first connection, which would not name the file.
fn check_root(path: &Path) -> Result<(), StoreError> {
    const FIX: &str = "let `sslrootcert` name a file with the server's CA certificate, as PEM";
    let problem = match std::fs::read_to_string(path) {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => return Ok(()),
        Ok(_) => "it holds no certificate".to_owned(),
        Err(cause) => cause.to_string(),
    };
    Err(StoreError::Insecure {
        problem: format!("sslrootcert `{}`: {problem}", path.display()),
        fix: FIX,
    })
}

/// What became of TLS, where that is why there is no connection.
pub(super) fn refusal(cause: &sqlx::Error, place: &str) -> Option<StoreError> {
    let (problem, fix) = match cause {
        sqlx::Error::Tls(cause) if cause.to_string().contains("does not support TLS") => {
            ("the server does not offer TLS".to_owned(), TURN_ON)
        }
        sqlx::Error::Tls(cause) => (cause.to_string(), NAME_CA),
        sqlx::Error::Io(cause) => {
            let inner = cause.get_ref()?.downcast_ref::<rustls::Error>()?;
            untrusted(inner)
        }
        _ => return None,
    };
    let problem = format!("{place}: {problem}");
    Some(StoreError::Insecure { problem, fix })
}

fn untrusted(error: &rustls::Error) -> (String, &'static str) {
    let rustls::Error::InvalidCertificate(why) = error else {
        return (error.to_string(), REPLACE);
    };
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            "nobody that is trusted has signed the server's certificate".to_owned(),
            NAME_CA,
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            format!("the server's certificate is for another name: {why}"),
            RIGHT_HOST,
        ),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => (
            format!("the server's certificate is out of its time: {why}"),
            RENEW,
        ),
        _ => (format!("the server's certificate: {why}"), REPLACE),
    }
}
