//! `ostler image ...`

mod prune;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use ostler_protocol::rpc::guest::work::{Data, PIECE_MAX};
use ostler_protocol::rpc::host::Nothing;
use ostler_protocol::rpc::image::{
    Compression, Export, Format, Image, Import, Properties, Select, UPLOAD, Upload,
};
use ostler_protocol::rpc::method::{ImageExport, ImageImport, ImageList, ImageRemove, ImageUpload};
use ostler_protocol::rpc::values::{Bytes, Name, Sha256, Sha512, UploadId};
use serde_json::Value;

use self::prune::PruneArgs;
use super::guest::copy::bar;
use super::metadata::{Item, items};
use super::{Followed, Session};
use crate::args::Changing;
use crate::checksums::{self, Listed, Unlisted};
use crate::failure::{Cause, Failure};
use crate::reply::Shown;
use crate::size;
use crate::target::Target;

/// Standard input, on the command line.
const STDIN: &str = "-";

/// As much of a list of hashes is read: some hundred thousand lines.
const LIST_MOST: u64 = 16 << 20;

/// What can be done with images.
#[derive(Subcommand)]
pub(crate) enum ImageCommand {
    /// Fetch an image into the node's cache and check it
    Import(Box<ImportArgs>),
    /// Write an image to a file of the node, or send it to a server
    Export {
        /// The image
        name: Name,
        /// A file to be made on the node, in a directory that its configuration allows, or an http or
        /// https URL, for a PUT
        #[arg(long, value_name = "PATH|URL")]
        to: String,
        #[command(flatten)]
        changing: Changing,
    },
    /// List the images in the node's cache
    List,
    /// Remove the images that nothing is made from, those first that were used last the longest ago
    Prune(PruneArgs),
    /// Remove an image that no instance is made from
    Remove {
        /// The image
        name: Name,
        #[command(flatten)]
        changing: Changing,
    },
}

/// An image to import.
#[derive(Args)]
pub(crate) struct ImportArgs {
    /// Its name on this node
    name: Name,
    /// A file on the node, or an http or https URL; - sends standard input to the node
    #[arg(long, value_name = "PATH|URL|-")]
    source: String,
    /// Its format, when it is unpacked; it is never guessed. The node makes vmdk (streamOptimized),
    /// vhdx and vdi into qcow2; an iso is a CD-ROM to its guests
    #[arg(long, value_parser = format_parser())]
    format: Format,
    /// How the file is compressed; the node unpacks it. Without it, a disk is taken as its name
    /// ends: .gz, .xz or .zst
    #[arg(long, value_parser = compression_parser())]
    compression: Option<Declared>,
    /// The SHA-256 hash that the file must have, before it is unpacked
    #[arg(long, value_name = "DIGEST")]
    sha256: Option<Sha256>,
    /// The SHA-512 hash that the file must have, before it is unpacked
    #[arg(long, value_name = "DIGEST")]
    sha512: Option<Sha512>,
    /// A list of hashes (SHA256SUMS, SHA512SUMS) with a line for the source's file name; - reads
    /// standard input. It is a file of this machine: the command does not fetch it from a URL
    #[arg(long, value_name = "PATH|-", conflicts_with_all = ["sha256", "sha512"])]
    checksum_file: Option<PathBuf>,
    /// Boot instances directly with this image of format kernel
    #[arg(long, value_name = "IMAGE")]
    kernel: Option<Name>,
    /// The image of format ramdisk that goes with the kernel
    #[arg(long, value_name = "IMAGE", requires = "kernel")]
    ramdisk: Option<Name>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", requires = "kernel", allow_hyphen_values = true)]
    command_line: Option<String>,
    /// What instances are made with, by glance's keys, such as hw_firmware_type=uefi; repeat for
    /// more
    #[arg(long, value_name = "KEY=VALUE")]
    property: Vec<Item>,
    /// The smallest root disk an instance needs, as in 20G
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    min_disk: Option<Bytes>,
    /// The least memory an instance needs, as in 512M
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    min_memory: Option<Bytes>,
    #[command(flatten)]
    changing: Changing,
}

impl ImageCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Import(args) => import(session, *args).await,
            Self::Export { name, to, changing } => export(session, name, &to, &changing).await,
            Self::List => {
                let list: Vec<Shown<Image>> =
                    session.client.ask::<ImageList, _>(&Nothing {}).await?;
                session.output.result(&list)
            }
            Self::Prune(args) => args.run(session).await,
            Self::Remove { name, changing } => {
                let params = Select { name };
                match session.follow::<ImageRemove>(&params, &changing).await? {
                    Followed::Accepted(operation) => session.output.result(&operation),
                    Followed::Done(operation) => {
                        let sentence = format!("image {} is removed", params.name);
                        session.output.sentence(&operation, &sentence)
                    }
                }
            }
        }
    }
}

