//! Certificates for servers that speak TLS.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::server_process::finish;

/// Certificates and their keys, in PEM, in a directory that goes with this value.
///
/// - `ca`: an authority;
/// - `other`: another authority;
/// - `server`: for 127.0.0.1, signed by `ca`;
/// - `elsewhere`: for another host, signed by `ca`;
/// - `expired`: for 127.0.0.1 and past its end, signed by `ca`;
/// - `itself`: for 127.0.0.1, signed by itself, as `openssl req -x509` makes it: that of an
///   authority.
#[derive(Debug)]
pub struct Certificates(TempDir);

impl Certificates {
    /// New ones.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let script = r"
            set -e
            authority() {
                openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=$1 -keyout $1.key -out $1.crt $2 $3
            }
            issue() {
                openssl req -newkey rsa:2048 -nodes -subj /CN=$1 -keyout $1.key -out $1.csr
                printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\n' $2 > $1.ext
                $3 openssl x509 -req -days 2 -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial \
                    -extfile $1.ext -out $1.crt
            }
            authority ca
            authority other
            authority itself -addext subjectAltName=IP:127.0.0.1
            issue server IP:127.0.0.1
            issue elsewhere DNS:elsewhere.example
            issue expired IP:127.0.0.1 'faketime -f -9d'
        ";
        finish(Command::new("sh").args(["-c", script]).current_dir(directory.path()));
        Self(directory)
    }

    /// The path of a file, such as `ca.crt`.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// The text of a file.
    pub fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path(file)).expect("a certificate")
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        self.0.path()
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}
