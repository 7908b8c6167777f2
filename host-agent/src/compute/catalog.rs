//! Images and networks: what is asked of them, checked against what there is. Pure but for the
//! reservation it makes in the registry.

use std::path::Path;
use std::sync::Arc;

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::image::{Import, State as ImageState};
use ostler_protocol::rpc::instance::VmState;
use ostler_protocol::rpc::network::Ensure;
use ostler_protocol::rpc::operation::Subject;
use ostler_protocol::rpc::values::{Bytes, Name, Timestamp};

use super::admission;
use super::command::split_query;
use super::manager::{Admitted, Reservation};
use super::operations::{Change, StepError};
use super::registry::{LiveOperation, Registry, Volatile};
use crate::journal::records::{ImageRecord, InstanceRecord, NetworkRecord, Running};
use crate::journal::{Entry, Write};
use crate::network::{BridgeSpec, LinkName, Mtu, Uplink, bridge_name};

/// A network's bridge in the driver's terms.
pub(super) fn bridge_spec(network: &NetworkRecord) -> Result<BridgeSpec, StepError> {
    let wrong = |parameter: &str, error: &dyn std::error::Error| {
        let fault = Fault::of(Reason::InvalidParams, error);
        StepError::failed(fault.about(format!("parameter {parameter}")))
    };
    let link = |parameter: &str, name: &str| -> Result<LinkName, StepError> {
        name.parse().map_err(|e| wrong(parameter, &e))
    };
    Ok(BridgeSpec {
        bridge: link("bridge", &network.bridge)?,
        network: network.name.clone(),
        uplink: match &network.uplink {
            None => Uplink::None,
            Some(nic) => Uplink::Nic(link("uplink", nic)?),
        },
        mtu: Mtu::new(network.mtu).map_err(|e| wrong("mtu", &e))?,
    })
}

impl Registry {
    /// Operations on an image or a network are done one at a time.
    fn idle(&self, subject: &Subject) -> Result<(), Fault> {
        let at_work = self.queues.get(subject).and_then(|queue| queue.front().cloned());
        // One that is over and not yet out of the queue keeps nobody.
        match at_work.filter(|operation| !operation.now.borrow().state.is_over()) {
            None => Ok(()),
            Some(operation) => {
                let kind = operation.now.borrow().kind;
                let text = format!("conflict: {kind} of {subject} is under way");
                Err(Fault::new(Reason::Conflict, text)
                    .about(subject.to_string())
                    .next(format!("wait for it: ostler operation wait {}", operation.id)))
            }
        }
    }

    pub(super) fn import(&mut self, import: Import, now: Timestamp) -> Result<Admitted, Fault> {
        let subject = Subject::Image(import.name.clone());
        self.idle(&subject)?;
        if self.images.contains_key(&import.name) {
            return Err(Fault::new(
                Reason::Conflict,
                format!("conflict: there is an image {} already", import.name),
            )
            .about(subject.to_string())
            .next("choose another name, or remove the image: ostler image remove"));
        }
        check_source(&import.source)?;
        if let Some(text) = &import.properties.command_line {
            admission::command_line(text)?;
        }
        let (source, partial) = split_query(&import.source);
        let record = ImageRecord {
            name: import.name.clone(),
            state: ImageState::Importing,
            format: import.format,
            source: source.to_owned(),
            sha256: None,
            size: Bytes(0),
            virtual_size: Bytes(0),
            properties: import.properties,
            created: now,
        };
        self.images.insert(record.name.clone(), record.clone());
        Ok(Admitted {
            subject,
            change: Change::ImageImport { sha256: import.sha256, partial_source: partial },
            volatile: Volatile { word: None, source: partial.then_some(import.source) },
            was: Running::No,
            to_do: true,
            undo: Reservation::NewImage(record.name.clone()),
            write: Write { image: Some(Entry::Put(record)), ..Write::default() },
        })
    }

    pub(super) fn remove_image(&mut self, name: Name) -> Result<Admitted, Fault> {
        let subject = Subject::Image(name.clone());
        self.idle(&subject)?;
        if !self.images.contains_key(&name) {
            return Err(Fault::new(Reason::NotFound, format!("there is no image {name}"))
                .about(subject.to_string())
                .next("see ostler image list"));
        }
        if self.images[&name].state == ImageState::Importing {
            return Err(Fault::new(
                Reason::Conflict,
                format!("conflict: image {name} is being made"),
            )
            .about(subject.to_string())
            .next("wait for it, or cancel what makes it: ostler operation list"));
        }
        // What is made from it does as well with another name of the same file.
        let users =
            if self.is_shared(&name) { self.shelved_as(&name) } else { self.users_of(&name) };
        if users > 0 {
            return Err(Fault::new(
                Reason::InUse,
                format!("image {name} is in use by instances made from it: {users}"),
            )
            .about(subject.to_string())
            .next("delete them first: ostler instance list"));
        }
        Ok(Admitted {
            subject,
            change: Change::ImageRemove,
            volatile: Volatile::default(),
            was: Running::No,
            to_do: true,
            undo: Reservation::None,
            write: Write::default(),
        })
    }

