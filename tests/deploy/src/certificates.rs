//! Certificates as cert-manager would make them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::tools::{run, said};

/// A new key, not encrypted.
const KEY: [&str; 7] =
    ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];

/// A certificate authority in a folder of its own.
#[derive(Debug)]
pub struct Authority {
    folder: tempfile::TempDir,
}

impl Default for Authority {
    fn default() -> Authority {
        let authority = Authority { folder: tempfile::tempdir().unwrap() };
        let of_itself =
            ["-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority"];
        authority.openssl(&[&["req"], &KEY[..], &of_itself].concat());
        authority
    }
}

impl Authority {
    /// A Secret with a certificate for these addresses; for a client if there are none.
    pub fn secret(&self, name: &str, addresses: &[String]) -> Value {
        let names: Vec<String> = addresses.iter().map(|address| format!("IP:{address}")).collect();
        let extensions = if names.is_empty() {
            "extendedKeyUsage=clientAuth\n".to_owned()
        } else {
            format!("extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName={}\n", names.join(","))
        };
        fs::write(self.path("extensions"), extensions).unwrap();
        let request = ["-keyout", "tls.key", "-out", "tls.csr", "-subj", "/CN=holdfast"];
        self.openssl(&[&["req"], &KEY[..], &request].concat());
        let sign = [
            "x509",
            "-req",
            "-in",
            "tls.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
        ];
        self.openssl(
            &[&sign[..], &["-days", "2", "-extfile", "extensions", "-out", "tls.crt"]].concat(),
        );
        let encoded = |file: &str| json!(STANDARD.encode(fs::read(self.path(file)).unwrap()));
        let data: Map<String, Value> = ["ca.crt", "tls.crt", "tls.key"]
            .map(|file| (file.to_owned(), encoded(file)))
            .into_iter()
            .collect();
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = run(Command::new("openssl").args(arguments).current_dir(self.folder.path()));
        assert!(output.status.success(), "openssl {arguments:?}: {}", said(&output));
    }
}