async fn import(session: &mut Session, args: ImportArgs) -> Result<(), Failure> {
    let properties = properties(&args)?;
    let ImportArgs { name, source, format, .. } = args;
    let is_input = source == STDIN;
    if is_input && args.checksum_file.as_deref() == Some(Path::new(STDIN)) {
        let message = "standard input can be the image or the list of hashes, not both";
        return Err(Cause::usage(message, None).into());
    }
    let source = match is_input {
        true => source,
        false => path_on_node(&source, session.client.target())?,
    };
    let Listed { sha256, sha512 } = match args.checksum_file {
        Some(list) => listed(&list, file_name(&source))?,
        None => Listed { sha256: args.sha256, sha512: args.sha512 },
    };
    let compression = match args.compression {
        Some(Declared(compression)) => compression,
        None => compression_by_name(&source, format),
    };
    // Last: what is wrong with the command is told before anything is sent.
    let source = if is_input { upload(session).await? } else { source };
    let params = Import { name, source, format, compression, sha256, sha512, properties };
    match session.follow::<ImageImport>(&params, &args.changing).await? {
        Followed::Accepted(operation) => session.output.result(&operation),
        Followed::Done(operation) => {
            let images: Vec<Shown<Image>> = session.client.ask::<ImageList, _>(&Nothing {}).await?;
            match images.iter().find(|image| image.is_named(&params.name)) {
                Some(image) => session.output.result(image),
                // Somebody else removed it already; that it was imported is still true.
                None => session.output.result(&operation),
            }
        }
    }
}

async fn export(
    session: &mut Session,
    name: Name,
    to: &str,
    changing: &Changing,
) -> Result<(), Failure> {
    let to = path_on_node(to, session.client.target())?;
    // The query of a URL may be a signature.
    let shown = match to.split_once("://").and(to.split_once('?')) {
        Some((plain, _)) => plain.to_owned(),
        None => to.clone(),
    };
    let params = Export { name, to };
    match session.follow::<ImageExport>(&params, changing).await? {
        Followed::Accepted(operation) => session.output.result(&operation),
        Followed::Done(operation) => {
            let sentence = format!("image {} is exported to {shown}", params.name);
            session.output.sentence(&operation, &sentence)
        }
    }
}

