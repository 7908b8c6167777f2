//! Ports in the bench: made for a point, judged after it, and gone before the next.

use std::collections::BTreeSet;

use ostler_protocol::rpc::operation::Kind;
use ostler_tests::process::Run;
use serde_json::{Value, json};

use super::lane::{Asked, Lane, Wrong};
use super::scenarios::Scenario;
use super::tally::Ended;

impl Lane {
    /// A port as a scenario begins with, and the request.
    pub(super) async fn prepare_port(
        &mut self,
        scenario: &Scenario,
    ) -> Result<(Value, String), Wrong> {
        self.drop_ports().await?;
        let id = uuid::Uuid::new_v4().to_string();
        let mut params = (scenario.asked.1)(&json!({"id": id}));
        params["id"] = json!(id);
        if scenario.kind != Kind::PortCreate {
            let create = json!({"id": id, "name": "tried", "network": "lan"});
            self.done("port.create", create).await?;
        }
        Ok((params, id))
    }

    /// What a port should be like now.
    pub(super) async fn port_fits(
        &mut self,
        scenario: &Scenario,
        asked: &Asked,
        ended: Ended,
    ) -> Result<Vec<Wrong>, Wrong> {
        let listed = self.call("port.list", json!({})).await?;
        let shown = listed.as_array().into_iter().flatten().find(|p| p["id"] == asked.subject);
        let finished = ended == Ended::Finished;
        let gone = (scenario.kind == Kind::PortDelete && finished)
            || (scenario.kind == Kind::PortCreate && !finished);
        let there = !gone;
        if shown.is_some() != there {
            return Ok(vec![format!("the port is {shown:?}, after it {ended:?}")]);
        }
        let owner = shown.map_or(&Value::Null, |shown| &shown["owner"]);
        let owned = scenario.kind == Kind::PortUpdate && finished;
        let wanted = if owned { json!("bench") } else { Value::Null };
        match *owner == wanted {
            true => Ok(Vec::new()),
            false => Ok(vec![format!("the port's owner is {owner}, not {wanted}")]),
        }
    }

    /// Take from instances the ports that are not made with them, and delete all those.
    pub(super) async fn drop_ports(&mut self) -> Result<(), Wrong> {
        let listed = self.call("port.list", json!({})).await?;
        for port in listed.as_array().into_iter().flatten() {
            let instance = &port["binding"]["instance"];
            if !instance.is_null() {
                let own = self.call("instance.list_interfaces", json!({"id": instance})).await?;
                // The first is the one it was booted with.
                if own[0]["id"] == port["id"] {
                    continue;
                }
                let shown = self.call("instance.show", json!({"id": instance})).await?;
                let ran = shown["vm_state"] == "active";
                if ran {
                    // Nobody may be in the guest who could let go.
                    let stop = json!({"id": instance, "manner": "hard"});
                    self.done("instance.stop", stop).await?;
                }
                let detach = json!({"id": instance, "port": port["id"]});
                self.done("instance.detach_interface", detach).await?;
                if ran {
                    self.done("instance.start", json!({"id": instance})).await?;
                }
            }
            if port["delete_on_termination"] != true {
                self.done("port.delete", json!({"id": port["id"]})).await?;
            }
        }
        Ok(())
    }

    /// What is wrong with the ports there are, and with the NICs of instances.
    pub(super) async fn audit_ports(
        &mut self,
        instances: &[Value],
        found: &mut Vec<Wrong>,
    ) -> Result<(), Wrong> {
        let listed = self.call("port.list", json!({})).await?;
        for port in listed.as_array().into_iter().flatten() {
            if !port["operation"].is_null() {
                found.push(format!("port {} is being worked on", port["id"]));
            }
            // One that is made for an instance is called by its id.
            if port["name"] == port["id"] && port["binding"].is_null() {
                found.push(format!("left: port {}, made for an instance", port["id"]));
            }
        }
        for instance in instances {
            let id = instance["id"].as_str().unwrap_or_default();
            if instance["power_state"] == "none" || instance["power_state"] == "unknown" {
                continue;
            }
            let ports = instance["ports"].as_array().into_iter().flatten();
            let has: BTreeSet<&str> = ports.filter_map(|port| port["mac"].as_str()).collect();
            for flags in [&[][..], &["--inactive"]] {
                let xml = Run::new("virsh")
                    .args(["-q", "-c", self.node.uri(), "dumpxml", id])
                    .args(flags)
                    .stdout()
                    .await
                    .map_err(|error| error.to_string())?;
                let macs = xml.split("<mac address='").skip(1);
                let wired: BTreeSet<&str> =
                    macs.filter_map(|rest| rest.split('\'').next()).collect();
                if wired != has {
                    found.push(format!(
                        "instance {id} {flags:?} has NICs {wired:?}, and {has:?} by its record"
                    ));
                }
            }
        }
        Ok(())
    }
}
