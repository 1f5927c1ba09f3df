//! Where clients connect.

use clap::Args;
use holdfast_admin_api::{GatewayList, Liveness};

use crate::api::{Api, ApiArgs, Request};
use crate::failure::{Exit, Failure, Outcome};
use crate::local::data_dir::DataDir;
use crate::local::plan::Plan;
use crate::local::process;
use crate::local::role::Role;

/// Which gateway.
#[derive(Debug, Clone, Args)]
pub(crate) struct MqttArgs {
    /// Gateway to connect to; several with commas [default: those that the cluster has]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    mqtt: Vec<Address>,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
}

/// Host and port of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if text.starts_with("mqtts://") || text.starts_with("ws") {
            return Err("this command speaks MQTT over plain TCP only".to_owned());
        }
        let text = text.trim().trim_start_matches("mqtt://").trim_start_matches("tcp://");
        let form = || format!("{text:?} is no HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let port = port.parse().map_err(|_| form())?;
        if host.is_empty() || port == 0 {
            return Err(form());
        }
        Ok(Address { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl MqttArgs {
    /// All gateways, at least one: the named ones, those that run here, or those that the API tells.
    pub(crate) async fn addresses(&self) -> Outcome<Vec<Address>> {
        if !self.mqtt.is_empty() {
            return Ok(self.mqtt.clone());
        }
        let told = match self.api.named_url() {
            Some(_) => self.told().await?,
            None => self.running_here()?,
        };
        let addresses: Vec<Address> = told.iter().filter_map(|told| told.parse().ok()).collect();
        if addresses.is_empty() {
            return Err(Failure::new(Exit::NoAnswer, "no gateway is up")
                .hint("`holdfast status` tells why; --mqtt HOST:PORT names one"));
        }
        Ok(addresses)
    }

    async fn told(&self) -> Outcome<Vec<String>> {
        let list: GatewayList = Api::find(&self.api)?.ask(Request::get("/gateways")).await?;
        let up = list.gateways.into_iter().filter(|gateway| gateway.liveness == Liveness::Up);
        Ok(up.map(|gateway| gateway.mqtt_address).collect())
    }

    fn running_here(&self) -> Outcome<Vec<String>> {
        let data = &self.api.data.data;
        let no_cluster = || {
            Failure::new(Exit::NoAnswer, format!("no cluster in {}", data.display()))
                .hint("`holdfast up` starts one; --mqtt HOST:PORT names a gateway elsewhere")
        };
        let dir = DataDir::open(data).ok_or_else(no_cluster)?;
        let gateways = Plan::load(&dir)?.ok_or_else(no_cluster)?.of_role(Role::Gateway);
        let running = process::running(&gateways, &dir);
        let here = gateways.into_iter().filter(|gateway| running.contains_key(&gateway.name));
        Ok(here.filter_map(|gateway| gateway.mqtt).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        let address = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        assert_eq!(address("a.b:1883").as_deref(), Ok("a.b:1883"));
        assert_eq!(address("mqtt://a:1").as_deref(), Ok("a:1"));
        assert_eq!(address("[::1]:1883").as_deref(), Ok("[::1]:1883"));
        for wrong in ["a", "a:", ":1", "a:0", "a:99999", "mqtts://a:1", "wss://a:1"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
