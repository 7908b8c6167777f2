//! Whether a file is what it was declared to be, and nothing worse: pure functions of its first
//! bytes and of what `qemu-img info` says.
//!
//! The header is judged here first, because `qemu-img` opens the other files an image names before
//! it tells about them. What passes has no other file to open.

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::values::Bytes;
use serde::Deserialize;

use crate::qcow2::{Header, HeaderError, MAGIC, feature};

/// Why an image must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Declared qcow2, but is not.
    #[error("it was declared qcow2, but {0}")]
    NotQcow2(HeaderError),
    /// It has the mark of something else than it was declared to be.
    #[error("it was declared {declared}, but begins like {looks}: {cure}")]
    LooksLike {
        /// The declared format.
        declared: &'static str,
        /// What it looks like.
        looks: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// Declared to be a disk of another hypervisor, but is not.
    #[error("it was declared {0}, but does not begin like that: declare the format it has")]
    NotLike(&'static str),
    /// Declared an ISO image, but is not.
    #[error(
        "it was declared iso, but has no ISO 9660 volume descriptor: declare the format it has, or \
         make an ISO 9660 image of it (xorriso, genisoimage); UDF alone is not read"
    )]
    NotIso,
    /// A vmdk that is not all in one file, or may not be.
    #[error("it is a vmdk, but not streamOptimized: qemu-img convert -O qcow2 makes a qcow2 of it")]
    VmdkType,
    /// Part of the disk would be read from other files.
    #[error("its data is in other files, all of which qemu-img convert -O qcow2 puts into one")]
    OtherFiles,
    /// What is not in it would be read from its parent.
    #[error("it is only the difference to another disk: qemu-img convert -O qcow2 merges them")]
    Parent,
    /// A field of its header that makes no sense.
    #[error("its header is damaged ({0}): fetch or copy it again")]
    Header(&'static str),
    /// What its header names is not there.
    #[error("it ends before the tables its header names: fetch or copy it again")]
    CutShort,
    /// What its tables name is not there, or named twice.
    #[error("it is cut short or corrupt, by what qemu-img check says: fetch or convert it again")]
    Corrupt,
    /// Part of the disk would be read from another file.
    #[error("it has a backing file ({name:?}): flatten it with qemu-img convert")]
    Backing {
        /// The file's name, cut short.
        name: String,
    },
    /// The data is in another file.
    #[error("its data is in another file: flatten it with qemu-img convert")]
    DataFile,
    /// Nobody has the key.
    #[error("it is encrypted")]
    Encrypted,
    /// Its own mark says so.
    #[error("it was not closed cleanly or is corrupt: repair it with qemu-img check -r all")]
    Damaged,
    /// Made by a newer program.
    #[error("it needs unknown qcow2 features ({bits:#x})")]
    Features {
        /// The unknown bits.
        bits: u64,
    },
    /// The disk inside is too large.
    #[error("the disk inside has {size}, more than the {cap} allowed")]
    VirtualSize {
        /// Its size.
        size: Bytes,
        /// The cap.
        cap: Bytes,
    },
    /// A disk of no sectors.
    #[error("the disk inside is empty")]
    NoDisk,
    /// qemu-img does not read it.
    #[error("qemu-img cannot read it: {0}")]
    Unreadable(String),
    /// qemu-img reads something else than we do.
    #[error("qemu-img and its header disagree about its {0}")]
    Disagree(&'static str),
}

/// What `qemu-img info --output json` says, as far as it matters.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Info {
    format: String,
    virtual_size: u64,
    backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
    format_specific: Option<Specific>,
}

