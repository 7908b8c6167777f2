//! `ostler instance boot`

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ostler_protocol::rpc::hardware::{FirmwareType, MachineType};
use ostler_protocol::rpc::instance::{Boot, Nic};
use ostler_protocol::rpc::method::InstanceBoot;
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name, VolumeId};

use super::change;
use super::config_drive::ConfigDriveArgs;
use crate::args::Changing;
use crate::commands::Session;
use crate::commands::metadata::{Item, items};
use crate::commands::port_ref::PortRef;
use crate::commands::volume::VolumeRef;
use crate::failure::Failure;
use crate::size;

/// What an instance is made from.
#[derive(Args)]
pub(crate) struct BootArgs {
    /// Its name
    #[arg(long)]
    name: Name,
    /// The image of its root disk, or of the volume that is made for it
    #[arg(long, required_unless_present = "volume")]
    image: Option<Name>,
    /// The volume to boot from: its id, or its name if that is unique
    #[arg(long, conflicts_with_all = ["image", "disk", "volume_size"])]
    volume: Option<VolumeRef>,
    /// Boot from a new volume of this size, as in 20G, made from the image
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "disk")]
    volume_size: Option<Bytes>,
    /// The pool of that volume; default: the node's first
    #[arg(long, value_name = "POOL", requires = "volume_size")]
    volume_pool: Option<Name>,
    /// Delete the volume it boots from with the instance
    #[arg(long)]
    delete_on_termination: bool,
    /// Its size, by a flavor of the node; --vcpus, --memory and --disk override the flavor's
    #[arg(long, required_unless_present_all = ["vcpus", "memory"])]
    flavor: Option<Name>,
    /// vCPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vcpus: Option<u32>,
    /// Memory, as in 512M or 2G
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<Bytes>,
    /// Root disk, as in 20G; default: the size of the image
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    disk: Option<Bytes>,
    /// The most vCPUs it can be given while it runs; default: as many as it starts with
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_vcpus: Option<u32>,
    /// The most memory it can be given while it runs; default: as much as it starts with
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_memory: Option<Bytes>,
    /// The board; default: what the image wants, or q35
    #[arg(long, value_name = "q35|pc", value_parser = words(MachineType::ALL, MachineType::as_str))]
    machine: Option<MachineType>,
    /// What the board starts with; default: what the image wants, or bios
    #[arg(long, value_name = "bios|uefi", value_parser = words(FirmwareType::ALL, FirmwareType::as_str))]
    firmware: Option<FirmwareType>,
    /// Have UEFI start signed code only; =no: whatever the image wants
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true,
          default_missing_value = "yes", value_parser = yes_no_parser())]
    secure_boot: Option<bool>,
    /// Give it a TPM 2.0; =no: none, whatever the image wants
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true,
          default_missing_value = "yes", value_parser = yes_no_parser())]
    tpm: Option<bool>,
    /// A NIC on this network; repeat for more NICs
    #[arg(long, value_name = "NETWORK[,mac=MAC]", value_parser = nic)]
    network: Vec<Nic>,
    /// A NIC on this port, which stays when the instance goes; repeat for more. They come after those
    /// of --network
    #[arg(long)]
    port: Vec<PortRef>,
    /// Its owner, such as a tenant's id
    #[arg(long, visible_alias = "tenant")]
    owner: Option<String>,
    /// An item of its metadata; repeat for more
    #[arg(long, value_name = "KEY=VALUE")]
    metadata: Vec<Item>,
    /// Its id, a UUID; default: the node makes one
    #[arg(long, value_name = "UUID")]
    id: Option<InstanceId>,
    #[command(flatten)]
    config_drive: ConfigDriveArgs,
    #[command(flatten)]
    changing: Changing,
}

impl BootArgs {
    /// Carry it out.
    pub(super) async fn run(mut self, session: &mut Session) -> Result<(), Failure> {
        for port in std::mem::take(&mut self.port) {
            let port = port.resolve(&mut session.client).await?;
            self.network.push(Nic { port: Some(port), ..Nic::default() });
        }
        let changing = self.changing.clone();
        let volume = match self.volume.clone() {
            Some(volume) => Some(volume.resolve(&mut session.client).await?),
            None => None,
        };
        change::<InstanceBoot>(session, &self.params(volume)?, &changing).await
    }

    fn params(self, volume: Option<VolumeId>) -> Result<Boot, Failure> {
        let boot = Boot {
            id: self.id,
            name: self.name,
            image: self.image,
            volume,
            volume_size: self.volume_size,
            volume_pool: self.volume_pool,
            delete_on_termination: self.delete_on_termination,
            flavor: self.flavor,
            vcpus: self.vcpus,
            memory: self.memory,
            disk: self.disk,
            max_vcpus: self.max_vcpus,
            max_memory: self.max_memory,
            machine: self.machine,
            firmware: self.firmware,
            secure_boot: self.secure_boot,
            tpm: self.tpm,
            networks: self.network,
            owner: self.owner,
            metadata: items(self.metadata, |value| value)?,
            config_drive: None,
            user_data: None,
            vendor_data: None,
            ssh_keys: Vec::new(),
            hostname: None,
        };
        self.config_drive.add_to(boot)
    }
}

