//! What a command may reach.

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::rule::Rule;

/// What a command may reach. `ports`, `listen` and `dns` go with `mode: Ports` alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// How much.
    pub mode: NetworkMode,
    /// TCP ports it may connect to, on any address; implies DNS. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "ports")]
    #[schemars(with = "Vec<u16>", length(max = 64))]
    pub ports: Vec<u16>,
    /// TCP ports it may listen on; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "ports")]
    #[schemars(with = "Vec<u16>", length(max = 64))]
    pub listen: Vec<u16>,
    /// How names are resolved; over TCP without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Reserved: refused as "not yet".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

/// Reads ports; one that is none is refused by the rule that judges ports, not by the width of a number.
fn ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    let numbers = Vec::<i64>::deserialize(deserializer)?;
    let port = |number: i64| {
        u16::try_from(number).map_err(|_| {
            D::Error::custom(format!("port {number} is out of range, 1 to 65535 ({})", Rule::NETWORK_PORT))
        })
    };
    numbers.into_iter().map(port).collect()
}

/// How much of the network a command may reach. The order is from less to more.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum NetworkMode {
    /// Nothing.
    #[default]
    None,
    /// The listed TCP ports.
    Ports,
    /// TCP and UDP, without a filter of ours.
    Full,
}

/// How names are resolved under `mode: Ports`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Dns {
    /// Over TCP port 53, with `RES_OPTIONS=use-vc`.
    #[default]
    Tcp,
    /// Over UDP; the kernel cannot hold UDP to a port, so the status shows the network as degraded.
    Udp,
}