/// Send standard input to the node: what it is there as a source.
async fn upload(session: &mut Session) -> Result<String, Failure> {
    let id = UploadId::random();
    let bar = bar(session, None);
    let mut offset = 0;
    loop {
        let mut piece = Vec::with_capacity(PIECE_MAX);
        std::io::stdin()
            .take(PIECE_MAX as u64)
            .read_to_end(&mut piece)
            .map_err(|source| Cause::Local { what: "read standard input".to_owned(), source })?;
        let length = piece.len() as u64;
        let piece = Upload { id, offset, data: Data(piece) };
        session.client.act::<ImageUpload>(&piece, None, Duration::ZERO).await?;
        offset += length;
        bar.set_position(offset);
        if length < PIECE_MAX as u64 {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(format!("{UPLOAD}{id}"))
}

/// The image's properties: those of the options, and those by glance's keys.
fn properties(args: &ImportArgs) -> Result<Properties, Cause> {
    let given = items(args.property.clone(), Value::String)?;
    let read = |given: BTreeMap<String, Value>| {
        serde_json::from_value::<Properties>(Value::Object(given.into_iter().collect()))
    };
    // One by one, to name the one that is wrong.
    for (key, value) in &given {
        read([(key.clone(), value.clone())].into())
            .map_err(|error| Cause::usage(format!("--property {key}: {error}"), None))?;
    }
    let given = read(given).map_err(|error| Cause::usage(format!("--property: {error}"), None))?;
    Ok(Properties {
        kernel: args.kernel.clone().or(given.kernel),
        ramdisk: args.ramdisk.clone().or(given.ramdisk),
        command_line: args.command_line.clone().or(given.command_line),
        min_memory: args.min_memory,
        min_disk: args.min_disk,
        ..given
    })
}

/// A place as the node understands it: a URL as it is, a path made absolute, which it can be only
/// where the node is this machine.
fn path_on_node(place: &str, target: &Target) -> Result<String, Cause> {
    match place.split_once("://") {
        Some((scheme, _)) => match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => return Ok(place.to_owned()),
            _ => {
                let message = format!("an image cannot be at a {scheme} URL");
                return Err(Cause::usage(message, "give a path, or http or https".to_owned()));
            }
        },
        None if place.starts_with('/') => return Ok(place.to_owned()),
        None => {}
    }
    match target {
        Target::Broker(_) => Err(Cause::usage(
            "a relative path means nothing on a node behind a broker",
            "give the absolute path of the file on that node".to_owned(),
        )),
        Target::Socket(_) => {
            let path = std::path::absolute(place)
                .map_err(|error| Cause::Local { what: format!("find {place}"), source: error })?;
            let not_text = || Cause::usage("the image's path is not UTF-8 text", None);
            path.into_os_string().into_string().map_err(|_| not_text())
        }
    }
}

/// What a list of hashes says of a file.
fn listed(list: &Path, name: &str) -> Result<Listed, Cause> {
    let mut text = Vec::new();
    let read = if list.as_os_str() == STDIN {
        std::io::stdin().take(LIST_MOST).read_to_end(&mut text)
    } else {
        std::fs::File::open(list).and_then(|open| open.take(LIST_MOST).read_to_end(&mut text))
    };
    read.map_err(|source| Cause::Local { what: format!("read {}", list.display()), source })?;
    let found = checksums::digests_of(&String::from_utf8_lossy(&text), name);
    found.map_err(|unlisted| {
        let list = list.display();
        let message = match unlisted {
            Unlisted::Missing => format!("{list} has no SHA-256 or SHA-512 hash of {name:?}"),
            Unlisted::Ambiguous => format!("{list} has several hashes of {name:?}, which differ"),
        };
        Cause::usage(message, "give the hash itself: --sha256 or --sha512".to_owned())
    })
}

/// A compression as declared; none if that was declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Declared(Option<Compression>);

/// What a source's name declares. Kernels and ramdisks are often compressed themselves, and are
/// booted so: they are unpacked only if that is asked for.
fn compression_by_name(source: &str, format: Format) -> Option<Compression> {
    const ENDINGS: [(&str, Compression); 3] =
        [(".gz", Compression::Gzip), (".xz", Compression::Xz), (".zst", Compression::Zstd)];
    let name = file_name(source).to_ascii_lowercase();
    let found = ENDINGS.into_iter().find(|(ending, _)| name.ends_with(ending));
    found.filter(|_| format.is_disk()).map(|(_, compression)| compression)
}

/// The name of the file that a source is.
fn file_name(source: &str) -> &str {
    let path = match source.split_once("://") {
        Some((_, rest)) => rest.split(['?', '#']).next().unwrap_or_default(),
        None => source,
    };
    path.rsplit('/').next().unwrap_or_default()
}

/// Every compression, as a word of the command line.
fn compression_parser() -> impl TypedValueParser<Value = Declared> {
    const ALL: [Compression; 3] = [Compression::Gzip, Compression::Xz, Compression::Zstd];
    let words = ALL.map(Compression::as_str).into_iter().chain(["none"]);
    PossibleValuesParser::new(words)
        .map(|word| Declared(ALL.into_iter().find(|compression| compression.as_str() == word)))
}

/// Every format, as a word of the command line.
fn format_parser() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::as_str)).try_map(|word| {
        Format::ALL.into_iter().find(|format| format.as_str() == word).ok_or("not a format")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_becomes_absolute() {
        let here = Target::Socket("/s".into());
        let path = path_on_node("a.img", &here).unwrap();
        assert!(path.starts_with('/') && path.ends_with("/a.img"), "{path}");
        for source in ["/a.img", "https://example.org/a.img", "HTTP://example.org/a.img"] {
            assert_eq!(path_on_node(source, &here).unwrap(), source);
        }
    }

    #[test]
    fn the_command_declares_the_compression_that_a_disks_name_ends_with() {
        let by_name = |source| compression_by_name(source, Format::Raw);
        assert_eq!(by_name("/srv/images/disk.raw.GZ"), Some(Compression::Gzip));
        assert_eq!(by_name("https://h/a/disk.img.xz?sig=a/b.zst#c"), Some(Compression::Xz));
        assert_eq!(by_name("/a?b/disk.zst"), Some(Compression::Zstd));
        for source in ["/srv/gz", "https://h/a.xz/disk.raw", "/a.gz/", "/a.tgz"] {
            assert_eq!(by_name(source), None, "{source}");
        }
        assert_eq!(compression_by_name("/boot/initrd.gz", Format::Ramdisk), None);
        assert_eq!(compression_by_name("/boot/vmlinux.gz", Format::Kernel), None);
    }

    #[test]
    fn properties_go_by_glances_keys_and_others_are_refused_by_name() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            import: ImportArgs,
        }
        let read = |rest: &str| {
            let line = format!("import a --source /a --format raw {rest}");
            properties(&Line::try_parse_from(line.split_whitespace()).ok().unwrap().import)
        };
        let given =
            read("--property hw_firmware_type=uefi --property hw_tpm_version=2.0 --min-disk 1G");
        let given = serde_json::to_value(given.ok().unwrap()).unwrap();
        let said = serde_json::json!({
            "hw_firmware_type": "uefi", "hw_tpm_version": "2.0", "min_disk": 1u64 << 30,
        });
        assert_eq!(given, said);
        for (wrong, named) in [
            ("--property hw_firmware_type=efi", ["hw_firmware_type", "`bios` or `uefi`"]),
            ("--property hw_firmware=uefi", ["`hw_firmware`", "`hw_firmware_type`"]),
            ("--property hw_vif_model=ne2k", ["hw_vif_model", "`e1000e`"]),
        ] {
            let Err(Cause::Usage { message, .. }) = read(wrong) else { panic!("{wrong}") };
            assert!(named.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for source in ["ftp://h/a", "file:///a"] {
            assert!(path_on_node(source, &Target::Socket("/s".into())).is_err());
        }
    }
}
