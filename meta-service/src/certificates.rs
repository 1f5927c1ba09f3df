//! When the certificates end that this process uses towards etcd.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_node_kit::shutdown::Shutdown;
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};
use x509_parser::{parse_x509_certificate, pem::Pem};

use crate::{config::Config, metrics};

/// Files are replaced while the process runs.
const EVERY: Duration = Duration::from_secs(3600);

/// Why the end of a certificate is not known.
#[derive(Debug, Error)]
enum Unread {
    #[error("{0}")]
    File(#[from] std::io::Error),
    #[error("there is no certificate in it")]
    None,
}

/// Exports the ends of all certificates, at start and then every hour.
pub(crate) fn watch(config: &Config, shutdown: Shutdown) -> impl Future<Output = ()> + use<> {
    let etcd = config.etcd.iter();
    let files = etcd.flat_map(|etcd| [etcd.ca_file.clone(), etcd.cert_file.clone()]);
    let files: Vec<PathBuf> = files.flatten().collect();
    async move {
        if files.is_empty() {
            return;
        }
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => files.iter().for_each(|file| export(file)),
                () = shutdown.wait() => return,
            }
        }
    }
}

fn export(file: &Path) {
    let name = file.display().to_string();
    match fs::read(file).map_err(Unread::from).and_then(|pem| ends(&pem)) {
        Ok(timestamp_s) => metrics::certificate_expiry(&name, timestamp_s),
        Err(error) => tracing::warn!(file = name, %error, "the end of a certificate is not known"),
    }
}

/// When the first certificate to end does, seconds since the Unix epoch: a file of authorities has several.
fn ends(pem: &[u8]) -> Result<i64, Unread> {
    let end = |pem: Pem| {
        let (_, certificate) = parse_x509_certificate(&pem.contents).ok()?;
        Some(certificate.validity().not_after.timestamp())
    };
    Pem::iter_from_buffer(pem).filter_map(|pem| end(pem.ok()?)).min().ok_or(Unread::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two certificates of nobody, that end on 2031-01-01 and 2030-01-02.
    const PEM: &str = include_str!("../tests/golden/certificates.pem");

    #[test]
    fn the_first_end_of_several_counts() {
        assert_eq!(ends(PEM.as_bytes()).ok(), Some(1_893_542_400));
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        assert!(matches!(ends(b"hello"), Err(Unread::None)));
        let cut = &PEM[..PEM.len() / 4];
        assert!(ends(cut.as_bytes()).is_err());
    }
}