/// The words of these values.
fn words<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    word: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(move |value| word(*value))).try_map(move |given| {
        all.iter().find(|value| word(**value) == given).copied().ok_or("not one of them")
    })
}

fn yes_no_parser() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["yes", "no"]).map(|word| word == "yes")
}

/// A NIC as written on the command line: `NETWORK[,mac=MAC]`.
fn nic(text: &str) -> Result<Nic, String> {
    let mut parts = text.split(',');
    let network = parts.next().unwrap_or_default().parse::<Name>().map_err(|e| e.to_string())?;
    let mut nic = Nic { network: Some(network), ..Nic::default() };
    for part in parts {
        match part.split_once('=') {
            Some(("mac", mac)) if nic.mac.is_none() => {
                nic.mac = Some(mac.parse().map_err(|e| format!("{e}"))?);
            }
            Some(("mac", _)) => return Err("mac is given twice".to_owned()),
            Some(_) | None => {
                return Err(format!("{part:?} is not known: write NETWORK or NETWORK,mac=MAC"));
            }
        }
    }
    Ok(nic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nics_are_read_with_and_without_a_mac() {
        let plain = nic("lan").unwrap();
        assert_eq!((plain.network.unwrap().as_str(), plain.mac), ("lan", None));
        let exact = nic("lan,mac=52:54:00:12:34:56").unwrap();
        assert_eq!(exact.mac.unwrap().to_string(), "52:54:00:12:34:56");
    }

    #[test]
    fn a_misspelt_nic_is_refused() {
        for bad in [
            "",
            ",mac=52:54:00:12:34:56",
            "lan,",
            "lan,ip=10.0.0.1",
            "lan,mac",
            "lan,mac=",
            "lan,mac=01:00:5e:00:00:01",
            "lan,mac=52:54:00:12:34:56,mac=52:54:00:12:34:57",
            "../lan",
        ] {
            assert!(nic(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_config_drive_has_the_layout_that_is_named_or_the_nodes_own() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            boot: BootArgs,
        }
        let sent = |rest: &str| {
            let line = format!("boot --name a --image i --flavor f {rest}");
            let line = Line::try_parse_from(line.split_whitespace()).ok().unwrap();
            serde_json::to_value(line.boot.params(None).ok().unwrap()).unwrap()
        };
        assert!(sent("").get("config_drive").is_none());
        assert_eq!(sent("--config-drive")["config_drive"], "default");
        assert_eq!(sent("--config-drive nocloud")["config_drive"], "nocloud");
        assert_eq!(sent("--hostname web --config-drive")["hostname"], "web");
    }

    #[test]
    fn secure_boot_and_a_tpm_are_asked_for_or_refused_in_a_word() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            boot: BootArgs,
        }
        let sent = |rest: &str| {
            let line = format!("boot --name a --image i --flavor f {rest}");
            let line = Line::try_parse_from(line.split_whitespace()).ok().unwrap();
            serde_json::to_value(line.boot.params(None).ok().unwrap()).unwrap()
        };
        assert!(sent("").get("tpm").is_none());
        let all = sent("--firmware uefi --secure-boot --tpm=no --machine pc");
        assert_eq!((&all["firmware"], &all["machine"]), (&"uefi".into(), &"pc".into()));
        assert_eq!((&all["secure_boot"], &all["tpm"]), (&true.into(), &false.into()));
    }

    #[test]
    fn a_boot_needs_a_size() {
        use clap::Parser;
        let parses = |rest: &str| {
            let line = format!("ostler instance boot --name a --image i {rest}");
            crate::commands::line::Cli::try_parse_from(line.split_whitespace()).is_ok()
        };
        assert!(parses("--flavor small"));
        assert!(parses("--flavor small --memory 1G"));
        assert!(parses("--vcpus 1 --memory 512M"));
        assert!(!parses(""));
        assert!(!parses("--vcpus 1"));
        assert!(!parses("--vcpus 0 --memory 512M"));
        assert!(parses("--flavor small --volume-size 20G --delete-on-termination"));
        assert!(!parses("--flavor small --volume root"));
        assert!(!parses("--flavor small --volume-size 20G --disk 20G"));
        assert!(!parses("--flavor small --volume-pool fast"));
    }

    #[test]
    fn an_instance_boots_from_an_image_or_from_a_volume() {
        use clap::Parser;
        let parses = |rest: &str| {
            let line = format!("ostler instance boot --name a --flavor small {rest}");
            crate::commands::line::Cli::try_parse_from(line.split_whitespace()).is_ok()
        };
        assert!(parses("--image debian") && parses("--volume root"));
        assert!(!parses("") && !parses("--volume root --disk 20G"));
    }
}
