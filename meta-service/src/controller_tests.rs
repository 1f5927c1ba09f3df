#![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

use holdfast_proto::{PROTOCOL_VERSION, meta::GatewayReport, shard::GatewayRef};
use tokio::task::JoinHandle;

use super::*;
use crate::config::Config;
use crate::election::tests::Shareable;

const CONFIG: &str = r#"
name = "x"
data_dir = "unused"
grpc_listen = "127.0.0.1:1"
http_listen = "127.0.0.1:2"
"#;

fn report(renewal: u64) -> GatewayReport {
    let address = "127.0.0.1:3".to_owned();
    GatewayReport {
        protocol_version: PROTOCOL_VERSION,
        protocol_version_min: PROTOCOL_VERSION,
        gateway: Some(GatewayRef { incarnation: 7, name: "gateway".to_owned(), address }),
        renewal,
        ..GatewayReport::default()
    }
}

fn config() -> (tempfile::TempDir, Config) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, CONFIG).unwrap();
    let config = holdfast_node_kit::config::load(&path).unwrap();
    (directory, config)
}

/// An elected controller with the stream of a gateway.
struct Elected {
    controller: Controller,
    running: JoinHandle<Result<(), ControllerError>>,
    stream: StreamId,
    told: watch::Receiver<Told>,
    _directory: tempfile::TempDir,
}

impl Elected {
    async fn start(tenure: Tenure) -> Elected {
        let ((_, config), (_directory, store)) = (config(), Shareable::open());
        let (controller, controller_loop) = start(&config, store, tenure).await.unwrap();
        let running = tokio::spawn(controller_loop.run(Shutdown::new(), Health::new()));
        let (stream, told) = controller.open().await.unwrap();
        Elected { controller, running, stream, told, _directory }
    }

    async fn report(&self, renewal: u64) {
        let event = Event::Gateway { stream: self.stream, report: report(renewal) };
        assert!(self.controller.tell(event).await);
    }
}

#[tokio::test]
async fn one_whose_election_may_be_over_renews_nothing() {
    let tenure = Tenure::long();
    let mut elected = Elected::start(tenure.clone()).await;
    elected.report(1).await;
    elected.told.wait_for(|told| told.accepted && told.renewed == 1).await.unwrap();
    // Until now nobody else can have been elected; the next renewal is written nowhere.
    tenure.end();
    elected.report(2).await;
    let renewed = elected.told.wait_for(|told| told.renewed == 2).await.is_ok();
    assert!(!renewed, "another may have declared the gateway dead");
    let ended = elected.running.await.unwrap();
    assert!(matches!(ended, Err(ControllerError::Expired)), "{ended:?}");
}

#[tokio::test]
async fn one_whose_election_may_be_over_accepts_nobody_and_covers_nothing() {
    let tenure = Tenure::long();
    let elected = Elected::start(tenure.clone()).await;
    tenure.end();
    elected.report(1).await;
    let filter = Filter::of_subscription(holdfast_proto::ids::Namespace(1), "a/#").unwrap();
    assert!(elected.controller.cover(vec![filter]).await.is_none());
    assert!(matches!(elected.running.await.unwrap(), Err(ControllerError::Expired)));
    assert!(!elected.told.borrow().accepted);
}
