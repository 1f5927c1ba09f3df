//! `holdfast gateways`: where clients connect.

use clap::Args;
use holdfast_admin_api::{GatewayInfo, GatewayList};

use crate::api::{Api, ApiArgs, Request};
use crate::console;
use crate::failure::Outcome;
use crate::sites;
use crate::table::{self, Cell, Row};

/// How to list them.
#[derive(Debug, Args)]
pub(crate) struct GatewaysArgs {
    #[command(flatten)]
    api: ApiArgs,
}

impl Row for GatewayInfo {
    const TITLES: &'static [&'static str] = &["name", "state", "mqtt", "-address", "-incarnation"];

    fn cells(&self) -> Vec<Cell> {
        let (liveness, tone) = sites::liveness(self.liveness);
        vec![
            self.name.as_str().into(),
            Cell::toned(liveness, tone),
            self.mqtt_address.as_str().into(),
            self.address.as_str().into(),
            self.incarnation.as_str().into(),
        ]
    }
}

/// Lists them.
pub(crate) async fn run(args: &GatewaysArgs) -> Outcome {
    let listing: GatewayList = Api::find(&args.api)?.ask(Request::get("/gateways")).await?;
    match args.api.json {
        true => console::json(&listing),
        false => table::show(&listing.gateways, "no gateway has registered yet"),
    }
    Ok(())
}
