//! What a gateway says, in words.

use std::fmt::Debug;

use rumqttc::v5::mqttbytes::v5::ConnectReturnCode;
use rumqttc::v5::{ConnectionError, StateError};

use crate::failure::{Exit, Failure};

const GATEWAYS_HINT: &str =
    "`holdfast gateways` shows where clients connect; --mqtt HOST:PORT names one";

/// `QuotaExceeded` as `quota exceeded`.
pub(super) fn words(code: impl Debug) -> String {
    let mut words = String::new();
    // Debug names are words in a row, but for this one.
    for c in format!("{code:?}").replace("QoS", "Qos").chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

/// Why a connection could not be made, or ended.
pub(super) fn failure(address: &str, error: &ConnectionError) -> Failure {
    match error {
        ConnectionError::ConnectionRefused(code)
        | ConnectionError::MqttState(StateError::ConnFail { reason: code }) => {
            refused(address, *code)
        }
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let why = reason_string.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
            Failure::failed(format!("{address} ended the connection: {}{why}", words(reason_code)))
        }
        ConnectionError::MqttState(StateError::Io(error)) | ConnectionError::Io(error) => {
            Failure::new(Exit::NoAnswer, format!("{address}: {error}")).hint(GATEWAYS_HINT)
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            Failure::new(Exit::NoAnswer, format!("{address} closed the connection"))
        }
        ConnectionError::Timeout(_) => {
            Failure::new(Exit::NoAnswer, format!("{address} does not answer"))
        }
        ConnectionError::MqttState(StateError::Deserialization(error)) => {
            Failure::new(Exit::NoAnswer, format!("{address} does not speak MQTT 5: {error}"))
                .hint(GATEWAYS_HINT)
        }
        other => Failure::failed(format!("{address}: {other}")),
    }
}

fn refused(address: &str, code: ConnectReturnCode) -> Failure {
    use ConnectReturnCode as Code;
    let exit = match code {
        Code::BadUserNamePassword | Code::NotAuthorized | Code::Banned => Exit::Credentials,
        Code::ServerUnavailable | Code::ServiceUnavailable | Code::ServerBusy => Exit::NoAnswer,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("{address} refuses the client: {}", words(code)))
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::PubAckReason;

    use super::*;

    #[test]
    fn codes_are_words() {
        assert_eq!(words(PubAckReason::QuotaExceeded), "quota exceeded");
        assert_eq!(words(PubAckReason::NoMatchingSubscribers), "no matching subscribers");
        assert_eq!(words(ConnectReturnCode::QoSNotSupported), "qos not supported");
        let failure = refused("a:1", ConnectReturnCode::NotAuthorized);
        assert_eq!(failure.exit, Exit::Credentials);
    }
}
