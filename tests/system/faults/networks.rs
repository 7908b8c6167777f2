//! Networks on the fault bench: what comes first, and what has to be true afterwards of the record and
//! of the links.

use std::path::Path;

use ostler_protocol::rpc::operation::Kind;
use ostler_tests::process::Run;
use serde_json::{Value, json};

use super::lane::{Asked, Lane, Wrong};
use super::scenarios::{CHANGED, Scenario, VXLAN};
use super::tally::Ended;

/// What a tunnel's own end is here.
const LOCAL: &str = "198.51.100.1";

impl Lane {
    /// Have a network as a scenario begins with; the request, and the network's name.
    pub(super) async fn prepare_network(
        &mut self,
        scenario: &Scenario,
        before: &mut Value,
    ) -> Result<(Value, String), Wrong> {
        let suffix: String = self.node.agent.host().chars().rev().take(6).collect();
        // A tunnel of a network's name is taken for that network's, whichever lane made it.
        let name = format!("net{}x{suffix}", self.serial);
        let bridge = format!("of{}{suffix}", self.serial);
        self.node.adopt_bridge(&bridge);
        let plain = json!({"name": name, "bridge": bridge});
        let mut tunnel = plain.clone();
        // Lanes, and labs, are on one machine: each tunnel has a number of its own.
        let vni = u32::from_str_radix(&uuid::Uuid::new_v4().simple().to_string()[..6], 16);
        let vni = vni.map_err(|error| error.to_string())?.max(1);
        let remotes = json!(["198.51.100.2", "198.51.100.3"]);
        tunnel["vxlan"] = json!({"vni": vni, "local": LOCAL, "remotes": remotes});
        if matches!(scenario.when, VXLAN | CHANGED) {
            self.underlay(&format!("ou{suffix}")).await?;
        }
        let (first, asked) = match (scenario.kind, scenario.when) {
            (Kind::NetworkRemove, VXLAN) => (Some(&tunnel), json!({"name": name})),
            (Kind::NetworkRemove, _) => (Some(&plain), json!({"name": name})),
            (_, CHANGED) => (Some(&plain), tunnel.clone()),
            (_, VXLAN) => (None, tunnel.clone()),
            (_, _) => (None, plain.clone()),
        };
        if let Some(first) = first {
            self.done("network.ensure", first.clone()).await?;
        }
        *before = match scenario.when {
            VXLAN | CHANGED => tunnel,
            _ => plain,
        };
        Ok((asked, name))
    }

    /// A link that has the address of a tunnel's end.
    async fn underlay(&mut self, link: &str) -> Result<(), Wrong> {
        if is_there(link) {
            return Ok(());
        }
        self.node.adopt_bridge(link);
        let address = format!("{LOCAL}/32");
        for arguments in [
            &["link", "add", link, "type", "bridge"][..],
            &["address", "add", &address, "dev", link],
            &["link", "set", link, "up"],
        ] {
            let run = Run::new("ip").args(arguments).stdout().await;
            run.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What a network should be like now.
    pub(super) async fn network_fits(
        &mut self,
        scenario: &Scenario,
        asked: &Asked,
        ended: Ended,
    ) -> Result<Vec<Wrong>, Wrong> {
        let networks = self.call("network.list", Value::Null).await?;
        let mut listed = networks.as_array().into_iter().flatten();
        let shown = listed.find(|network| network["name"] == asked.subject);
        let bridge = asked.before["bridge"].as_str().unwrap_or_default();
        let tunnel = format!("vxlan-{}", asked.before["vxlan"]["vni"]);
        let found = (shown.is_some(), is_there(bridge), is_there(&tunnel));
        let is_made = (ended == Ended::Finished) == (scenario.kind == Kind::NetworkEnsure);
        let has_tunnel = is_made && matches!(scenario.when, VXLAN | CHANGED);
        let there = is_made || scenario.when == CHANGED;
        let mut wrong = Vec::new();
        if found != (there, there, has_tunnel) {
            wrong.push(format!("known, bridge, tunnel: {found:?}, and it ended {ended:?}"));
        }
        if let Some(network) = shown {
            let mtu = if has_tunnel { 1450 } else { 1500 };
            if network["state"] != "up" || network["mtu"] != mtu {
                wrong.push(format!("the network is {network}, and it ended {ended:?}"));
            }
        }
        Ok(wrong)
    }
}

fn is_there(link: &str) -> bool {
    Path::new("/sys/class/net").join(link).exists()
}