#[derive(Debug, Deserialize)]
struct Specific {
    data: Option<SpecificData>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SpecificData {
    data_file: Option<String>,
    /// Of a vmdk.
    extents: Option<Vec<serde::de::IgnoredAny>>,
    #[serde(default)]
    corrupt: bool,
}

/// The mark of ISO 9660, in the first volume descriptor, which follows 16 sectors of 2048 bytes.
const ISO: &[u8] = b"CD001";
const ISO_AT: usize = 16 * ISO_SECTOR as usize + 1;
const ISO_SECTOR: u64 = 2048;

/// Judge a file by its first bytes: its virtual size if it passes.
pub(super) fn beginning(
    format: Format,
    file: &[u8],
    size: Bytes,
    cap: Bytes,
) -> Result<Bytes, Unfit> {
    let virtual_size = match format {
        Format::Qcow2 => qcow2(file, size)?,
        Format::Raw => {
            no_other_format(format, file)?;
            // QEMU reads a last sector that is cut short as ending in zeros.
            Bytes(size.0.next_multiple_of(512))
        }
        Format::Iso => {
            no_other_format(format, file)?;
            if !file.get(ISO_AT..).is_some_and(|file| file.starts_with(ISO)) {
                return Err(Unfit::NotIso);
            }
            Bytes(size.0.next_multiple_of(ISO_SECTOR))
        }
        Format::Kernel | Format::Ramdisk => {
            no_other_format(format, file)?;
            size
        }
        // Converted before.
        Format::Vmdk | Format::Vhdx | Format::Vdi => return Err(Unfit::NotLike(format.as_str())),
    };
    if virtual_size > cap {
        return Err(Unfit::VirtualSize { size: virtual_size, cap });
    }
    Ok(virtual_size)
}

fn qcow2(file: &[u8], size: Bytes) -> Result<Bytes, Unfit> {
    if !file.starts_with(&MAGIC) {
        no_other_format(Format::Qcow2, file)?;
    }
    let header = Header::parse(file).map_err(Unfit::NotQcow2)?;
    if let Some(backing) = header.backing {
        return Err(Unfit::Backing { name: backing.name.chars().take(80).collect() });
    }
    if header.encryption != 0 {
        return Err(Unfit::Encrypted);
    }
    if header.incompatible & feature::DATA_FILE != 0 {
        return Err(Unfit::DataFile);
    }
    if header.incompatible & (feature::DIRTY | feature::CORRUPT) != 0 {
        return Err(Unfit::Damaged);
    }
    let unknown = header.incompatible & !feature::KNOWN;
    if unknown != 0 {
        return Err(Unfit::Features { bits: unknown });
    }
    if header.tables_end > size.0 {
        return Err(Unfit::CutShort);
    }
    if header.virtual_size == Bytes(0) {
        return Err(Unfit::NoDisk);
    }
    // As a raw disk: the format counts in bytes, disks in sectors.
    let whole = header.virtual_size.0.checked_next_multiple_of(512);
    Ok(Bytes(whole.unwrap_or(u64::MAX)))
}

/// Bytes that say what a file is.
struct Mark {
    at: usize,
    bytes: &'static [u8],
    looks: &'static str,
    cure: &'static str,
    /// Kernels and ramdisks come packed like this, and are unpacked by who boots them.
    packs: bool,
}

const CONVERT: &str = "convert it: qemu-img convert -O qcow2";
const NO_DISK: &str = "it may be a page about the image: use the address of the file itself";

const fn disk(at: usize, bytes: &'static [u8], looks: &'static str) -> Mark {
    Mark { at, bytes, looks, cure: CONVERT, packs: false }
}

const fn archive(bytes: &'static [u8], looks: &'static str, cure: &'static str) -> Mark {
    Mark { at: 0, bytes, looks, cure, packs: false }
}

const fn packed(bytes: &'static [u8], looks: &'static str, cure: &'static str) -> Mark {
    Mark { at: 0, bytes, looks, cure, packs: true }
}

const MARKS: [Mark; 17] = [
    Mark { cure: "declare it qcow2", ..disk(0, &MAGIC, "a qcow2 file") },
    Mark { cure: "declare it vmdk", ..disk(0, b"KDMV", "a VMDK file") },
    disk(0, b"COWD", "a VMDK file"),
    disk(0, b"# Disk DescriptorFile", "a VMDK file"),
    Mark { cure: "declare it vhdx", ..disk(0, b"vhdxfile", "a VHDX file") },
    disk(0, b"conectix", "a VHD file"),
    disk(0, b"QED\0", "a QED file"),
    Mark { cure: "declare it vdi", ..disk(64, b"\x7f\x10\xda\xbe", "a VDI file") },
    packed(b"\x1f\x8b\x08", "a gzip file", "declare its compression, or unpack it first: gunzip"),
    packed(b"\xfd7zXZ\0", "an xz file", "declare its compression, or unpack it first: unxz"),
    packed(
        b"\x28\xb5\x2f\xfd",
        "a zstd file",
        "declare its compression, or unpack it first: unzstd",
    ),
    packed(b"BZh", "a bzip2 file", "unpack it first: bunzip2"),
    packed(b"\x04\x22\x4d\x18", "an lz4 file", "unpack it first: unlz4"),
    archive(b"PK\x03\x04", "a zip file", "unpack it first: unzip"),
    archive(b"7z\xbc\xaf\x27\x1c", "a 7z file", "unpack it first: 7z x"),
    archive(b"Rar!", "a rar file", "unpack it first: unrar x"),
    Mark { at: 257, ..archive(b"ustar", "a tar file or OVA", "unpack it first: tar -x") },
];

/// How pages and servers' messages begin, in lower case.
const PAGES: [&str; 4] = ["<!doctype", "<html", "<head", "<?xml"];

/// Raw bytes may be anything, but bytes with the mark of something else are a mistake: no such
/// disk boots, and no such kernel.
fn no_other_format(declared: Format, file: &[u8]) -> Result<(), Unfit> {
    let packs = matches!(declared, Format::Kernel | Format::Ramdisk);
    let there = |mark: &&Mark| file.get(mark.at..).is_some_and(|file| file.starts_with(mark.bytes));
    let (looks, cure) = match MARKS.iter().filter(|mark| !(mark.packs && packs)).find(there) {
        Some(mark) => (mark.looks, mark.cure),
        None if is_page(file) => ("a web page", NO_DISK),
        None => return Ok(()),
    };
    Err(Unfit::LooksLike { declared: declared.as_str(), looks, cure })
}

fn is_page(file: &[u8]) -> bool {
    let text = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file).trim_ascii_start();
    let begins = |page: &&str| {
        text.get(..page.len()).is_some_and(|text| text.eq_ignore_ascii_case(page.as_bytes()))
    };
    PAGES.iter().any(begins)
}