    /// How many instances need an image: as a disk's base, as kernel or ramdisk, or as what they are
    /// shelved as.
    pub(super) fn users_of(&self, name: &Name) -> usize {
        let file = self.images.get(name).and_then(|i| Some((i.sha256.clone()?, i.format)));
        let coming = |i: &InstanceRecord| {
            let under_way = |o: &Arc<LiveOperation>| o.subject == Subject::Instance(i.id);
            let targets = self.live.values().filter(|o| under_way(o));
            let mut targets = targets.filter_map(|o| self.target(o));
            file.as_ref().is_some_and(|(sha256, format)| {
                i.needs(sha256, *format) || targets.any(|target| target.needs(sha256, *format))
            })
        };
        self.instances.values().filter(|i| is_shelved_as(i, name) || coming(i)).count()
    }

    /// How many instances need an image by its name.
    fn shelved_as(&self, name: &Name) -> usize {
        self.instances.values().filter(|i| is_shelved_as(i, name)).count()
    }

    /// Whether an image's file has another name, which nobody is removing.
    fn is_shared(&self, name: &Name) -> bool {
        let Some(image) = self.images.get(name) else { return false };
        image.sha256.is_some()
            && self.images.values().any(|other| {
                other.name != *name
                    && (&other.sha256, other.format) == (&image.sha256, image.format)
                    && self.idle(&Subject::Image(other.name.clone())).is_ok()
            })
    }

    pub(super) fn ensure_network(
        &mut self,
        ensure: Ensure,
        now: Timestamp,
    ) -> Result<Admitted, Fault> {
        let subject = Subject::Network(ensure.name.clone());
        self.idle(&subject)?;
        let known = self.networks.get(&ensure.name);
        let bridge = ensure
            .bridge
            .or_else(|| known.map(|n| n.bridge.clone()))
            .unwrap_or_else(|| bridge_name(&ensure.name).as_str().to_owned());
        let network = NetworkRecord {
            name: ensure.name,
            bridge,
            uplink: ensure.uplink,
            mtu: ensure.mtu.unwrap_or(Mtu::ETHERNET.bytes()),
            created: known.map_or(now, |n| n.created),
        };
        if let Some(other) =
            self.networks.values().find(|n| n.bridge == network.bridge && n.name != network.name)
        {
            let text =
                format!("conflict: bridge {} belongs to network {}", network.bridge, other.name);
            return Err(Fault::new(Reason::Conflict, text).about("parameter bridge"));
        }
        // Names and sizes are checked now, so that nothing is accepted that cannot be.
        if let Err(StepError::Failed(fault)) = bridge_spec(&network) {
            return Err(*fault);
        }
        Ok(Admitted {
            subject,
            change: Change::NetworkEnsure { network },
            volatile: Volatile::default(),
            was: Running::No,
            to_do: true,
            undo: Reservation::None,
            write: Write::default(),
        })
    }

    pub(super) fn remove_network(&self, name: Name) -> Result<Admitted, Fault> {
        let subject = Subject::Network(name.clone());
        self.idle(&subject)?;
        let Some(network) = self.networks.get(&name).cloned() else {
            return Err(Fault::new(Reason::NotFound, format!("there is no network {name}"))
                .about(subject.to_string())
                .next("see ostler network list"));
        };
        self.is_unused(&name)?;
        Ok(Admitted {
            subject,
            change: Change::NetworkRemove { network },
            volatile: Volatile::default(),
            was: Running::No,
            to_do: true,
            undo: Reservation::None,
            write: Write::default(),
        })
    }

    /// Whether no instance has a port on a network.
    pub(super) fn is_unused(&self, name: &Name) -> Result<(), Fault> {
        let has_port = |instance: &&InstanceRecord| {
            instance.vm_state != VmState::Deleted
                && instance.ports.iter().any(|port| port.network == *name)
        };
        let users: Vec<_> = self.instances.values().filter(has_port).collect();
        let Some(first) = users.first() else { return Ok(()) };
        let text = format!("network {name} is in use by instances: {}", users.len());
        Err(Fault::new(Reason::InUse, text)
            .about(Subject::Network(name.clone()).to_string())
            .next(format!("delete them first, such as {}: ostler instance list", first.id)))
    }
}

fn is_shelved_as(instance: &InstanceRecord, name: &Name) -> bool {
    instance.vm_state != VmState::Deleted
        && instance.shelved.as_ref().is_some_and(|shelved| shelved.image == *name)
}

/// A source is an absolute path or an http(s) URL without credentials in it.
fn check_source(source: &str) -> Result<(), Fault> {
    let refuse = |text: &str| {
        Err(Fault::new(Reason::InvalidParams, text.to_owned()).about("parameter source"))
    };
    if source.len() > 4096 || source.chars().any(char::is_control) {
        return refuse("the source is at most 4096 characters without control characters");
    }
    let Some((_, rest)) = source.split_once("://").filter(|(scheme, _)| {
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    }) else {
        return if Path::new(source).is_absolute() {
            Ok(())
        } else {
            refuse("the source must be an absolute path on the node, or an http or https URL")
        };
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return refuse("a URL with credentials is not taken: they would be written down");
    }
    if authority.is_empty() {
        return refuse("the URL names no host");
    }
    Ok(())
}