/// Judge what qemu-img found in a disk whose header passed.
pub(super) fn second_opinion(info: &Info, format: &str, virtual_size: Bytes) -> Result<(), Unfit> {
    let specific = info.format_specific.as_ref().and_then(|specific| specific.data.as_ref());
    if info.format != format {
        return Err(Unfit::Disagree("format"));
    }
    if info.backing_filename.is_some() {
        return Err(Unfit::Disagree("backing file"));
    }
    if info.encrypted {
        return Err(Unfit::Disagree("encryption"));
    }
    if specific.is_some_and(|data| data.data_file.is_some()) {
        return Err(Unfit::Disagree("data file"));
    }
    if specific.is_some_and(|data| data.corrupt) {
        return Err(Unfit::Damaged);
    }
    if specific.and_then(|data| data.extents.as_ref()).is_some_and(|extents| extents.len() != 1) {
        return Err(Unfit::OtherFiles);
    }
    if info.virtual_size.checked_next_multiple_of(512) != Some(virtual_size.0) {
        return Err(Unfit::Disagree("virtual size"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2;

    const CAP: Bytes = Bytes::gib(100);

    /// A header without backing file, with one field changed.
    fn header(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = qcow2::overlay(Bytes::gib(1), "/base", "raw").unwrap().pieces[0].1.clone();
        bytes[8..20].fill(0);
        change(&mut bytes);
        bytes
    }

    fn judged(change: impl FnOnce(&mut Vec<u8>)) -> Result<Bytes, Unfit> {
        beginning(Format::Qcow2, &header(change), Bytes::mib(1), CAP)
    }

    #[test]
    fn a_plain_qcow2_passes() {
        assert_eq!(judged(|_| {}), Ok(Bytes::gib(1)));
    }

    #[test]
    fn each_way_to_another_file_is_refused() {
        assert!(matches!(judged(|h| h[15] = 0x90), Err(Unfit::Backing { .. })));
        assert_eq!(judged(|h| h[79] = 4), Err(Unfit::DataFile));
    }

    #[test]
    fn what_cannot_be_read_later_is_refused_now() {
        assert_eq!(judged(|h| h[35] = 2), Err(Unfit::Encrypted));
        assert_eq!(judged(|h| h[79] = 1), Err(Unfit::Damaged));
        assert_eq!(judged(|h| h[79] = 2), Err(Unfit::Damaged));
        assert_eq!(judged(|h| h[79] = 0x20), Err(Unfit::Features { bits: 0x20 }));
        assert_eq!(judged(|h| h[24..32].fill(0)), Err(Unfit::NoDisk));
        assert!(matches!(judged(|h| h[24..32].fill(0xff)), Err(Unfit::VirtualSize { .. })));
        assert!(matches!(judged(|h| h.truncate(50)), Err(Unfit::NotQcow2(HeaderError::Short))));
        assert_eq!(judged(|h| h[36..40].fill(0xff)), Err(Unfit::CutShort));
        assert!(matches!(judged(|h| h[0] = 0), Err(Unfit::NotQcow2(HeaderError::Magic))));
    }

    #[test]
    fn a_declared_format_is_never_reinterpreted() {
        for format in [Format::Raw, Format::Kernel, Format::Ramdisk] {
            let refused = beginning(format, &header(|_| {}), Bytes::mib(1), CAP);
            assert!(matches!(refused, Err(Unfit::LooksLike { looks: "a qcow2 file", .. })));
            assert!(beginning(format, b"\x7fELF", Bytes(513), CAP).is_ok());
        }
        assert_eq!(beginning(Format::Raw, b"", Bytes(513), CAP), Ok(Bytes(1024)));
    }

    #[test]
    fn an_iso_is_what_has_the_volume_descriptor_of_one() {
        let mut iso = vec![0; 40_000];
        let judged = |iso: &[u8]| beginning(Format::Iso, iso, Bytes(40_000), CAP);
        assert_eq!(judged(&iso), Err(Unfit::NotIso));
        iso[32_769..32_774].copy_from_slice(b"CD001");
        assert_eq!(judged(&iso), Ok(Bytes(20 * 2048)));
        assert_eq!(judged(&iso[..32_773]), Err(Unfit::NotIso));
        // Another format's reader would find its own in it.
        iso[..4].copy_from_slice(b"QFI\xfb");
        assert!(matches!(judged(&iso), Err(Unfit::LooksLike { declared: "iso", .. })));
    }

    #[test]
    fn a_second_opinion_that_differs_is_heeded() {
        let info = |text: &str| serde_json::from_str::<Info>(text).unwrap();
        let good = info(r#"{"format":"qcow2","virtual-size":1024,"more":1}"#);
        assert_eq!(second_opinion(&good, "qcow2", Bytes(1024)), Ok(()));
        assert!(second_opinion(&good, "qcow2", Bytes(2048)).is_err());
        for bad in [
            r#"{"format":"raw","virtual-size":1024}"#,
            r#"{"format":"qcow2","virtual-size":1024,"backing-filename":"/etc/shadow"}"#,
            r#"{"format":"qcow2","virtual-size":1024,"encrypted":true}"#,
            r#"{"format":"qcow2","virtual-size":1024,
                "format-specific":{"type":"qcow2","data":{"data-file":"x"}}}"#,
            r#"{"format":"qcow2","virtual-size":1024,
                "format-specific":{"type":"qcow2","data":{"corrupt":true}}}"#,
        ] {
            assert!(second_opinion(&info(bad), "qcow2", Bytes(1024)).is_err(), "{bad}");
        }
    }
}
